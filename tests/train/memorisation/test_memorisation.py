"""What a run knows of its documents: those that it was fed often better, and how often counted as a walk counts it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epochal.__main__ import main
from epochal.common.errors import RequestError, WorkError
from epochal.shards.artifact import open_artifact
from epochal.shards.carve import carve
from epochal.tests.support.pools import EOD, MASK, letters, tiny_run, write_pool
from epochal.tests.support.training import BYTES, SEQ_LEN, save
from epochal.train.checkpoint import open_checkpoint
from epochal.train.config import TrainConfig
from epochal.train.eval.generate import Sampling, generate
from epochal.train.memorisation.documents import documents_in, longest_parts
from epochal.train.memorisation.fed import Fed, read_run
from epochal.train.memorisation.measure import Known, Sample, reproduces, summarise, take
from epochal.train.trainer import train

torch.set_num_threads(1)

LENGTH = 50
"""Tokens of a document and of a sample, so that each document is a sample."""


def run_on(folder: Path, data: dict[str, Any], validation: Path | None, objective: str = "ar", **changes: Any) -> str:
    """Train on `data`, the settings of a loader's data set; return the run's folder."""
    settings = tiny_run("", validation, objective={"name": objective}, save_folder=str(folder / "run"), **changes)
    train(TrainConfig.model_validate(settings | {"train_loader": {"dataset": data}, "eval_interval": "1dur"}))
    return str(folder / "run")


def distinct(seed: int, documents: int) -> np.ndarray:
    """Return documents of 49 different bytes and EOD: who knows one knows what follows each of its bytes."""
    rng = np.random.default_rng(seed)
    return np.concatenate([[*rng.permutation(256)[: LENGTH - 1], EOD] for _ in range(documents)]).astype(np.uint16)


@pytest.fixture(scope="module", params=["ar", "mdm"])
def memorised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a run that was fed 2 documents `TIMES` times each, and 40 others once."""
    folder = tmp_path_factory.mktemp(request.param)
    pools = {
        name: write_pool(folder, distinct(seed, n), LENGTH, name=name, first_document=1000 * seed)
        for name, seed, n in POOLS
    }
    sources = {
        "often": {"path": str(pools["often"]), "epochs": TIMES[request.param]},
        "once": {"path": str(pools["once"]), "epochs": 1},
    }
    shape = {"layers": 2, "hidden": 64, "heads": 2, "ffn": 96}
    data = {"mixture": {"sources": sources, "window": 100}}
    batch = {"ar": 8, "mdm": 2}[request.param]  # masked diffusion needs more steps to learn a text by heart
    changes = {"global_train_batch_size": batch, "device_train_microbatch_size": batch}
    return run_on(folder, data, pools["val"], request.param, model=shape, max_duration="", **changes)


TIMES = {"ar": 800, "mdm": 1600}
"""Far more than it takes to know a text by heart, on any processor and with any version of torch."""
POOLS = (("often", 1, 2), ("once", 2, 40), ("val", 3, 30))


@pytest.mark.slow
def test_documents_fed_more_often_are_known_better(memorised: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["memorisation", memorised, "--k", "4", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    (model,) = body["models"]
    assert [(g["exposures"], g["held_out"], g["documents"], g["in_all"]) for g in model["groups"]] == [
        (0, True, 30, 30),
        (1, False, 40, 40),
        (TIMES[model["type"]], False, 2, 2),
    ]
    never, once, often = model["groups"]
    assert often["per_token"] + 4 * often["per_token_se"] < once["per_token"] - 4 * once["per_token_se"]
    assert often["per_token"] < never["per_token"]
    assert (often["reproduced"], once["reproduced"], never["reproduced"]) == (2, 0, 0)
    assert model["kind"] == {"ar": "nll", "mdm": "nelbo"}[model["type"]]


@pytest.mark.slow
def test_a_second_look_is_the_same_to_the_byte_and_another_seed_is_not(
    memorised: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    few = ["memorisation", memorised, "--k", "8", "--documents", "3", "--batch-tokens", "200", "--out"]
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert main([*few, str(tmp_path / name), "--seed", seed]) == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["memorisation-loss.svg", "memorisation-reproduced.svg", "memorisation.json"]
    first, second, other = ((tmp_path / name / "memorisation.json").read_bytes() for name in "abc")
    assert first == second
    keys, others = ([d["key"] for d in json.loads(text)["models"][0]["documents"]] for text in (first, other))
    assert keys != others
    assert "fed" in capsys.readouterr().out


@pytest.mark.slow
def test_fewer_documents_are_the_first_of_more(memorised: str) -> None:
    fed = read_run(memorised, LENGTH - 1)
    few, more = (take(fed.sources, n, 9, 0)[0] for n in (3, 10))
    assert [d.key for s in few for d in s.taken] == [d.key for s in more for d in s.taken[:3]]


@pytest.mark.slow
def test_moved_data_of_a_mixture_is_given_by_name(memorised: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="mixture of often, once"):
        read_run(memorised, LENGTH - 1, ["elsewhere=x"])
    with pytest.raises(RequestError, match=r"is not what the run used .*--subset once=PATH"):
        read_run(memorised, LENGTH - 1, [f"once={Path(memorised).parent}/artifacts/pools/often"])
    moved = tmp_path / "moved"
    moved.symlink_to(Path(memorised).parent / "artifacts" / "pools" / "once")
    assert len(read_run(memorised, LENGTH - 1, [f"once={moved}"]).sources) == 3


def walk(fed: Fed) -> dict[tuple[str, int], int]:
    """Return how often each sample of each component came, by reading the plan position by position."""
    counts: dict[tuple[str, int], int] = {}
    names = list(fed.order.components())
    ids = fed.order.ids(range(fed.positions))
    for component, sample in zip(*fed.order.locate(ids), strict=True):
        key = names[int(component)], int(sample)
        counts[key] = counts.get(key, 0) + 1
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["reshuffle", "fixed", "global", "sequential"])
@pytest.mark.parametrize("carved", ["view", "copy"])
def test_exposures_are_those_of_a_walk_over_the_plan(tmp_path: Path, policy: str, carved: str) -> None:
    pool = write_pool(tmp_path, letters(1, 2503), SEQ_LEN)
    out = tmp_path / "artifacts" / "subsets" / "part"
    carve(str(pool), 1003, 1, str(out), materialize=carved == "copy")
    folder = run_on(tmp_path, {"path": str(out), "policy": policy}, None, max_duration="2.6ep")
    fed = read_run(folder, SEQ_LEN - 1)
    (source,) = fed.sources
    counts = walk(fed)
    assert source.exposures.tolist() == [counts.get(("", int(i)), 0) for i in source.documents.samples]
    assert len(set(source.exposures.tolist())) > 1
    samples, left_out = take(fed.sources, 10**6, 9, 0)
    assert sum(s.in_all for s in samples) + sum(left_out.values()) == len(source.documents)
    assert left_out["cut"] == 2


@pytest.mark.slow
def test_a_run_that_was_not_fed_its_plan_is_refused(run_config: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RequestError, match="no folder of a finished run"):
        read_run(str(folder), 9)
    train(run_config(save_folder=str(folder)))
    receipt = json.loads((folder / "receipt.json").read_text())
    (folder / "receipt.json").write_text(json.dumps(receipt | {"digest": "0" * 32}))
    with pytest.raises(WorkError, match="does not hold"):
        read_run(str(folder), 9)


@pytest.mark.slow
def test_what_is_left_out_is_said(run_config: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = str(tmp_path / "run")
    train(run_config(save_folder=folder))
    assert main(["memorisation", folder, "--k", "8"]) == 0
    text = capsys.readouterr().out
    # Pools number their documents alike, so that 7 keys of validation are keys of training too.
    assert "left out: 14 documents in the data more than once" in text
    assert main(["memorisation", folder, "--k", "15"]) == 2
    assert "--k must be below 15" in capsys.readouterr().err


def test_the_longest_part_in_one_sample_is_found() -> None:
    cases = {(0, 5): (0, 5), (3, 5): (3, 5), (6, 5): (8, 3), (5, 6): (5, 3), (5, 20): (8, 8), (8, 8): (8, 8)}
    begins, tokens = (np.array(column) for column in zip(*cases, strict=True))
    assert list(zip(*(x.tolist() for x in longest_parts(begins, tokens, 8)), strict=True)) == list(cases.values())


def test_parts_are_tokens_of_their_documents(tmp_path: Path) -> None:
    stream = letters(4, 1003)
    documents = documents_in(open_artifact(str(write_pool(tmp_path, stream, SEQ_LEN))), SEQ_LEN)
    assert len(documents) == (stream == EOD).sum()
    assert documents.whole.all()
    at = documents.samples * SEQ_LEN + documents.begins
    of_document = np.searchsorted(np.flatnonzero(stream == EOD), at)
    assert of_document.tolist() == list(range(len(documents)))
    assert np.searchsorted(np.flatnonzero(stream == EOD), at + documents.tokens - 1).tolist() == of_document.tolist()


@pytest.mark.parametrize("causal", [True, False])
def test_what_is_reproduced_is_what_generation_writes(tmp_path: Path, causal: bool) -> None:
    model = open_checkpoint(save(tmp_path / "model", causal, BYTES), "cpu").model
    for length in range(1, 9):
        before = [EOD, *range(length)]
        written = generate(model, before, MASK, Sampling(max_new_tokens=4))
        assert reproduces(model, before, written, MASK)
        for i in range(4):
            wrong = [token if j != i else (token + 1) % 256 for j, token in enumerate(written)]
            assert not reproduces(model, before, wrong, MASK)


def test_figures_of_a_group_by_hand() -> None:
    known = [Known("", "", 3, tokens, nats, wrote) for tokens, nats, wrote in ((10, 20.0, True), (30, 40.0, False))]
    row = summarise(Sample(3, False, 7, ()), known)
    assert (row.per_token, row.tokens, row.reproduced, row.share) == (1.5, 40, 1, 0.5)
    assert row.per_token_se == pytest.approx(np.sqrt(2 * (5.0**2 + 5.0**2)) / 40)
    assert 0.09 < row.share_low < 0.1
    assert 0.9 < row.share_high < 0.91
    assert summarise(Sample(3, False, 1, ()), known[:1]).per_token_se is None
