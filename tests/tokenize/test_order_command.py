"""`epochal order --documents --text`: the text of any positions is that of the documents that were built from."""

import json
import random
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.datapipe.build import build
from epochal.datapipe.config import Build
from epochal.shards.artifact import open_artifact
from epochal.shards.carve import carve
from epochal.shards.order.plan import Plan
from epochal.tests.support.builds import stream
from epochal.tests.support.corpora import real_documents
from epochal.tokenize.tokenizer import folder_tokenizer, spell

pytestmark = pytest.mark.slow  # a build comes first


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("order")
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(real_documents(40))]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"name": "p", "out": str(folder / "artifacts"), "seq_len": 64, "validation_tokens": 0}
    source = {"name": "s", "path": str(folder / "in.jsonl")}
    return build(Build.model_validate(config | {"sources": [source]}), quiet=True).pool


def walked(pool: str, first: int, tokens: int) -> list[list[str]]:
    """Walk a pool's tokens: the text of each document's part in each sample of a window."""
    tokenizer = folder_tokenizer(pool)
    names = {tokenizer.info.eod: "<EOD>", tokenizer.info.mask: "<MASK>"}
    ids = stream(pool)[first : first + tokens].tolist()
    samples = []
    for start in range(0, len(ids), 64):
        parts: list[list[int]] = [[]]
        for token in ids[start : start + 64]:
            parts[-1].append(token)
            if token == tokenizer.info.eod:
                parts.append([])
        samples.append([spell(part, names, tokenizer.decode) for part in parts if part])
    return samples


def shown(capsys: pytest.CaptureFixture, *words: str) -> list[dict]:
    assert main(["order", *words, "--documents", "--text", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["positions"]


def test_text_of_random_positions_equals_a_walk_over_the_pool(pool: str, capsys: pytest.CaptureFixture) -> None:
    tokens = open_artifact(pool).manifest.tokens // 3
    subset = carve(pool, tokens)[0]
    manifest = open_artifact(subset).manifest
    walk = walked(pool, 0, tokens)
    plan = Plan.for_artifact(manifest, 40 * manifest.tokens, 7)
    starts = sorted(random.Random(1).sample(range(plan.positions - 100), 10))
    for start in starts:
        rows = shown(capsys, subset, "--seed", "7", "--start", str(start), "--count", "100")
        texts = [[document["text"] for document in row["documents"]] for row in rows]
        assert texts == [walk[i] for i in plan.ids(range(start, start + 100)).tolist()]


def test_whole_documents_are_the_texts_they_were_built_from(pool: str, capsys: pytest.CaptureFixture) -> None:
    texts = {f"d{i}": text.replace("\r\n", "\n").strip() + "<EOD>" for i, text in enumerate(real_documents(40))}
    n = open_artifact(pool).manifest.samples
    parts: dict[str, str] = {}
    for row in shown(capsys, pool, "--policy", "sequential", "--count", str(n)):
        for document in row["documents"]:
            parts[document["id"]] = parts.get(document["id"], "") + document["text"]
    assert len(parts) > 20
    ascii_texts = {name: text for name, text in parts.items() if texts[name].isascii()}
    assert len(ascii_texts) > 10
    assert ascii_texts == {name: texts[name] for name in ascii_texts}


def test_text_of_a_mixture(pool: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tokens = open_artifact(pool).manifest.tokens // 8
    a, b = carve(pool, tokens)[0], carve(pool, tokens, 1)[0]
    (tmp_path / "mix.yaml").write_text(f"sources: {{a: {{path: {a}, epochs: 3}}, b: {{path: {b}, epochs: 2}}}}\n")
    parent = open_artifact(b).manifest.parent
    walks = {"a": walked(pool, 0, tokens), "b": walked(pool, parent.start_sample * 64, tokens)}
    rows = shown(capsys, str(tmp_path / "mix.yaml"), "--start", "3", "--count", "60")
    assert {row["component"] for row in rows} == {"a", "b"}
    for row in rows:
        assert [d["text"] for d in row["documents"]] == walks[row["component"]][row["sample"]]


def test_lines_for_people_fit_a_terminal(pool: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["order", pool, "--count", "2", "--documents"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("position 0  sample ")
    assert all(line.startswith(("position ", "  d")) for line in lines)
