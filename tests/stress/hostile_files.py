"""Files that somebody might hand over, and commands that read them: odd JSON, manifests that contradict themselves,
YAML without bounds. tests/stress/hostile.py runs them.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from epochal.common.hashing import digest
from epochal.shards.manifest import _text
from epochal.tests.stress import world as w
from epochal.tests.support.code import pickled

REFUSED, ANY = (1, 2), (0, 1, 2)
Plant = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A command, what is planted in its folder before, and the statuses that it may end with."""

    name: str
    words: list[str]
    plant: Plant
    allowed: tuple[int, ...] = REFUSED


DEEP = 100_000
VALUES = {
    "deep": b"[" * DEEP,
    "deep and closed": b"[" * DEEP + b"]" * DEEP,
    "deep mappings": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "nan": b"NaN",
    "infinite": b"-Infinity",
    "overflow": b"1e999999999",
    "2^63": b"9223372036854775808",
    "digits": b"9" * 5000,
    "surrogate": b'"\\ud800"',
    "twice": b'{"a": 1, "a": 2}',
    "many": b"[" + b"{}," * 3_000_000 + b"{}]",
    "null": b"null",
    "no text": b"\xff\xfe\x00",
}
"""JSON that is odd, or none."""

FILES: dict[str, Callable[[Path], object]] = {
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "folder": lambda p: (p.unlink(), p.mkdir()),
    "pipe": lambda p: (p.unlink(), os.mkfifo(p)),
    "device": lambda p: (p.unlink(), p.symlink_to("/dev/zero")),
    "circle": lambda p: (p.unlink(), p.symlink_to(p.name)),
    "pickle": lambda p: p.write_bytes(pickled(p.parents[len(p.parents) - 1] / "tmp/never")),
}
"""What a file may be replaced by."""

READERS: dict[str, list[list[str]]] = {
    f"{w.POOL}/manifest.json": [["show", w.POOL], ["verify", w.POOL], ["carve", w.POOL, "--unique-tokens", "100"]],
    f"{w.POOL}/index.json": [["plan", w.POOL, "--epochs", "2", "--batch-tokens", "64"], ["verify", w.POOL]],
    f"{w.VIEW}/manifest.json": [["export", w.VIEW, "--format", "bin", "--out", "new"], w.TRAIN],
    f"{w.COPY}/index.json": [["order", w.COPY, "--count", "3"], ["verify", w.COPY]],
    "exports/parquet/manifest.json": [["verify", "exports/parquet"]],
    f"{w.STOPPED}/run.json": [w.TRAIN],
    f"{w.STOPPED}/hashes.json": [w.TRAIN],
    f"{w.STOPPED}/environment.json": [w.TRAIN],
    f"{w.WHOLE}/result.json": [["train", "whole.yaml", "autoresume=true"]],
    f"{w.WHOLE}/receipt.json": [["audit", f"{w.WHOLE}/receipt.json"]],
    f"{w.MODEL}/config.json": [
        ["generate", w.MODEL, "--max-new-tokens", "2"],
        ["export-model", w.MODEL, "--out", "hf"],
    ],
    f"{w.MODEL}/hashes.json": [["generate", w.MODEL, "--max-new-tokens", "2"]],
    f"{w.MODEL}/tokenizer.json": [["generate", w.MODEL, "x", "--max-new-tokens", "2"]],
    "tokenizer.json": [["build", "build.yaml", "out=new", "--quiet"]],
    "hellaswag.jsonl": [["evaluate", w.MODEL, "--tasks", "hellaswag", "--data", ".", "--out", "new"]],
    "text.jsonl": [["build", "build.yaml", "out=new", "--quiet"]],
    "exports/hf/state.json": [["build", "foreign.yaml", "sources.0.path=exports/hf", "sources.0.format=hf"]],
    "home/epochal/tokens.json": [["register", w.WHOLE, "--service", "http://127.0.0.1:9"]],
    "index.json": [["build", "foreign.yaml", "sources.0.path=.", "sources.0.format=mds"]],
}
"""Each JSON file that is read, and commands that read it."""

HARMLESS = {
    (f"{w.STOPPED}/environment.json", "twice"),
}
"""Files and what they may be replaced by without a word."""


def write(path: str, data: bytes) -> Plant:
    def plant(root: Path) -> None:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    return plant


def _in_place(path: str, change: Callable[[Path], object]) -> Plant:
    def plant(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if not (root / path).exists():
            (root / path).write_bytes(b"{}")
        change(root / path)

    return plant


def _inside(path: str, value: bytes) -> Plant:
    """Put a value under a key of its own, the first of the file."""

    def plant(root: Path) -> None:
        target = root / path
        text = target.read_bytes() if target.exists() else b"{}"
        begin = text.find(b"{") + 1
        more = b'"odd": ' + value + (b"" if text[begin:].lstrip().startswith(b"}") else b", ")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text[:begin] + more + text[begin:])

    return plant


def odd_json() -> Iterator[Case]:
    """Yield every odd JSON value as each file that is read and within it, and each file that is no file."""
    for path, commands in READERS.items():
        for words in commands:
            rows = path.endswith("jsonl")
            for name, value in VALUES.items():
                allowed = ANY if rows or (path, name) in HARMLESS else REFUSED
                yield Case(f"{path} is {name}", words, write(path, value), allowed)
                yield Case(f"{path} holds {name}", words, _inside(path, value), ANY)
            for name, change in FILES.items():
                yield Case(f"{path}: {name}", words, _in_place(path, change), ANY)


def odd_manifests() -> Iterator[Case]:
    """Yield manifests whose checksum is right and whose numbers are not what is there."""
    for key, value in {
        "shards": 10**7,
        "samples": 2**62,
        "tokens": 10**18,
        "seq_len": 2**40,
        "content": [{"xxh64": "0" * 16, "samples": 1}] * 200_000,
        "files": {f"f{i}": {"bytes": 0, "xxh64": "0" * 16} for i in range(200_000)},
    }.items():
        for words in (*READERS[f"{w.POOL}/manifest.json"], READERS[f"{w.POOL}/index.json"][0]):

            def plant(root: Path, key: str = key, value: object = value) -> None:
                path = root / w.POOL / "manifest.json"
                body = json.loads(path.read_text())
                body.pop("checksum")
                body[key] = value
                path.write_text(_text(body | {"checksum": digest(body)}))

            yield Case(f"manifest with {key}", words, plant, ANY if words[0] == "show" else REFUSED)


def _chain(first: bytes, form: bytes, n: int) -> bytes:
    """Return lines that each mention the one before twice: `form` has I for its number, J for that one's."""
    return first + b"".join(form.replace(b"I", b"%d" % i).replace(b"J", b"%d" % (i - 1)) for i in range(1, n))


YAML = {
    "laughs": b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 10)) for c in range(98, 123)),
    "laughs of 50 kB": _chain(b"a0: &a0 [x,x]\n", b"aI: &aI [*aJ,*aJ]\n", 1900),
    "merges": _chain(b"a0: &a0 {x: 1}\n", b"aI: &aI {<<: [*aJ, *aJ]}\n", 40),
    "circle": b"a: &a [*a]\n",
    "circle of mappings": b"a: &a {b: *a}\n",
    "deep": b"a: " + b"[" * 50_000,
    "deep blocks": b"".join(b" " * i + b"a:\n" for i in range(3000)),
    "code": b"a: !!python/object/apply:os.system ['touch ran']\n",
    "code in a name": b"? !!python/object/apply:os.system ['touch ran']\n: 1\n",
    "references": _chain(b"a0: xxxxxxxxxx\n", b"aI: ${aJ}${aJ}\n", 40),
    "references to lists": _chain(b"a0: [x,x]\n", b"aI: ['${aJ}','${aJ}']\n", 40),
    "reference to itself": b"a: ${a}\n",
    "large": b"a: [" + b"x," * 2_000_000 + b"x]\n",
    "huge number": b"seed: 1e999999999\n",
    "digits": b"seed: " + b"9" * 5000 + b"\n",
    "base 60": b"seed: " + b"1:" * 50_000 + b"1\n",
    "no text": b"\xff\xfe\xfd",
    "null bytes": b"a: \x00\n",
    "twice": b"seed: 1\nseed: 2\n",
    "date": b"seed: 2001-99-99\n",
    "base64": b"seed: !!binary x\n",
    "pipe": b"",
}
"""YAML that nobody writes."""


def odd_yaml() -> Iterator[Case]:
    """Yield every odd file as each kind of configuration."""
    for command in (["build"], ["train"], ["crossover"], ["plan", "--batch-tokens", "64"], ["flops"]):
        for name, text in YAML.items():
            words = [command[0], "odd.yaml", *command[1:]]
            plant = _in_place("odd.yaml", FILES["pipe"]) if name == "pipe" else write("odd.yaml", text)
            yield Case(f"YAML of {name}", words, plant)
    for name in ("laughs", "deep"):
        flow = (
            b"{%s}" % b", ".join(YAML[name].replace(b"a: [", b"[").splitlines()) if name == "laughs" else b"[" * 30_000
        )
        yield Case(f"override of {name}", ["train", "stopped.yaml", f"variables={flow.decode()}"], lambda root: None)
