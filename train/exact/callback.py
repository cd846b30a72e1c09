"""The exact likelihood under an order of writing, measured on the validation pool while a run trains."""

import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from composer import Callback
from composer.core import State
from composer.loggers import Logger
from composer.utils import dist

from ...common.errors import WorkError
from ...shards.artifact import Artifact
from ..eval.likelihood import Rows, written
from ..model.compiled import eager
from ..objective.halves import HALVES, half_of, of_half
from ..settings.data import ExactSection
from .writing_order import EXACT, EXACT_GIVEN_LENGTHS, WritingOrder


class ExactLikelihood(Callback):
    """Logs `metrics/exact/<order>/<tokens per step>`, nats per token, beside the bound of the same samples; of a model
    that is told where documents end `metrics/exact_given_lengths/...`.

    It is measured in float32 whatever the run's precision, and touches no random state; ranks share the samples out.
    Best checkpoints go on being chosen by the bound, which every evaluation has.

    Attributes:
        interval: steps between evaluations.
        steps: of the whole run.
        last: what was measured last, as `result.json` has it.
    """

    def __init__(
        self,
        section: ExactSection,
        validation: Artifact,
        samples: int | None,
        interval: int,
        steps: int,
        given_lengths: bool = False,
    ) -> None:
        self.writing = WritingOrder(section.order, section.tokens_per_step)
        self.rows = Rows(validation, samples)
        self.ids = validation.manifest.tokenizer
        self.prefix = EXACT_GIVEN_LENGTHS if given_lengths else EXACT
        self.given = {"given": "lengths"} if given_lengths else {}
        self.every, self.steps = section.every * interval, steps
        self.last: dict[str, Any] | None = None

    def eval_end(self, state: State, logger: Logger) -> None:
        """Measure and log, where it is due.

        Raises:
            WorkError: when the model's scores are not finite.
        """
        step = int(state.timestamp.batch)
        if step % self.every and step < self.steps:
            return
        sums = self._nats(state)
        loss = math.fsum(sums.nats) / self.rows.tokens
        logger.log_metrics({f"metrics/{self.prefix}{self.writing.key}": loss})
        for half, nats, tokens in zip(HALVES, *sums, strict=True):
            name = of_half(self.prefix.rstrip("/"), half)
            if tokens:
                logger.log_metrics({f"metrics/{name}/{self.writing.key}": nats / tokens})
        self.last = {"kind": "nll", "order": self.writing.order, "tokens_per_step": self.writing.tokens_per_step}
        self.last |= {"loss": loss, "tokens": self.rows.tokens, "step": step} | self.given

    def _nats(self, state: State) -> "Sums":
        """Return the sums over all samples; a rank that fails has all fail."""
        model: Any = getattr(state.model, "module", state.model)  # DDP's own forward pass would wait for other ranks
        training = model.training
        model.eval()
        first, ranks = dist.get_global_rank(), dist.get_world_size()
        mine = itertools.islice(self.rows, first, None, ranks)
        batch_tokens = 2**14
        with eager(), torch.autocast(model.transformer.device.type, enabled=False):
            try:
                ids = self.ids.eod, self.ids.mask
                rows = enumerate(written(model.transformer, ids, mine, self.writing, batch_tokens))
                found: Sums | str = _sums((first + i * ranks, nats, len(row)) for i, (row, nats, _) in rows)
            except WorkError as error:
                found = str(error)
        model.train(training)
        parts = dist.all_gather_object(found)
        problem = next((part for part in parts if isinstance(part, str)), None)
        if problem is not None:
            raise WorkError(problem)
        nats, tokens = zip(*parts, strict=True)
        return Sums(
            [math.fsum(own) for own in zip(*nats, strict=True)], [sum(own) for own in zip(*tokens, strict=True)]
        )


class Sums(NamedTuple):
    """What has been measured on each half of the pool, in the order of `HALVES`."""

    nats: list[float]
    tokens: list[int]


def _sums(rows: Iterable[tuple[int, float, int]]) -> Sums:
    """Return the sums over (sample, nats, tokens)."""
    sums = Sums([0.0] * len(HALVES), [0] * len(HALVES))
    for sample, nats, tokens in rows:
        sums.nats[half_of(sample)] += nats
        sums.tokens[half_of(sample)] += tokens
    return sums
