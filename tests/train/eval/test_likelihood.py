"""Likelihoods of a pool: records with their kind and order, which may not be mixed unlabelled."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epochal.__main__ import main
from epochal.common.errors import RequestError
from epochal.shards.artifact import Artifact, open_artifact
from epochal.tests.support.pools import random_documents
from epochal.tests.support.training import BYTES, save
from epochal.train.checkpoint import open_checkpoint
from epochal.train.eval import likelihood
from epochal.train.eval.likelihood import difference, masked_nats, measure, table
from epochal.train.exact.writing import Text, write
from epochal.train.exact.writing_order import WritingOrder
from epochal.train.objective import documents
from epochal.train.objective.nelbo import estimate, masks_for

torch.set_num_threads(1)


def likelihoods(make_pool: Callable[..., Path], tmp_path: Path) -> list:
    pool = open_artifact(str(make_pool(200, 16)))
    lengths = np.array([1] * 256 + [0] * 3)
    found = []
    for name, causal in (("ar", True), ("mdm", False)):
        opened = open_checkpoint(save(tmp_path / name, causal, BYTES, 16), "cpu")
        keys: dict[str, Any] = {"byte_lengths": lengths, "name": name, "noise_samples": 16}
        found.append(measure(opened.model, opened.card, pool, **keys))
        # more noise samples: the same bound within its error, which is smaller
        if not causal:
            many = measure(opened.model, opened.card, pool, **keys | {"noise_samples": 256, "seed": 1})
            assert abs(many.per_token - found[1].per_token) < 4 * found[1].per_token_se
            assert many.per_token_se < found[1].per_token_se / 3
    return found


def test_rows_read_together_have_the_likelihood_of_each_alone(make_pool: Callable[..., Path], tmp_path: Path) -> None:
    pool = open_artifact(str(make_pool(203, 16)))
    opened = open_checkpoint(save(tmp_path / "ar", True, BYTES, 16), "cpu", torch.float64)
    read: list[int] = []
    opened.model.register_forward_pre_hook(lambda _, args: read.append(len(args[0])))
    one, some, all_ = (measure(opened.model, opened.card, pool, batch_tokens=n) for n in (1, 64, 10_000))
    samples = pool.manifest.samples
    assert read[:samples] == [1] * samples
    assert sum(read) == 3 * samples
    assert max(read) > read[samples] == 4
    assert [some.nats, all_.nats] == pytest.approx([one.nats] * 2, rel=1e-12)


def test_kinds_are_never_mixed_unlabelled(make_pool: Callable[..., Path], tmp_path: Path) -> None:
    ar, mdm = likelihoods(make_pool, tmp_path)
    assert [r["kind"] for r in table([ar, mdm])] == ["nll", "nelbo"]
    with pytest.raises(RequestError, match="an NLL and a NELBO are no figures of one column: add the column 'kind'"):
        table([ar, mdm], ("name", "per_token", "data"))
    assert table([ar, ar], ("per_token",))[0] == {"per_token": ar.per_token}
    elsewhere = replace(ar, data="other")
    with pytest.raises(RequestError, match="different texts"):
        table([ar, elsewhere], ("per_token", "kind"))
    with pytest.raises(RequestError, match="a likelihood has no 'loss'"):
        table([ar], ("loss",))
    ordered = replace(ar, order="confidence", tokens_per_step=1)
    with pytest.raises(RequestError, match="different orders of writing are no figures of one column"):
        table([ar, ordered], ("per_token", "kind", "data", "tokens_per_step"))
    assert difference(ordered, ar) == (0, 0)  # exact against exact
    with pytest.raises(RequestError, match="only NELBO minus NLL"):
        difference(ordered, mdm)
    told = replace(mdm, name="told", given="lengths")
    with pytest.raises(RequestError, match="of texts, and of texts given where their documents end, are no figures of"):
        table([mdm, told], ("per_token", "kind"))
    assert [r["given"] for r in table([mdm, told])] == [None, "lengths"]
    for other in (mdm, ar):
        with pytest.raises(RequestError, match="told was told where documents end"):
            difference(told, other, bound=True)
    for a, b in ((ar, mdm), (mdm, ar), (ar, elsewhere)):
        with pytest.raises(RequestError):
            difference(a, b)
    with pytest.raises(RequestError, match="only NELBO minus NLL"):
        difference(ar, mdm, bound=True)
    value, error = difference(mdm, ar, bound=True)
    assert value == pytest.approx(mdm.per_token - ar.per_token)
    assert error == mdm.per_token_se > 0
    assert ar.bits_per_byte == pytest.approx(ar.nats / math.log(2) / ar.bytes)
    assert ar.bytes < ar.tokens == 200  # EOD has no bytes


def test_nll_of_a_pool_is_the_chain_rule(make_pool: Callable[..., Path], tmp_path: Path) -> None:
    pool = open_artifact(str(make_pool(20, 16)))
    opened = open_checkpoint(save(tmp_path / "ar", True, BYTES, 16), "cpu")
    record = measure(opened.model, opened.card, pool)
    total = 0.0
    from epochal.train.eval.likelihood import Rows

    for row in Rows(pool):
        text = [256, *row.tolist()]
        for i in range(1, len(text)):
            with torch.no_grad():
                total -= float(opened.model(torch.tensor([text[:i]]))[-1].log_softmax(-1)[text[i]])
    assert record.nats == pytest.approx(total, abs=1e-3)
    assert (record.tokens, record.samples) == (20, 2)


def test_an_order_of_writing_gives_an_exact_record_beside_the_bound(
    make_pool: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pool = make_pool(40, 16)  # two whole samples and one of eight tokens
    paths = [save(tmp_path / name, causal, BYTES, 16) for name, causal in (("ar", True), ("mdm", False))]
    command = ["evaluate", *paths, "--loss", str(pool), "--order", "confidence", "--out", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    ar, bound, exact = json.loads(capsys.readouterr().out)["likelihoods"]
    assert [(r["kind"], r["order"], r["tokens_per_step"]) for r in (ar, bound, exact)] == [
        ("nll", None, None),
        ("nelbo", None, None),
        ("nll", "confidence", 1),
    ]
    assert (exact["per_token_se"], exact["noise_samples"], exact["seed"], exact["tokens"]) == (0, 0, None, 40)
    assert exact["data"] == bound["data"] == ar["data"]
    opened = open_checkpoint(paths[1], "cpu")
    rows = list(likelihood.Rows(open_artifact(str(pool))))
    texts = [Text(np.zeros(0, np.int64), row) for row in rows]
    alone = sum(write(opened.model, 258, [text], WritingOrder("confidence")).nats[0] for text in texts)
    assert [len(row) for row in rows] == [16, 16, 8]  # no PAD is written
    assert exact["nats"] == pytest.approx(alone, abs=1e-3)
    assert main([*command, "--tokens-per-step", "4", "--batch-tokens", "16"]) == 0
    shown = capsys.readouterr().out
    assert "NLL, exact, confidence order, 4 tokens a step" in shown
    assert "NELBO, upper bound, K=8" in shown


def test_a_batchs_size_changes_no_exact_likelihood(make_pool: Callable[..., Path], tmp_path: Path) -> None:
    pool = open_artifact(str(make_pool(90, 16)))
    opened = open_checkpoint(save(tmp_path / "mdm", False, BYTES, 16), "cpu")
    nats = [
        measure(opened.model, opened.card, pool, writing=WritingOrder("entropy", 3), batch_tokens=size).nats
        for size in (1, 40, 16384)
    ]
    assert nats == pytest.approx([nats[0]] * 3, rel=1e-6)


def documents_pool(make_pool: Callable[..., Path]) -> tuple[Artifact, list[np.ndarray]]:
    """Return a pool of samples with several documents, and these as they lie in samples."""
    stream = random_documents(150)
    stream[6::7] = 256
    pool = open_artifact(str(make_pool(stream, 32)))
    parts = [part for row in likelihood.Rows(pool) for part in documents.parts(row, 256)]
    assert len(parts) > 4 * pool.manifest.samples
    return pool, parts


@pytest.mark.parametrize("rope", ["continue", "restart"])
def test_a_document_masked_ar_has_the_likelihood_of_each_document_alone(
    make_pool: Callable[..., Path], tmp_path: Path, rope: str
) -> None:
    pool, parts = documents_pool(make_pool)
    opened = open_checkpoint(save(tmp_path / "ar", True, BYTES, 32, document_mask=True, rope=rope, init_std=0.3), "cpu")
    record = measure(opened.model, opened.card, pool)
    expected = 0.0
    for part in parts:
        log_p = opened.model(torch.tensor([[256, *part[:-1]]])).detach().log_softmax(-1)
        expected -= float(log_p[torch.arange(len(part)), torch.from_numpy(part)].double().sum())
    assert record.nats == pytest.approx(expected, abs=1e-3)
    assert (record.kind, record.given) == ("nll", None)


@pytest.mark.parametrize("writing", [None, WritingOrder("confidence")])
def test_a_document_masked_mdm_has_the_likelihood_of_each_document_given_its_length(
    make_pool: Callable[..., Path], tmp_path: Path, writing: WritingOrder | None
) -> None:
    """In an order exactly, and as a bound: the mean over all orders of a sample is that over those of each document."""
    pool, parts = documents_pool(make_pool)
    opened = open_checkpoint(save(tmp_path / "mdm", False, BYTES, 32, document_mask=True, init_std=0.3), "cpu")
    record = measure(opened.model, opened.card, pool, writing=writing, noise_samples=256, seed=2)
    assert (record.kind, record.given) == ("nll" if writing else "nelbo", "lengths")
    if writing:
        alone = [write(opened.model, 258, [Text(np.zeros(0, np.int64), part)], writing).nats[0] for part in parts]
        assert record.nats == pytest.approx(sum(alone), abs=1e-3)
        return
    value, variance = 0.0, 0.0
    for i, part in enumerate(parts):
        masks = masks_for(len(part), 1024, 0, i)
        own, error = estimate(masked_nats(opened.model, 258, part, masks.masks), masks)
        value, variance = value + own, variance + error**2
    assert record.nats == pytest.approx(value, abs=4 * math.hypot(record.nats_se, math.sqrt(variance)))
    unaware = open_checkpoint(save(tmp_path / "unaware", False, BYTES, 32, init_std=0.3), "cpu")
    other = measure(unaware.model, unaware.card, pool, noise_samples=256, seed=2)
    assert abs(other.nats - value) > 6 * math.hypot(other.nats_se, math.sqrt(variance))
