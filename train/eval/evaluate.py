"""Benchmarks and likelihoods of several checkpoints, item by item, so that a stopped evaluation goes on.

Every scored item is a line of `items/<digest>.jsonl` in the output folder; the digest covers the model's weights, the
benchmark's items and everything that changes a score. A run reads the lines that are there and scores the rest.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...common.errors import RequestError, WorkError
from ...common.hashing import digest
from ...common.progress import Progress
from ...shards.artifact import open_artifact, read_manifest
from ...shards.loader.cache import default_cache, in_cache
from ...shards.order.receipt import RECEIPT_NAME
from ...tokenize.tokenizer import Tokenizer
from ..checkpoint import Checkpoint, load_card, model_folder, open_checkpoint, types_of
from ..exact.writing_order import WritingOrder
from ..model.ensemble import Ensemble
from ..run_state.receipt import read_receipt
from . import likelihood, metrics, tasks
from .contamination import contamination_status, training_manifest
from .encoding import Encoded, encode, record
from .results import ItemStore, write_results
from .scoring import Scorer, Work
from .tasks import Benchmark
from .tokenizers import byte_lengths, has_tokenizer, tokenizer_for

SCORES_VERSION = 2
"""Raised when the same settings would give other scores, so that lines of an older version are not used."""

CHUNK_ITEMS, CHUNK_BATCHES = 512, 16
"""Between two writes: at most so many items, and about so many batches."""


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
        tasks: as in `mmlu:5`.
        data: where benchmarks lie (the hub when neither).
        files: where benchmarks lie (the hub when neither).
        norm: what answers are divided by.
        noise_samples: of masked-diffusion models.
        seed: of masked-diffusion models.
        writing: the order in which masked-diffusion models write: tasks are scored by exact likelihoods in place of
            bounds, `loss` gives both.
        limit: items per task, evenly spread.
        loss: artifacts to measure likelihoods on, loss_samples of each.
        trained_on: the training artifact, for the contamination check.
        batch_tokens: tokens read at a time.
        tokenizer: path of the models' tokenizer.json, for models that carry none.
        ensemble: measure the mean of the models' probabilities in place of each of them; of `loss` alone.
    """

    tasks: tuple[str, ...] = tasks.PAPER_TASKS
    data: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    norm: metrics.Norm = "characters"
    noise_samples: int = 128
    seed: int = 0
    writing: WritingOrder | None = None
    limit: int | None = None
    loss: tuple[str, ...] = ()
    loss_samples: int | None = None
    loss_noise_samples: int = 8
    trained_on: str | None = None
    batch_tokens: int = 16384
    tokenizer: str | None = None
    ensemble: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    out: str = "runs/evaluation"
    quiet: bool = False


def run_task(checkpoint: Checkpoint, benchmark: Benchmark, tokenizer: Tokenizer, settings: Settings) -> dict[str, Any]:
    """Return the figures of one model on one benchmark, its items scored where they are not yet.

    Besides those of `metrics.summarise`: what was measured and how (kind, noise samples, seed, shots, digest of the
    data, contamination) and what it cost (items/s and sequences/s of this run, padding waste).
    """
    exact = checkpoint.model.config.exact
    writing = None if exact else settings.writing
    kind = "nll" if exact or writing else "nelbo"
    items = tasks.spread(benchmark.items, settings.limit)
    data = digest([[i.id, i.contexts, i.answers, i.gold] for i in items])
    noise = {} if kind == "nll" else {"noise_samples": settings.noise_samples, "seed": settings.seed}
    order: dict[str, Any] = {"order": writing.order, "tokens_per_step": writing.tokens_per_step} if writing else {}
    dtype = "bfloat16, norms in float32" if settings.dtype == torch.bfloat16 else str(settings.dtype)
    key = [SCORES_VERSION, checkpoint.fingerprint, data, noise | order, dtype]
    store = ItemStore(os.path.join(settings.out, "items", f"{digest(key)}.jsonl"))
    missing = [item for item in items if item.id not in store.records]
    label = f"{benchmark.task}:{benchmark.shots}"
    with Progress(f"{checkpoint.name} {label}", len(missing), "items", settings.quiet) as progress:
        work = _score(checkpoint, encode(missing, tokenizer, benchmark.shots), settings, store, progress)
    records = [store.records[item.id] for item in items]
    manifest = training_manifest(settings.trained_on, checkpoint.card) if settings.trained_on else None
    status = contamination_status(benchmark.digest, manifest)
    body = {"model": checkpoint.name, "task": benchmark.task, "shots": benchmark.shots, "kind": kind}
    body |= {"fingerprint": checkpoint.fingerprint, "data": data, "source": benchmark.source}
    body |= {"items_in_file": len(benchmark.items), "clean": status.clean, "leak_check": status.reason}
    body |= {"order": None, "tokens_per_step": None} | order
    body |= {"noise_samples": None, "seed": None} | noise | metrics.summarise(records, settings.norm)
    return body | _cost(work, len(missing))


def _cost(work: Work, items: int) -> dict[str, Any]:
    seconds = max(work.seconds, 1e-9)
    rates = {"items_per_s": items / seconds, "sequences_per_s": work.sequences / seconds} if items else {}
    return {
        "scored_now": items,
        "sequences": work.sequences,
        "seconds": work.seconds,
        "padding_waste": work.padding_waste if items else None,
        "truncated": work.truncated,
        "items_per_s": None,
        "sequences_per_s": None,
    } | rates


def _score(
    checkpoint: Checkpoint, encoded: Sequence[Encoded], settings: Settings, store: ItemStore, progress: Progress
) -> Work:
    ids = checkpoint.card.tokenizer
    scorer = Scorer(
        checkpoint.model,
        eod=ids["eod"],
        mask=ids["mask"],
        limit=checkpoint.card.seq_len,
        draws=settings.noise_samples,
        seed=settings.seed,
        batch_tokens=settings.batch_tokens,
        writing=None if checkpoint.model.config.exact else settings.writing,
    )
    draws = 1 if checkpoint.model.config.exact or settings.writing else settings.noise_samples
    for chunk in _chunks(encoded, CHUNK_BATCHES * settings.batch_tokens // draws):
        scorer.greedy = len(chunk[0].item.answers) == 1
        scores = iter(scorer.score([g for e in chunk for g in e.groups]))
        records = [record(e, [next(scores) for _ in e.groups]) for e in chunk]
        bad = next((r["id"] for r in records if not all(map(math.isfinite, r["nats"]))), None)
        if bad is not None:
            raise WorkError(f"{checkpoint.name} gives item {bad} no finite likelihood: its weights are damaged")
        store.add(records)
        progress.advance(len(chunk))
    return scorer.work


def _chunks(encoded: Sequence[Encoded], max_tokens: int) -> Iterator[list[Encoded]]:
    """Iterate items in chunks of about `max_tokens`, of similar length and, with examples, of few families: little
    padding, shared prefixes."""

    def tokens(e: Encoded) -> int:
        return sum(len(g.context) + len(a) for g in e.groups for a in g.answers)

    chunk: list[Encoded] = []
    held = 0
    for e in sorted(encoded, key=lambda e: (e.groups[0].family, tokens(e), e.item.id)):
        if chunk and (len(chunk) == CHUNK_ITEMS or held + tokens(e) > max_tokens):
            yield chunk
            chunk, held = [], 0
        chunk.append(e)
        held += tokens(e)
    if chunk:
        yield chunk


def run_loss(
    checkpoint: Checkpoint, path: str, tokenizer: Tokenizer | None, settings: Settings
) -> list[dict[str, Any]]:
    """Return the likelihoods of one model on the artifact at `path`: its own, and that under an order of writing."""
    orders = [settings.writing] if settings.writing and not checkpoint.model.config.exact else []
    return [_measure(checkpoint, path, tokenizer, settings, writing) for writing in (None, *orders)]


def _measure(
    checkpoint: Checkpoint, path: str, tokenizer: Tokenizer | None, settings: Settings, writing: WritingOrder | None
) -> dict[str, Any]:
    artifact = in_cache(open_artifact(path), default_cache())
    likelihood.check_tokenizer(checkpoint.card, artifact)
    rows = likelihood.Rows(artifact, settings.loss_samples).samples
    label = f"{checkpoint.name} loss" + (f", {writing.words}" if writing else "")
    with Progress(label, rows, "samples", settings.quiet) as progress:
        measured = likelihood.measure(
            checkpoint.model,
            checkpoint.card,
            artifact,
            samples=settings.loss_samples,
            noise_samples=settings.loss_noise_samples,
            seed=settings.seed,
            writing=writing,
            byte_lengths=byte_lengths(tokenizer) if tokenizer else None,
            batch_tokens=settings.batch_tokens,
            name=checkpoint.name,
            model_fingerprint=checkpoint.fingerprint,
            tick=progress.advance,
        )
    return measured.to_dict() | {"source": artifact.manifest.name}


def run(paths: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return {"tasks": [...], "likelihoods": [...]} for the checkpoints at `paths`; write both to `settings.out`.

    A model of both types is measured as each of them.
    Cards of models are read first, then all benchmarks, then the first model: what is missing is known at once.

    Raises:
        RequestError: for a wrong request.
        WorkError: when the work failed.
    """
    for path in paths:
        load_card(model_folder(path))
    loaded = [tasks.load(task, settings.data, settings.files) for task in settings.tasks]
    for path in settings.loss:
        read_manifest(path)
    body: dict[str, list[dict[str, Any]]] = {"tasks": [], "likelihoods": []}
    for model in _models(paths, settings):
        tokenizer = None
        if loaded or settings.tokenizer or has_tokenizer(model):
            tokenizer = tokenizer_for(model, settings.tokenizer)
        assert tokenizer is not None or not loaded
        body["likelihoods"] += [r for p in settings.loss for r in run_loss(model, p, tokenizer, settings)]
        body["tasks"] += [run_task(model, b, tokenizer, settings) for b in loaded]  # type: ignore[arg-type]
    if settings.ensemble:
        members = [{"model": path, "receipt": _receipt(path)} for path in paths]
        body["likelihoods"] = [record | {"members": members} for record in body["likelihoods"]]
    write_results(body, settings.out)
    return body


def _models(paths: Sequence[str], settings: Settings) -> Iterator[Checkpoint]:
    """Iterate what is measured: each model, as each of its types; or their ensemble."""
    opened = (types_of(open_checkpoint(path, settings.device, settings.dtype)) for path in paths)
    if not settings.ensemble:
        for types in opened:
            yield from types.values()
        return
    members = list(opened)
    if any(types.keys() != members[0].keys() for types in members):
        raise RequestError("--ensemble is of models of one type, and some of these are of both: name models alike")
    for name in members[0]:
        yield ensemble_of([types[name] for types in members])


def ensemble_of(members: Sequence[Checkpoint]) -> Checkpoint:
    """Return the mean of the members' probabilities as a model to evaluate, under a name that names them all.

    Raises:
        RequestError: for models that are not of one type, or whose ids or lengths differ.
    """
    first = members[0].card
    keys = ("fingerprint", "vocab_size", "eod", "pad", "mask")
    for member in members[1:]:
        if any(member.card.tokenizer[key] != first.tokenizer[key] for key in keys):
            raise RequestError(f"{member.name} has another tokenizer than {members[0].name}: no mean can be taken")
        if member.card.seq_len != first.seq_len:
            raise RequestError(
                f"{member.name} was trained on {member.card.seq_len} tokens a sample, {members[0].name} on "
                f"{first.seq_len}: no mean can be taken"
            )
    name = "mean of " + ", ".join(member.name for member in members)
    model: Any = Ensemble([member.model for member in members])
    return replace(members[0], name=name, model=model.eval(), fingerprint=digest([m.fingerprint for m in members]))


def _receipt(path: str) -> str | None:
    """Return the digest of the checked receipt of the run that a model is of; None for a model without its run."""
    run = os.path.dirname(model_folder(path).rstrip("/"))
    return read_receipt(run).digest if os.path.exists(os.path.join(run, RECEIPT_NAME)) else None
