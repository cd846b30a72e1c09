"""Everything that can be described: a pool, its views and copies, every format, each made from one window."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from epochal.benchmarks.common import write_manifest
from epochal.shards.artifact import read_manifest
from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.tests.support.pools import random_documents, write_pool

N = 2001  # no multiple of 16, and no end of a document: the last sample is padded, the last document cut

SOURCES = [
    {
        "name": "we|b",
        "license": "CC-BY-4.0",
        "url": "https://example.org/web",
        "language": ["en", "de"],
        "path": "/somewhere",
    },
    {
        "name": "# books",
        "license": "My Own",
        "citation": "@misc{a,\n  title = {``` ends}\n}",
        "collected": "2019 to 2024",
    },
    {"name": "mail", "pii": "names and <addresses>"},
]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return the folders by form, the tokens of the window that all but the pool hold, and where it begins."""
    folder = tmp_path_factory.mktemp("described")
    tokens = random_documents(6001)
    pool = str(write_pool(folder, tokens))
    write_manifest(Path(pool), read_manifest(pool).model_copy(update={"config": {"sources": SOURCES}}))
    take: Callable[..., str] = lambda **form: carve(pool, N, replicate=1, **form)[0]  # noqa: E731
    forms = {"view": take(), "copy": take(materialize=True), "wds": take(layout="wds")}
    formats = ("wds", "parquet", "megatron", "bin", "hf")
    forms |= {f"{layout} export": export(forms["view"], layout, str(folder / layout))[0] for layout in formats}
    forms |= {f"{x} of a copy": export(forms["copy"], x, str(folder / f"copy-{x}"))[0] for x in ("megatron", "bin")}
    parent = read_manifest(forms["view"]).parent
    assert parent is not None
    start = parent.start_sample * 16
    assert start > 0
    return SimpleNamespace(pool=pool, forms=forms, tokens=tokens, start=start, window=tokens[start : start + N])
