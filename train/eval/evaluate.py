"""Benchmarks and likelihoods of several checkpoints, item by item, so that a stopped evaluation goes on.

Every scored item is a line of `items/<digest>.jsonl` in the output folder; the digest covers the model's weights, the
benchmark's items and everything that changes a score. A run reads the lines that are there and scores the rest.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
import xxhash

from ...common.errors import RequestError, WorkError, one_line
from ...common.hashing import digest
from ...common.progress import Progress
from ...common.storage import exists, join, open_read, write_atomic
from ...shards.artifact import open_artifact, read_manifest
from ...shards.loader.cache import default_cache, in_cache
from ...shards.manifest import Manifest
from ...tokenize.tokenizer import Tokenizer, load_tokenizer
from ..checkpoint import WEIGHTS_NAME, ModelCard, config_dict, load_model
from ..model.transformer import Transformer
from . import likelihood, metrics, tasks
from .contamination import leak_status
from .scoring import Encoded, Scorer, Work, encode, record
from .tasks import Benchmark

SCORES_VERSION = 1
"""Raised when the same settings would give other scores, so that lines of an older version are not used."""

CHUNK_ITEMS, CHUNK_BATCHES = 512, 16
"""Between two writes: at most so many items, and about so many batches."""


@dataclass(frozen=True)
class Settings:
    """How to evaluate. tasks: as in `mmlu:5`. data, files: where benchmarks lie (the hub when neither).

    norm: what answers are divided by. noise_samples, seed: of masked-diffusion models. limit: items per task, evenly
    spread. loss: artifacts to measure likelihoods on, loss_samples of each. trained_on: the training artifact, for the
    leak check. batch_tokens: tokens read at a time. tokenizer: where the model's is when its name does not say.
    """

    tasks: tuple[str, ...] = tasks.PAPER_TASKS
    data: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    norm: metrics.Norm = "characters"
    noise_samples: int = 128
    seed: int = 0
    limit: int | None = None
    loss: tuple[str, ...] = ()
    loss_samples: int | None = None
    loss_noise_samples: int = 8
    trained_on: str | None = None
    batch_tokens: int = 16384
    tokenizer: str | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    out: str = "runs/evaluation"
    quiet: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A model to evaluate. name: for people; fingerprint: of weights and shape."""

    name: str
    model: Transformer
    card: ModelCard
    fingerprint: str


def open_checkpoint(path: str, device: str, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Return the exported model at `path` (folder or URL), or at `path/final` of a run; RequestError, WorkError."""
    inner = join(path, "final")
    folder = inner if exists(join(inner, WEIGHTS_NAME)) else path
    model, card = load_model(folder, check_device(device), dtype)
    name = os.path.basename(os.path.abspath(path))
    if name in ("final", "best"):
        name = f"{os.path.basename(os.path.dirname(os.path.abspath(path)))}/{name}"
    return Checkpoint(name, model, card, model_fingerprint(folder, card))


def check_device(device: str) -> str:
    """Return `device`. Raises RequestError when there is no such device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"--device {device}: {one_line(error, 120)}") from None
    return device


def model_fingerprint(folder: str, card: ModelCard) -> str:
    """Return a digest of the weights' bytes, the shape and the ids: equal for equal scores."""
    state = xxhash.xxh3_128()
    with open_read(join(folder, WEIGHTS_NAME)) as f:
        while block := f.read(1 << 24):
            state.update(block)
    return digest([state.hexdigest(), config_dict(card.shape), card.tokenizer, card.seq_len])


def tokenizer_for(card: ModelCard, path: str | None = None) -> Tokenizer:
    """Return the tokenizer that a model's data was made with: `path`, or what its card names; see `tokenizer_of`."""
    return tokenizer_of(card.tokenizer, path)


def tokenizer_of(stated: dict[str, Any], path: str | None = None) -> Tokenizer:
    """Return the tokenizer at `path`, or the one that `stated` (a manifest's record) names.

    Raises RequestError when it cannot be found or is another one.
    """
    try:
        found = load_tokenizer(path or str(stated.get("name")))
    except RequestError as error:
        hint = "" if path else ": give it with --tokenizer PATH"
        raise RequestError(f"{error}{hint}") from None
    if found.info.fingerprint != stated.get("fingerprint"):
        name = path or stated.get("name")
        raise RequestError(f"tokenizer '{name}' is not the one the model was trained with: give it with --tokenizer")
    ids = {k: stated[k] for k in ("vocab_size", "eod", "pad", "mask")}
    return Tokenizer(found.info.model_copy(update=ids), found.spec)


def byte_lengths(tokenizer: Tokenizer) -> "likelihood.NDArray[likelihood.np.int64] | None":
    """Return the UTF-8 bytes of each id, int64 (vocab_size,); None unless the tokenizer is a byte-level BPE."""
    import numpy as np

    decoder = tokenizer.spec.get("decoder") or {}
    vocab = tokenizer.spec["model"].get("vocab")
    if decoder.get("type") != "ByteLevel" or not isinstance(vocab, dict):
        return None
    lengths = np.zeros(tokenizer.info.vocab_size, np.int64)
    for text, i in vocab.items():
        lengths[i] = len(text)  # a byte-level vocabulary spells each byte as one character
    lengths[[tokenizer.info.eod, tokenizer.info.pad, tokenizer.info.mask]] = 0
    return lengths


def training_manifest(path: str, card: ModelCard) -> Manifest:
    """Return the manifest of the pool that a model was trained on, `path` being the pool or a subset of it.

    Raises RequestError when the model was trained on something else: its leak check would prove nothing.
    """
    manifest = read_manifest(path)
    plan = card.training.get("plan") or {}
    if "mixture_version" in plan:
        names = ", ".join(source["name"] for source in plan["sources"])
        raise RequestError(f"this model was trained on a mixture ({names}): a check of one of them would prove nothing")
    stated = plan.get("subset")
    if stated is not None and stated != manifest.fingerprint:
        raise RequestError(f"{path} is not what this model was trained on (fingerprint {stated}): name that subset")
    if manifest.parent is None:
        return manifest
    pool = read_manifest(join(path, manifest.parent.path))
    if pool.fingerprint != manifest.parent.fingerprint:
        raise RequestError(f"{manifest.parent.path} is not the pool that {path} was carved from")
    return pool


class ItemStore:
    """Scored items of one model on one benchmark, one JSON line each, in a file that only grows."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.records: dict[int, dict[str, Any]] = {}
        os.makedirs(os.path.dirname(path), exist_ok=True)
        whole = 0
        if os.path.exists(path):
            for line in Path(path).read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break  # the write that was cut off
                body = json.loads(line)
                self.records[body["id"]] = body
                whole += len(line)
            os.truncate(path, whole)

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        """Append records and make them durable."""
        with open(self.path, "a") as f:
            f.writelines(json.dumps(r) + "\n" for r in records)
            f.flush()
            os.fsync(f.fileno())
        self.records |= {r["id"]: r for r in records}


def run_task(checkpoint: Checkpoint, benchmark: Benchmark, tokenizer: Tokenizer, settings: Settings) -> dict[str, Any]:
    """Return the figures of one model on one benchmark, its items scored where they are not yet.

    Besides those of `accuracy.summarise`: what was measured and how (kind, noise samples, seed, shots, digest of the
    data, leak status) and what it cost (items/s and sequences/s of this run, padding waste).
    """
    kind = "nll" if checkpoint.model.config.causal else "nelbo"
    items = tasks.spread(benchmark.items, settings.limit)
    data = digest([[i.id, i.contexts, i.answers, i.gold] for i in items])
    noise = {} if kind == "nll" else {"noise_samples": settings.noise_samples, "seed": settings.seed}
    key = [SCORES_VERSION, checkpoint.fingerprint, data, noise, str(settings.dtype)]
    store = ItemStore(os.path.join(settings.out, "items", f"{digest(key)}.jsonl"))
    missing = [item for item in items if item.id not in store.records]
    label = f"{benchmark.task}:{benchmark.shots}"
    with Progress(f"{checkpoint.name} {label}", len(missing), "items", settings.quiet) as progress:
        work = _score(checkpoint, encode(missing, tokenizer, benchmark.shots), settings, store, progress)
    records = [store.records[item.id] for item in items]
    manifest = training_manifest(settings.trained_on, checkpoint.card) if settings.trained_on else None
    leak = leak_status(benchmark.digest, manifest)
    body = {"model": checkpoint.name, "task": benchmark.task, "shots": benchmark.shots, "kind": kind}
    body |= {"fingerprint": checkpoint.fingerprint, "data": data, "source": benchmark.source}
    body |= {"items_in_file": len(benchmark.items), "clean": leak.clean, "leak_check": leak.reason}
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
    )
    draws = 1 if checkpoint.model.config.causal else settings.noise_samples
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


def run_loss(checkpoint: Checkpoint, path: str, tokenizer: Tokenizer | None, settings: Settings) -> dict[str, Any]:
    """Return the likelihood of one model on the artifact at `path`."""
    artifact = in_cache(open_artifact(path), default_cache())
    likelihood.check_tokenizer(checkpoint.card, artifact)
    rows = likelihood.Rows(artifact, settings.loss_samples).samples
    with Progress(f"{checkpoint.name} loss", rows, "samples", settings.quiet) as progress:
        measured = likelihood.measure(
            checkpoint.model,
            checkpoint.card,
            artifact,
            samples=settings.loss_samples,
            noise_samples=settings.loss_noise_samples,
            seed=settings.seed,
            byte_lengths=byte_lengths(tokenizer) if tokenizer else None,
            batch_tokens=settings.batch_tokens,
            name=checkpoint.name,
            model_fingerprint=checkpoint.fingerprint,
            tick=progress.advance,
        )
    return measured.to_dict() | {"source": artifact.manifest.name}


def run(paths: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return {"tasks": [...], "likelihoods": [...]} for the checkpoints at `paths`; write both to `settings.out`.

    All benchmarks are read before the first model is, so that a bad row is known at once. Raises RequestError,
    WorkError.
    """
    loaded = [tasks.load(task, settings.data, settings.files) for task in settings.tasks]
    for path in settings.loss:
        read_manifest(path)
    body: dict[str, list[dict[str, Any]]] = {"tasks": [], "likelihoods": []}
    for path in paths:
        checkpoint = open_checkpoint(path, settings.device, settings.dtype)
        tokenizer = None
        if loaded or settings.tokenizer or checkpoint.card.tokenizer.get("name") == "gpt2":
            tokenizer = tokenizer_for(checkpoint.card, settings.tokenizer)
        body["likelihoods"] += [run_loss(checkpoint, p, tokenizer, settings) for p in settings.loss]
        assert tokenizer is not None or not loaded
        body["tasks"] += [run_task(checkpoint, b, tokenizer, settings) for b in loaded]  # type: ignore[arg-type]
    write_results(body, settings.out)
    return body


def write_results(body: dict[str, list[dict[str, Any]]], out: str) -> None:
    """Write results.json, and as Parquet one row per model and task, per item, and per likelihood."""
    os.makedirs(out, exist_ok=True)
    write_atomic(os.path.join(out, "results.json"), (json.dumps(body, indent=2, default=_plain) + "\n").encode())
    flat = [{k: v for k, v in row.items() if not isinstance(v, dict)} for row in body["tasks"]]
    subjects = [
        {"model": row["model"], "task": row["task"], "shots": row["shots"], "subject": name} | values
        for row in body["tasks"]
        for name, values in row.get("subjects", {}).items()
    ]
    for name, rows in (
        ("results", flat),
        ("subjects", subjects),
        ("likelihoods", body["likelihoods"]),
        ("lm_eval", body.get("lm_eval", [])),
    ):
        if rows:
            pl.DataFrame(rows, infer_schema_length=None).write_parquet(os.path.join(out, f"{name}.parquet"))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    raise TypeError(f"{type(value).__name__} is no JSON")
