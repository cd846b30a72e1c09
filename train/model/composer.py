"""The transformer as Composer trains and evaluates it."""

from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor
from torchmetrics import Metric

from ..objective.halves import HALVES, half_of, of_half
from ..objective.objectives import loss_of
from .penalties import Penalties
from .transformer import ModelConfig, Transformer


class LanguageModel(ComposerModel):
    """A `Transformer` with its loss.

    Batches are what `data.split_batch` makes of a loader's batch: dictionaries with the tensors of `objectives.Packed`
    (absent where None), and `shape`: rows that hold a sample, and tokens of a row.

    Attributes:
        kind: the name of the training loss.
        penalties: what is added to it, logged under names of its own.
        measured: what validation measures, `nll`, a bound (`nelbo`, or what a told model has in its place), or both:
            the first noise sample is then the likelihood.
    """

    def __init__(
        self,
        transformer: Transformer,
        kind: str,
        penalties: Penalties | None = None,
        measured: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.kind = kind
        self.penalties = penalties if penalties and any(penalties) else None
        self.measured = measured or (("nll",) if transformer.config.causal else ("nelbo",))

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Return the weighted sum of negative log-likelihoods over the micro-batch, a scalar in nats; with penalties
        the four sums of `penalised_sums`."""
        self.transformer.draws.words = batch.get("words")
        return self.transformer(**_inputs(batch), weights=batch["weights"], penalties=self.penalties)

    def loss(self, outputs: Tensor, batch: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Return {kind: nats per token}, the sum divided by rows * tokens of a row, targets or not.

        Composer weighs micro-batches and ranks by their samples, which makes the whole batch's loss the same however
        it is cut. With penalties, `total` is what is trained on.
        """
        if self.penalties is None:
            return {self.kind: loss_of(outputs, batch["shape"])}
        total, nll, *added = (loss_of(part, batch["shape"]) for part in outputs)
        parts = zip(self.penalties._asdict().items(), added, strict=True)
        return {"total": total, self.kind: nll} | {name: part for (name, weight), part in parts if weight}

    def eval_forward(self, batch: dict[str, Any], outputs: Any = None) -> Tensor:
        """Return the nats of each sample under each noise sample, float64 (samples, noise samples)."""
        nll = self.transformer(**_inputs(batch))
        rows = batch["tokens"].shape[0]
        sums = torch.zeros(rows, dtype=torch.float64, device=nll.device)
        sums.index_add_(0, batch["rows"], nll.double() * batch["weights"].double())
        return sums.view(-1, batch["draws"])

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        """Return no metrics for training (they would cost a second forward pass), the loss for validation."""
        if is_train:
            return {}
        if len(self.measured) > 1:
            return _losses(self.measured[0], slice(0, 1)) | _losses(self.measured[1], slice(1, None))
        return _losses(self.measured[0], slice(None))

    def update_metric(self, batch: dict[str, Any], outputs: Tensor, metric: Metric) -> None:
        """Add a micro-batch to a validation metric."""
        metric.update(outputs, batch["n_tokens"], batch["sample_id"])


def _losses(kind: str, rows: slice) -> dict[str, Metric]:
    """Return the loss, what noise leaves of a bound, and the loss on each half of the pool; see `objective.halves`."""
    metrics: dict[str, Metric] = {kind: MeanLoss(rows=rows)}
    if kind != "nll":
        metrics[f"{kind}_se"] = MeanLoss(error=True, rows=rows)
    return metrics | {of_half(kind, name): MeanLoss(only=i, rows=rows) for i, name in enumerate(HALVES)}


def _inputs(batch: dict[str, Any]) -> dict[str, Tensor | None]:
    names = ("tokens", "attention_mask", "target_positions", "labels", "reach", "positions", "documents")
    return {name: batch.get(name) for name in names}


class MeanLoss(Metric):
    """Nats per real token over a validation set: the mean over noise samples, summed over samples, over tokens.

    Attributes:
        error: report the standard error that the noise leaves instead: sqrt(sum of s_i^2 / K) / tokens, s_i^2 being the
            variance of sample i's K estimates. The estimates of one sample are stratified, so it errs on the large
            side; with K = 1 it cannot be known and is NaN.
        only: count the samples of this half alone (its index in `HALVES`); all when None.
        rows: which of a sample's noise samples count.
    """

    full_state_update = False
    total: Tensor
    variance: Tensor
    tokens: Tensor

    def __init__(self, error: bool = False, only: int | None = None, rows: slice = slice(None)) -> None:
        super().__init__()
        self.error = error
        self.only = only
        self.rows = rows
        for name in ("total", "variance", "tokens"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, n_tokens: Tensor, sample_id: Tensor | None = None) -> None:
        """Add samples.

        Args:
            nats: float64 (samples, noise samples).
            n_tokens: (samples,), real tokens.
            sample_id: (samples,), the indices of the samples in their pool; a half is told by them.
        """
        nats = nats[:, self.rows]
        if self.only is not None:
            assert sample_id is not None, "a half is told by the indices of samples"
            mine = half_of(sample_id) == self.only
            nats, n_tokens = nats[mine.to(nats.device)], n_tokens[mine.to(n_tokens.device)]
        draws = nats.shape[1]
        self.total += nats.mean(1).sum()
        self.tokens += n_tokens.sum()
        if self.error:
            spread = nats.var(1) if draws > 1 else torch.full_like(nats[:, 0], torch.nan)
            self.variance += (spread / draws).sum()

    def compute(self) -> Tensor:
        """Return nats per token."""
        return (self.variance.sqrt() if self.error else self.total) / self.tokens.clamp(min=1)


def build(
    shape: ModelConfig,
    kind: str,
    seed: int,
    device: str = "cpu",
    penalties: Penalties | None = None,
    measured: tuple[str, ...] = (),
) -> LanguageModel:
    """Return a model with the initial weights of `seed`; on the meta device the weights are drawn later, by FSDP."""
    torch.manual_seed(seed)
    with torch.device(device):
        return LanguageModel(Transformer(shape), kind, penalties, measured)
