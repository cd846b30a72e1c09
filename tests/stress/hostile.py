"""Hostile inputs against every command: `python -m epochal.tests.stress.hostile [--only WORD]`.

Each case is one file or option that somebody might hand over, odd, damaged, endless or planted with code, and a command
that reads it. The command must end by itself, soon and in bounded memory, with a status that is listed here, one line
of our own words, and nothing outside its folder touched.
"""

import argparse
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from epochal.common.hashing import digest
from epochal.shards.manifest import _text
from epochal.tests.stress import world as w
from epochal.tests.support.code import pickled

REFUSED, ANY = (1, 2), (0, 1, 2)
SLOW, LARGE = 8.0, 600 << 20
"""Seconds and bytes that no refusal takes, on a machine that does other work too."""

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


def _write(path: str, data: bytes) -> Plant:
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
    """Put a value under a key of its own, and in place of the first number, with a right checksum where there is one."""

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
                yield Case(f"{path} is {name}", words, _write(path, value), allowed)
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


YAML = {
    "laughs": b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 10)) for c in range(98, 123)),
    "laughs of 50 kB": b"a0: &a0 [x,x]\n"
    + b"".join(b"a%d: &a%d [*a%d,*a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 1900)),
    "merges": b"a0: &a0 {x: 1}\n"
    + b"".join(b"a%d: &a%d {<<: [*a%d, *a%d]}\n" % (i, i, i - 1, i - 1) for i in range(1, 40)),
    "circle": b"a: &a [*a]\n",
    "circle of mappings": b"a: &a {b: *a}\n",
    "deep": b"a: " + b"[" * 50_000,
    "deep blocks": b"".join(b" " * i + b"a:\n" for i in range(3000)),
    "code": b"a: !!python/object/apply:os.system ['touch ran']\n",
    "code in a name": b"? !!python/object/apply:os.system ['touch ran']\n: 1\n",
    "references": b"a0: xxxxxxxxxx\n" + b"".join(b"a%d: ${a%d}${a%d}\n" % (i, i - 1, i - 1) for i in range(1, 40)),
    "references to lists": b"a0: [x,x]\n"
    + b"".join(b"a%d: ['${a%d}','${a%d}']\n" % (i, i - 1, i - 1) for i in range(1, 40)),
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
            plant = _in_place("odd.yaml", FILES["pipe"]) if name == "pipe" else _write("odd.yaml", text)
            yield Case(f"YAML of {name}", words, plant)
    for name in ("laughs", "deep"):
        flow = (
            b"{%s}" % b", ".join(YAML[name].replace(b"a: [", b"[").splitlines()) if name == "laughs" else b"[" * 30_000
        )
        yield Case(f"override of {name}", ["train", "stopped.yaml", f"variables={flow.decode()}"], lambda root: None)


NUMBERS = ["1e999999999", "1e400", "nan", "inf", "-inf", "-1", "0", "1e-999999999", "1e12", "10" + "0" * 30, "9" * 5000]
NUMBERS += [str(2**63), str(2**64), "0x10", "1_0", "٣", "1e5000", "1" + "0" * 17, "NaNep", ".5"]
OPTIONS = [
    ["plan", w.POOL, "--batch-tokens", "64", "--epochs", "#"],
    ["plan", w.POOL, "--batch-tokens", "64", "--epochs", "#", "--policy", "global"],
    ["plan", w.POOL, "--batch-tokens", "64", "--total-tokens", "#"],
    ["plan", w.POOL, "--batch-tokens", "64", "--total-tokens", "#", "--policy", "global"],
    ["plan", w.POOL, "--batch-tokens", "#", "--epochs", "2"],
    ["plan", w.POOL, "--batch-tokens", "64", "--epochs", "2", "--params", "#"],
    ["plan", w.POOL, "--batch-tokens", "64", "--epochs", "2", "--seed", "#"],
    ["plan", "mixture.yaml", "--batch-tokens", "#"],
    ["order", w.POOL, "--start", "#", "--count", "2"],
    ["order", w.POOL, "--count", "#"],
    ["order", w.POOL, "--count", "2", "--epochs", "#", "--policy", "global"],
    ["carve", w.POOL, "--out", "new", "--unique-tokens", "#"],
    ["carve", w.POOL, "--out", "new", "--unique-tokens", "100", "--replicate", "#"],
    ["export", w.VIEW, "--format", "bin", "--out", "new", "--order", "--passes", "#"],
    ["export", w.VIEW, "--format", "bin", "--out", "new", "--order", "--seed", "#"],
    ["generate", w.MODEL, "--max-new-tokens", "#"],
    ["generate", w.MODEL, "--max-new-tokens", "2", "--temperature", "#"],
    ["generate", w.MODEL, "--max-new-tokens", "2", "--temperature", "1", "--top-p", "#"],
    ["generate", w.MODEL, "--max-new-tokens", "2", "--seed", "#"],
    ["evaluate", w.MODEL, "--loss", w.VALIDATION, "--out", "new", "--loss-samples", "#"],
    ["evaluate", w.MODEL, "--loss", w.VALIDATION, "--out", "new", "--batch-tokens", "#"],
    ["evaluate", w.MODEL, "--tasks", "hellaswag", "--data", ".", "--out", "new", "--limit", "#"],
    ["flops", "tiny-ar", "--seq-len", "#"],
    ["flops", "tiny-ar", "--tokens", "#"],
    ["flops", "tiny-ar", "--block", "#"],
    ["flops", "tiny-ar", "model.layers=#"],
    *[
        ["train", "new.yaml", f"{key}=#"]
        for key in (
            "seed",
            "max_duration",
            "global_train_batch_size",
            "device_train_microbatch_size",
            "optimizer.lr",
            "optimizer.eps",
            "optimizer.weight_decay",
            "scheduler.t_warmup",
            "eval_interval",
            "eval_loader.dataset.samples",
            "eval_loader.noise_samples",
            "model.hidden",
            "model.layers",
            "model.ffn",
            "model.rope_base",
            "model.init_std",
            "model.norm_eps",
            "save_num_checkpoints_to_keep",
            "train_loader.num_workers",
            "train_loader.dataset.cache_limit",
            "algorithms.gradient_clipping.clipping_threshold",
            "dist_timeout",
        )
    ],
    ["train", "new.yaml", "max_duration=#ep"],
    ["train", "new.yaml", "eval_interval=#ba"],
    ["train", "new.yaml", "scheduler.t_warmup=#dur"],
    *[
        ["build", "build.yaml", "out=new", "--quiet", f"{key}=#"]
        for key in (
            "seq_len",
            "validation_tokens",
            "samples_per_shard",
            "tasks",
            "workers",
            "seed",
            "name",
            "max_tokens",
        )
    ],
    ["crossover", "crossover-cpu", "--plan", f"pool={w.POOL}", "total_tokens=#"],
    ["crossover", "crossover-cpu", "--plan", f"pool={w.POOL}", "unique_tokens=[#]"],
    ["serve", "--root", "artifacts", "--port", "#"],
    ["seen", "--document", "x", "--position", "#", "--service", "http://127.0.0.1:9"],
]
"""Every option and setting that takes a number, which `#` stands for."""


def odd_numbers() -> Iterator[Case]:
    """Yield every odd number as each option. What is a sensible number for one is not for another, so some succeed."""
    for words in OPTIONS:
        for number in NUMBERS:
            if words[0] == "serve" and number in ("0", "1_0"):  # it would serve
                continue
            body = ["--" + number if word == "--#" else word.replace("#", number) for word in words]
            yield Case(f"{words[0]} {' '.join(words[2:])} of {number[:20]}", body, _new_run, ANY)


def _new_run(root: Path) -> None:
    text = (root / "stopped.yaml").read_text().replace(w.STOPPED, "runs/new").replace("2ep", "0.2ep")
    (root / "new.yaml").write_text(text)


def _member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def odd_tars() -> Iterator[Case]:
    """Yield tar files with members that are no files, or lie elsewhere, where a build reads samples."""
    kinds = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    for name, kind in (kinds | {"folder": tarfile.DIRTYPE, "unknown": b"Z", "sparse": tarfile.GNUTYPE_SPARSE}).items():
        for place in ("000000000.npy", "../../outside/x.npy", "/tmp/never.npy"):

            def plant(root: Path, kind: bytes = kind, place: str = place) -> None:
                path = next((root / "exports/wds").glob("*.tar"))
                data = io.BytesIO()
                with tarfile.open(path) as old, tarfile.open(fileobj=data, mode="w") as new:
                    new.addfile(_member(place, kind, "/etc/passwd"))
                    for member in old:
                        new.addfile(member, old.extractfile(member))
                (root / "foreign").mkdir()
                (root / "foreign/shard-000000.tar").write_bytes(data.getvalue())

            words = ["build", "foreign.yaml", "sources.0.path=foreign", "sources.0.format=wds"]
            yield Case(f"tar with a {name} as {place}", words, plant, ANY)


def odd_paths() -> Iterator[Case]:
    """Yield names that hold what a terminal obeys, or no path at all."""
    for name in (
        "a\x1b]0;x\x07",
        "a\nb",
        "\u202eb",
        "x" * 300,
        "\udcff",
        "-",
        "",
        "~nobody/x",
        "file:///x",
        "s3://",
        "x://y",
    ):
        for words in (
            ["show", "#"],
            ["verify", "#"],
            ["audit", "#"],
            ["train", "#"],
            ["build", "#"],
            ["generate", "#"],
        ):
            yield Case(f"path {name[:10]!r}", [word.replace("#", name) for word in words], lambda root: None)


FAMILIES = (odd_json, odd_manifests, odd_yaml, odd_numbers, odd_tars, odd_paths)


def prepare(root: Path) -> None:
    """Add to a world what some cases need."""
    w._write_yaml(
        str(root / "foreign.yaml"),
        {
            "name": "foreign",
            "out": "new",
            "seq_len": 64,
            "tasks": 1,
            "workers": 1,
            "validation_tokens": 0,
            "tokenizer": {"name": "tokenizer.json"},
            "sources": [{"name": "s", "path": "???", "tokenized": {}}],
        },
    )


def attempt(case: Case, template: Path, folder: Path) -> str | None:
    """Run a case in a fresh copy of a world; return what is wrong, None for nothing."""
    root = w.clone(template, folder / "inner/world")
    canary = folder / "outside"
    shutil.rmtree(canary, ignore_errors=True)
    canary.mkdir()
    case.plant(root)
    if root.joinpath("home/epochal/tokens.json").is_file():
        root.joinpath("home/epochal/tokens.json").chmod(0o600)
    ended = w.run_bounded(case.words, root)
    fault = ended.fault(case.allowed)
    if fault is None and ended.status and ended.seconds > SLOW:
        fault = f"refused after {ended.seconds:.1f} s"
    if fault is None and ended.status and ended.bytes > LARGE:
        fault = f"took {ended.bytes >> 20} MB"
    if (root / "ran").exists() or Path("/tmp/never").exists():
        fault = "planted code was run"
    if list(canary.iterdir()) or sorted(p.name for p in folder.iterdir()) != ["inner", "outside"]:
        fault = "files were written outside"
    return fault


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases with this in their names")
    parser.add_argument("--family", choices=[f.__name__ for f in FAMILIES])
    args = parser.parse_args()
    w.warm_up()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        template, folder = Path(name, "template"), Path(name, "cases")
        template.mkdir()
        folder.mkdir()
        w.make_world(template)
        prepare(template)
        for family in FAMILIES:
            for case in family() if args.family in (None, family.__name__) else ():
                if args.only in case.name:
                    counts["inputs"] += 1
                    if fault := attempt(case, template, folder):
                        counts["faults"] += 1
                        print(f"{case.name} | {' '.join(case.words)[:120]!r}: {fault}", flush=True)
    print(f"{counts['inputs']:,} hostile inputs, {counts['faults']:,} not refused as they should be")
    sys.exit(bool(counts["faults"]))


if __name__ == "__main__":
    main()
