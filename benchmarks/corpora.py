"""Text to measure builds with: this environment's Python source, or a JSONL file, as both sides can read it."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from epochal.datapipe.config import Source
from epochal.datapipe.sources.registry import list_source

FILES = 2
"""The input is in as many files: readers of datatrove share out whole files."""


def python_source(megabytes: float) -> Iterator[dict[str, str]]:
    """Yield documents of about `megabytes` in all from this environment, drawn by a hash of their names."""
    files = []
    for listing in list_source(0, Source(name="python", format="python", max_bytes=1 << 20)):
        files += [(f.name, os.path.join(listing.root.removeprefix("file://"), f.path)) for f in listing.files]
    left = megabytes * 1e6
    for name, path in sorted(files, key=lambda item: hashlib.blake2b(item[0].encode()).digest()):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if left > 0 and text.strip() and "\0" not in text:
            left -= len(text.encode())
            yield {"text": text, "id": name}


def from_jsonl(path: Path) -> Iterator[dict[str, str]]:
    """Yield the documents of a JSONL file with a `text` field."""
    with open(path, encoding="utf-8") as f:
        for i, line in enumerate(f):
            yield {"text": json.loads(line)["text"], "id": str(i)}


def normalised(documents: Iterator[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Yield documents with their text as our build would normalise it, so that both sides encode the same text; not
    those that spell out the end-of-document token, which the stock tokenizer step takes for one."""
    from epochal.datapipe.text.document_key import normalise

    for document in documents:
        if (text := normalise(document["text"])) and "<|endoftext|>" not in text:
            yield {"text": text, "id": document["id"]}


def write_input(documents: Iterator[dict[str, str]], folder: Path) -> int:
    """Write documents as JSON lines into FILES files; return the bytes of their text."""
    folder.mkdir(parents=True)
    files = [open(folder / f"{i}.jsonl", "w", encoding="utf-8") for i in range(FILES)]  # noqa: SIM115
    size = 0
    for i, document in enumerate(documents):
        files[i % FILES].write(json.dumps(document, ensure_ascii=False) + "\n")
        size += len(document["text"].encode())
    for file in files:
        file.close()
    return size
