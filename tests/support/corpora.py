"""Small corpora of real text (this Python's standard library), planted with what a build must find."""

import gzip
import json
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

HELLASWAG = {
    "query": "Removing ice from car: Then, the man writes over the snow covering the window of a car, and a woman "
    "wearing winter clothes smiles. then",
    "choices": [
        ", the man adds wax to the windshield and cuts it.",
        ", a person board a ski lift, while two men supporting the head of the person wearing winter clothes snow as "
        "the we girls sled.",
        ", the man puts on a christmas coat, knitted with netting.",
        ", the man continues removing the snow on his car.",
    ],
    "gold": 3,
}
"""Item 0 of HellaSwag's validation set (MIT)."""


def real_documents(n: int, chars: int = 2500) -> list[str]:
    """Return `n` distinct pieces of the standard library's source, each of about `chars` characters."""
    pieces = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        pieces += [text[i : i + chars].strip() for i in range(0, len(text) - chars, chars)]
        if len(pieces) >= n:
            return pieces[:n]
    raise AssertionError("the standard library is larger than any test needs")


@dataclass
class Planted:
    """Rows of a corpus and what was planted in it: ids of documents by fate."""

    lines: list[bytes] = field(default_factory=list)
    exact: dict[str, str] = field(default_factory=dict)
    near: dict[str, str] = field(default_factory=dict)
    contaminated: str = "contaminated"
    malformed: int = 0


def planted(n: int = 400) -> Planted:
    """Return `n` real documents with 10 exact copies, 10 near copies, one contaminated and 1 % malformed rows."""
    corpus = Planted()
    texts = real_documents(n)
    for i, text in enumerate(texts):
        corpus.lines.append(_line(f"doc{i:04d}", text))
    for i in range(0, 100, 10):
        corpus.lines.append(_line(f"copy{i:04d}", f"\n {texts[i]} \r\n"))
        corpus.exact[f"copy{i:04d}"] = f"doc{i:04d}"
    for i in range(5, 105, 10):
        words = texts[i].split(" ")
        words[len(words) // 2] = "planted_change"
        corpus.lines.append(_line(f"near{i:04d}", " ".join(words)))
        corpus.near[f"near{i:04d}"] = f"doc{i:04d}"
    gold = HELLASWAG["query"] + HELLASWAG["choices"][HELLASWAG["gold"]]  # type: ignore[index,operator]
    corpus.lines.append(_line(corpus.contaminated, f"{texts[1][:800]}\n{gold.upper()}\n{texts[2][:800]}"))
    bad = [b'{"id": "x", "text": "unclosed', b'{"id": "y"}', b'{"id": "z", "text": 5}', b'{"text": "\\ud800"}']
    corpus.malformed = len(corpus.lines) // 99
    for i in range(corpus.malformed):
        corpus.lines.insert(50 + 99 * i, bad[i % len(bad)])
    return corpus


def _line(identifier: str, text: str) -> bytes:
    return json.dumps({"id": identifier, "text": text}).encode()


def write_jsonl(folder: Path, lines: list[bytes], names: list[str]) -> str:
    """Deal `lines` out to files `names` in `folder` (gz when they say so); return the glob that finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        data = b"\n".join(lines[i :: len(names)]) + b"\n"
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(folder / "*.jsonl*")
