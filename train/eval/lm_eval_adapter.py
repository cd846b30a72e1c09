"""Both model types as a model of lm-evaluation-harness, so that any of its tasks runs (extra `eval`).

Importing this module registers `epochal`. A masked-diffusion model answers with minus the bound where the harness asks
for a log-likelihood, unless an order of writing makes it exact: what a figure is the harness does not know; `epochal
evaluate` writes the kind beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ...common.cli import say
from ...common.errors import RequestError
from ...tokenize.tokenizer import Tokenizer
from ..checkpoint import Checkpoint, chosen_place, open_checkpoint, types_of
from ..exact.writing_order import WritingOrder
from .encoding import encode_pairs
from .generate import Sampling, before_any, frames
from .scoring import Group, Scorer, TokenIds
from .tokenizers import tokenizer_for


@register_model("epochal")
class EpochalLM(LM):
    """A checkpoint for the harness: `EpochalLM("runs/x/final")` or model_args `checkpoint=runs/x/final`.

    Attributes:
        checkpoint: folder or an open one; of a model of both types that of a folder is the autoregressive one.
        noise_samples: of masked diffusion.
        seed: of masked diffusion.
        batch_tokens: tokens read at a time.
        device: where it computes, as for `checkpoint.chosen_place`, when `checkpoint` is a folder.
        dtype: of its products, likewise.
        order: of writing, for exact likelihoods of masked diffusion: `confidence`, `entropy`, `left_to_right`.
        tokens_per_step: of that order.
        max_gen_toks: of generation where a task does not say. The harness' other settings, such as batch_size, are
            accepted and not used.
    """

    def __init__(
        self,
        checkpoint: str | Checkpoint,
        noise_samples: int = 128,
        seed: int = 0,
        batch_tokens: int = 16384,
        device: str = "auto",
        dtype: str = "auto",
        tokenizer: str | Tokenizer | None = None,
        max_gen_toks: int = 256,
        order: str | None = None,
        tokens_per_step: int = 1,
        **unused: Any,
    ) -> None:
        super().__init__()
        if isinstance(checkpoint, str):
            types = types_of(open_checkpoint(checkpoint, *chosen_place(device, dtype)))
            checkpoint = types.get("ar") or types[""]
        opened = checkpoint
        found = tokenizer if isinstance(tokenizer, Tokenizer) else tokenizer_for(opened, tokenizer)
        self.checkpoint, self.epochal_tokenizer, self.max_gen_toks = opened, found, int(max_gen_toks)
        info = found.info
        self.scorer = Scorer(
            opened.model, info.eod, info.mask, opened.card.seq_len, int(noise_samples), int(seed), int(batch_tokens)
        )
        self.scorer.greedy = True
        self.scorer.writing = WritingOrder(order, int(tokens_per_step)) if order else None  # type: ignore[arg-type]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return (log-likelihood or minus the bound in nats, whether greedy decoding would write it); an empty
        continuation is certain."""
        pairs = encode_pairs([request.args for request in requests], self.epochal_tokenizer)
        by_context: dict[bytes, list[int]] = {}
        for i, (context, answer) in enumerate(pairs):
            if requests[i].args[1] and len(answer):
                by_context.setdefault(context.tobytes(), []).append(i)
        groups = [Group(pairs[own[0]][0], tuple(pairs[i][1] for i in own), key=own[0]) for own in by_context.values()]
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        for own, scores in zip(by_context.values(), self.scorer.score(groups), strict=True):
            for i, score in zip(own, scores, strict=True):
                answers[i] = (-score.nats, bool(score.greedy))
        return answers

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-likelihood (or minus the bound) of whole texts, read in windows of the length trained on."""
        texts = [ids.astype(np.int64) for ids in self.epochal_tokenizer.encode([r.args[0] for r in requests])]
        totals = []
        self.scorer.greedy = False
        for number, ids in enumerate(texts):
            groups = [Group(c, (a,), number * 2**20 + w) for w, (c, a) in enumerate(self._windows(ids))]
            totals.append(-sum((row[0].nats for row in self.scorer.score(groups)), 0.0))
        self.scorer.greedy = True
        return totals

    def _windows(self, ids: TokenIds) -> list[tuple[TokenIds, TokenIds]]:
        """Return (context, tokens) pairs in which every token is predicted once."""
        if not len(ids):
            return []
        windows = get_rolling_token_windows(
            ids.tolist(), self.epochal_tokenizer.info.eod, max_seq_len=self.checkpoint.card.seq_len - 1, context_len=1
        )
        parts = (make_disjoint_window(window) for window in windows)
        return [(np.array(context, np.int64), np.array(tokens, np.int64)) for context, tokens in parts]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the text after each context up to the first of its `until` strings."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        until = options.get("until") or []
        until = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        tokens = int(options.get("max_gen_toks", self.max_gen_toks))
        temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
        tokenizer, card = self.epochal_tokenizer, self.checkpoint.card
        room = card.seq_len - tokens - 1
        if room < 1:
            raise RequestError(
                f"the task generates {tokens} tokens, the model was trained on {card.seq_len}: "
                "give the task a smaller max_gen_toks"
            )
        ids = tokenizer.encode([context])[0].tolist()
        self.scorer.work.truncated += len(ids) > room
        prompt = [tokenizer.info.eod, *ids[-room:]]
        sampling = Sampling(tokens, temperature, seed=self.scorer.seed, stop=(tokenizer.info.eod,))
        text = ""
        for new in frames(self.checkpoint.model, prompt, tokenizer.info.mask, sampling):
            if tokenizer.info.mask in new:
                continue
            text = tokenizer.decode_after(prompt, new)
            if any(stop in text for stop in until):
                break
        return before_any(text, until)


def _manager(tasks: Sequence[str], include: str | None) -> Any:
    """Return the harness' index of tasks; the user's own alone where they suffice, since all take seconds to read."""
    from lm_eval.tasks import TaskManager

    own = [TaskManager(include_path=include, include_defaults=False)] if include else []
    if own and all(task in own[0].all_tasks for task in tasks):
        return own[0]
    manager = TaskManager(include_path=include)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise RequestError(f"lm-evaluation-harness knows no task '{unknown[0]}' (list them with `lm-eval ls tasks`)")
    return manager


def run_tasks(
    checkpoint: Checkpoint,
    tasks: Sequence[str],
    tokenizer: Tokenizer,
    noise_samples: int,
    seed: int,
    batch_tokens: int,
    limit: int | None = None,
    shots: int | None = None,
    include: str | None = None,
    writing: WritingOrder | None = None,
) -> list[dict[str, Any]]:
    """Return one row per task and metric: model, task, kind, metric, value, stderr, noise samples.

    Args:
        include: folder with the user's own task files.
        writing: the order of writing, for exact likelihoods of masked diffusion.

    Raises:
        RequestError: for a task the harness does not know.
    """
    from lm_eval import simple_evaluate

    manager = _manager(tasks, include)
    model = EpochalLM(checkpoint, noise_samples, seed, batch_tokens, tokenizer=tokenizer)
    model.scorer.writing = writing = None if checkpoint.model.config.exact else writing
    result = simple_evaluate(
        model, tasks=list(tasks), num_fewshot=shots, limit=limit, task_manager=manager, bootstrap_iters=1000
    )
    if cut := model.scorer.work.truncated:
        say(
            f"{checkpoint.name}: {cut:,} texts of these tasks are longer than the {checkpoint.card.seq_len} tokens "
            "that it was trained on: their beginnings were left out, and what is too long by itself was read whole"
        )
    exact = checkpoint.model.config.exact or writing is not None
    rows = []
    for task, values in (result or {"results": {}})["results"].items():
        for name, value in values.items():
            metric, _, filters = name.partition(",")
            if isinstance(value, int | float) and filters and not metric.endswith("_stderr"):
                error = values.get(f"{metric}_stderr,{filters}")
                row = {"model": checkpoint.name, "task": task, "kind": "nll" if exact else "nelbo", "metric": metric}
                row |= {"order": writing and writing.order, "tokens_per_step": writing and writing.tokens_per_step}
                row |= {"value": float(value), "stderr": float(error) if isinstance(error, int | float) else None}
                rows.append(row | {"noise_samples": None if exact else noise_samples})
    return rows
