"""Accuracy on multiple-choice tasks at every evaluation of a run, beside its validation loss."""

import itertools
from typing import Any

from composer import Callback
from composer.core import State, get_precision_context
from composer.loggers import Logger
from composer.utils import dist

from ...common.errors import RequestError
from ...shards.artifact import Artifact
from ...tokenize.tokenizer import folder_tokenizer
from ..checkpoint import CAUSAL, as_type
from ..model.compiled import eager
from ..settings.data import EvalTasksSection
from . import metrics, tasks
from .continuation import continuation
from .encoding import Encoded, encode, record
from .scoring import Scorer

CONTINUATION = "continuation"
FIGURES = ("accuracy", "accuracy_se", "delta_nll", "delta_nll_se")
"""What is logged of a task, as `metrics/<task>/<figure>`."""


class TaskAccuracy(Callback):
    """Scores the tasks after every validation and logs their accuracy and ΔNLL (wrong minus right, nats per unit).

    Scoring is a pure function of the weights: noise depends on the item alone and no random state is touched. Ranks
    share the items out.

    Attributes:
        both: whether the model is of both types: it is scored as each.
    """

    def __init__(self, section: EvalTasksSection, validation: Artifact, both: bool = False) -> None:
        self.section, self.both = section, both
        info = validation.manifest.tokenizer
        self.eod, self.mask, self.limit = info.eod, info.mask, validation.manifest.seq_len
        self.tasks = {name: _items(name, section, validation) for name in section.tasks}

    def eval_end(self, state: State, logger: Logger) -> None:
        """Score and log; of a model of both types under the names of both, as `metrics/ar/<task>/<figure>`."""
        for type_of_model, (name, items) in itertools.product(CAUSAL if self.both else ("",), self.tasks.items()):
            mine = items[dist.get_global_rank() :: dist.get_world_size()]
            records = [r for part in dist.all_gather_object(self._score(state, mine, type_of_model)) for r in part]
            summary = metrics.summarise(records, self.section.normalize)
            prefix = f"metrics/{type_of_model}/{name}" if type_of_model else f"metrics/{name}"
            logger.log_metrics({f"{prefix}/{k}": summary[k] for k in FIGURES if summary[k] is not None})

    def _score(self, state: State, items: list[Encoded], type_of_model: str) -> list[dict[str, Any]]:
        model: Any = getattr(state.model, "module", state.model)  # DDP's own forward pass would wait for other ranks
        training = model.training
        model.eval()
        scored = as_type(model.transformer, type_of_model) if type_of_model else model.transformer
        scorer = Scorer(scored, self.eod, self.mask, self.limit, self.section.noise_samples)
        with eager(), get_precision_context(state.precision):
            scores = iter(scorer.score([g for e in items for g in e.groups]))
        model.train(training)
        return [record(e, [next(scores) for _ in e.groups]) for e in items]


def _items(name: str, section: EvalTasksSection, validation: Artifact) -> list[Encoded]:
    if name == CONTINUATION:
        return continuation(validation, section.limit)
    benchmark = tasks.load(name, section.data)
    if len(benchmark.items[0].answers) < 2:
        raise RequestError(f"eval_tasks: {name} has one answer per item, there is nothing to choose from")
    items = tasks.spread(benchmark.items, section.limit)
    return encode(items, folder_tokenizer(validation.root), benchmark.shots)
