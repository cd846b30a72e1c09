"""What the commands that are run most import: nothing that they do not use, which would be half of their time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from epochal.datapipe.build import build
from epochal.shards.carve import carve
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl

PROGRAM = """
import sys
from epochal.__main__ import main
assert main(sys.argv[1:]) == 0
print(*sys.modules)
"""

HEAVY = {
    *("pandas", "polars", "torch", "streaming", "composer", "transformers", "scipy", "matplotlib", "sqlalchemy"),
    *("huggingface_hub", "requests", "httpx", "datasets", "datatrove", "fsspec", "gigatoken", "pyarrow.dataset"),
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A pool and a subset of it."""
    folder = tmp_path_factory.mktemp("pool")
    lines = [json.dumps({"text": text}).encode() for text in real_documents(20)]
    built = build(settings(folder, write_jsonl(folder / "in", lines, ["a.jsonl"])), quiet=True)
    return built.pool, carve(built.pool, 500, out=str(folder / "subset"))[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "besides"),
    [
        ("show SUBSET", "tokenizers"),
        ("verify POOL SUBSET", "tokenizers"),
        ("carve POOL --unique-tokens 300 --out NEW", "tokenizers"),
        ("list FOLDER", "tokenizers pyarrow"),
        ("peek SUBSET", "pyarrow"),
        ("plan SUBSET --epochs 4 --batch-tokens 128", "tokenizers pyarrow"),
        ("order SUBSET --epochs 4 --count 2", "tokenizers pyarrow"),
        ("order SUBSET --epochs 4 --count 2 --documents", "tokenizers"),
        ("export SUBSET --format bin --out NEW", "tokenizers"),
        ("export SUBSET --format parquet --out NEW", "tokenizers"),
    ],
)
def test_a_command_imports_what_it_uses(pool: tuple[str, str], tmp_path: Path, command: str, besides: str) -> None:
    named = {"POOL": pool[0], "SUBSET": pool[1], "FOLDER": str(Path(pool[1]).parent), "NEW": str(tmp_path / "new")}
    words = [named.get(word, word) for word in command.split()]
    arguments = [sys.executable, "-W", "ignore", "-c", PROGRAM, *words]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    modules = set(done.stdout.splitlines()[-1].split())
    assert not modules & (HEAVY | set(besides.split()))
