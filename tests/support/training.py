"""Text and micro-batches for small training runs, what finished ones leave, and runs that are stopped on their way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composer import Callback

from epochal.tests.support.pools import EOD
from epochal.train.checkpoint import ModelCard, load_model, save_model
from epochal.train.config import TrainConfig
from epochal.train.data import Collate, Split
from epochal.train.model.composer import LanguageModel
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.objective.objectives import Autoregressive, MaskedDiffusion, SpecialIds
from epochal.train.run import prepare
from epochal.train.run_folder import read_metrics, train_losses
from epochal.train.trainer import build_trainer

SEQ_LEN = 16

IDS = SpecialIds(eod=67, pad=68, mask=69)
ROWS, LENGTH = 4, 16
"""Of `micro_batches`."""

BYTES = {"name": "bytes", "fingerprint": "0" * 32, "vocab_size": 259, "eod": 256, "pad": 257, "mask": 258}
"""What a manifest says of a tokenizer whose ids are bytes."""

OBJECTIVES: list[dict] = [
    {"name": "ar", "input_masking": 0.2},
    {"name": "mdm", "weighting": "inverse_t", "sampling": "uniform"},
    {"name": "mdm", "weighting": "exact_count", "sampling": "stratified"},
    {"name": "dual", "ar_share": 0.4, "mdm": {"weighting": "exact_count"}},
    {"name": "block", "block_size": 5},
]


class StopAfter(Callback):
    """Dies after a number of steps, as a killed process would: nothing is saved."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def batch_checkpoint(self, state: Any, logger: Any) -> None:
        if int(state.timestamp.batch) == self.steps:
            raise KeyboardInterrupt


def interrupt(config: TrainConfig, steps: int) -> None:
    """Run `config` and stop it after `steps` steps."""
    trainer = build_trainer(prepare(config))
    trainer.state.callbacks.append(StopAfter(steps))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    trainer.close()


def tokens(seed: int, n: int) -> np.ndarray:
    """Return documents of 50 tokens over eight letters."""
    text = np.random.default_rng(seed).integers(0, 8, n).astype(np.uint16)
    text[49::50] = text[-1] = EOD
    return text


def losses(folder: Path | str) -> list[float]:
    """Return the training loss of every step, whatever its kind."""
    rows = read_metrics(str(folder))
    return [v for row in rows for v in train_losses(row).values()]


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    """Return the weights that a finished run left."""
    return dict(load_model(str(Path(folder) / "final"))[0].named_parameters())


def save(
    folder: Path,
    causal: bool,
    tokenizer: dict,
    seq_len: int = 64,
    training: dict | None = None,
    objective: dict | None = None,
    **shape_keys: Any,
) -> str:
    """Save a model that knows nothing; return its folder."""
    torch.manual_seed(int(causal))
    shape = ModelConfig(tokenizer["vocab_size"], 1, 16, 2, 24, causal, **shape_keys)
    card = ModelCard(shape, objective or {}, "nll" if causal else "nelbo", tokenizer, seq_len, training or {})
    save_model(str(folder), Transformer(shape).state_dict(), card)
    return str(folder)


def micro_batches(causal: bool, n: int, document_mask: bool = False) -> Iterator[dict[str, Any]]:
    """Yield `n` of them; every third has PAD, and all differ in how many targets they have and where, and in their
    documents."""
    objective = (Autoregressive if causal else MaskedDiffusion)(IDS, document_mask=document_mask)
    random = np.random.default_rng(0)
    for i in range(n):
        n_tokens = np.full(ROWS, LENGTH)
        if i % 3 == 2:
            n_tokens[random.integers(ROWS)] = random.integers(1, LENGTH)
        batch = {
            "tokens": random.integers(0, 67 + document_mask, (ROWS, LENGTH)),
            "position": np.arange(ROWS) + i * ROWS,
            "sample_id": np.arange(ROWS),
            "n_tokens": n_tokens,
        }
        yield from Split()(Collate(objective)(batch), ROWS)


def step(model: LanguageModel, batch: dict[str, Any], trained: bool = True) -> float:
    """Return the loss of a micro-batch; where it is `trained`, its gradients are added to those of the weights."""
    with torch.set_grad_enabled(trained):
        loss = next(iter(model.loss(model(batch), batch).values()))
    if trained:
        loss.backward()
    return float(loss.detach())
