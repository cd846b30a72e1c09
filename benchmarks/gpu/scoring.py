"""How fast models of both types score items as HellaSwag has them: a context and four endings."""

import time
from typing import Any

import numpy as np
import torch

from epochal.benchmarks.gpu.sizes import Place, Sizes
from epochal.train.eval.scoring import Group, Scorer
from epochal.train.model.presets import model_section
from epochal.train.model.transformer import Transformer
from epochal.train.settings.model import ModelSection

Rows = list[dict[str, Any]]
CONTEXT, ENDING, ENDINGS = (30, 120), (12, 45), 4
"""Tokens, at least and at most, and how many endings."""


def items(count: int, vocab: int) -> list[Group]:
    """Return items of random tokens; the same for the same arguments."""
    rng = np.random.default_rng(0)

    def text(lengths: tuple[int, int]) -> Any:
        return rng.integers(0, vocab - 3, rng.integers(*lengths, endpoint=True))

    return [Group(text(CONTEXT), tuple(text(ENDING) for _ in range(ENDINGS)), i * ENDINGS) for i in range(count)]


def score(model: str, objective: str, sizes: Sizes, place: Place) -> Rows:
    """Return items/s of one model with random weights, in bfloat16 on a GPU."""
    section = ModelSection.model_validate(model_section({"preset": model}, "benchmark"))
    shape = section.shape(objective == "ar", sizes.vocab)
    torch.manual_seed(0)
    with torch.device("cuda" if sizes.gpu else "cpu"):
        network = Transformer(shape).to(torch.bfloat16 if sizes.gpu else torch.float32).eval()
    eod, mask = sizes.vocab - 3, sizes.vocab - 2
    scorer = Scorer(network, eod, mask, limit=2048, draws=sizes.draws, batch_tokens=sizes.batch_tokens)
    groups = items(sizes.items, sizes.vocab)
    scorer.score(groups[: max(1, len(groups) // 16)])  # the first products choose their kernels
    _wait(sizes)
    started, before = time.perf_counter(), scorer.work.sequences
    scores = scorer.score(groups)
    _wait(sizes)
    seconds = time.perf_counter() - started
    finite = all(np.isfinite(answer.nats) for answers in scores for answer in answers)
    row = {"items_per_sec": len(groups) / seconds, "sequences_per_sec": (scorer.work.sequences - before) / seconds}
    kind = "nll" if objective == "ar" else f"nelbo, {sizes.draws} noise samples"
    return [{"what": f"{model} {objective}", "kind": kind, **row, "passed": bool(finite)}]


def _wait(sizes: Sizes) -> None:
    if sizes.gpu:
        torch.cuda.synchronize()
