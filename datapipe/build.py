"""The build: sources to a pool and its validation pool, in six stages, resumable after each task.

    ingest   read, check, filter, decontaminate, sign, encode                             -> parts
    match    link duplicates, choose survivors, draw validation (see deduplicate.py)      -> fates
    cuts     where partitions of the order begin in each part                             -> cuts
    pack     canonical order, samples, shards                                             -> shards, rows
    tables   rows of all tasks in one order, long tables sorted first (see tables/)       -> documents, duplicates, ...
    finish   (this process) index, report, manifest

Everything happens in a work folder, beside the target or where `work` says, local or at a URL; its name is a digest of
the request. Finished pools are renamed into place, or copied there with the manifest last. If a build is killed, at any
moment, the same command goes on with the tasks that are not done.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..common import storage
from ..common.errors import WorkError, without_secrets
from ..common.hashing import digest
from ..common.publish import MANIFEST_NAME
from ..shards.manifest import LeftOut
from ..shards.without.found import lines_of
from ..tokenize.tokenizer import Tokenizer, load_tokenizer
from . import left_out
from .config import Build
from .deduplicate import Outcome, deduplicate, here
from .inputs import Stock, remember, take_stock
from .run.executors import run_stage
from .run.fork_server import is_forked, start_task_server, task_server
from .run.stage_progress import watch
from .sources.base import Intake, check_conditions
from .sources.flat_files import check_flat_files
from .sources.listing import Listing
from .sources.registry import list_source, make_reader
from .sources.tokenizers import carried_tokenizer, check_tokenizers
from .stages.cluster import TRAIN, VALIDATION
from .stages.division import Corpus, open_parts
from .stages.fates import Fates
from .stages.finish import finish_pool, versions
from .stages.ingest import COMPARED_WHOLE, EngineDiffersError, Ingest, IngestSettings
from .stages.kept import lines as kept_lines
from .stages.kept import nulls, row_group, types_of
from .stages.losses import check_fields, check_left_out
from .stages.pack import Pack, PoolLayout, WriteCuts, auto_samples_per_shard, cut_groups, read_packed
from .stages.passages import gather
from .stages.statistics import IngestTotals, collect_statistics, ingest_totals
from .tables.joined import WriteTables
from .tables.tables import tables_of, write_left_out
from .target import built_already, changed_facts, lock, publish, record_path, recorded, targets_of, work_folder
from .text.analysers import give_up
from .text.decontaminate import build_index
from .text.excerpts import Excerpts
from .text.exclude import STEP as EXCLUDE
from .text.exclude import load_lists, read_lists, said_of
from .text.filters import make_filters, try_filters

PARTITION_BYTES, MOST_PARTITIONS = 32 << 20, 1 << 14
RUN_BYTES, MOST_RUN_BYTES, RUNS = 192 << 20, 2 << 30, 1 << 13
"""Packing a partition reads a piece of every run: with much input, runs and partitions grow in size, not number."""

EXCLUDE_NAME = "exclude.json"
"""The lists of documents to leave out in the work folder."""

INDEX_NAME = "evaluation.npz"
"""The index of evaluation items in the work folder."""

SMALL_TOKENS, SMALL_TOKENS_FORKED = 1 << 26, 1 << 24
"""Packing fewer tokens takes less time than to start processes for it, new ones or such that are forked."""


@dataclass(frozen=True)
class BuildResult:
    """What a build has made.

    Attributes:
        pool: its path.
        validation: that of the validation pool; None where there is none.
        new: False when they were there already.
        buckets: the paths of the pools that the pool was divided into.
    """

    pool: str
    validation: str | None
    new: bool
    buckets: tuple[str, ...] = ()


def build(config: Build, quiet: bool = False, say: Any = print) -> BuildResult:
    """Build the pools that `config` describes, or return them when they are there already.

    Args:
        quiet: show no progress on standard error.
        say: prints announcements.

    Raises:
        RequestError: for a wrong request.
        WorkError: when the work failed.
    """
    with task_server():
        return _built(config, quiet, say)


def _built(config: Build, quiet: bool, say: Any) -> BuildResult:
    targets, tell = targets_of(config), say
    say = lambda line: tell(without_secrets(line))  # noqa: E731
    config, tokenizer = with_tokenizer(config, say)
    if config.executor.name == "local" and min(config.tasks, config.workers) > 1:
        tokenizer.why_reference  # noqa: B018  (this process needs it too)
        start_task_server(tokenizer, tokenizer.prepare)  # before this process has threads
        tokenizer.ranks  # noqa: B018  (while the server prepares; tasks seldom need them)
    listings = checked(config, tokenizer, say)
    left_out.check_names(config, listings)
    memory = record_path(targets[0], "inputs")
    stock = take_stock(config, listings, memory, say)
    request = _request_digest(config, stock, tokenizer)
    # Which files are left out decides nothing about the others: what a stopped build has done stays of use.
    common = _request_digest(config.model_copy(update={"on_damaged": "error"}), stock, tokenizer)
    with lock(targets[0]):
        new = not built_already(targets, request, config, tokenizer)
        work = work_folder(targets[0], common, config)
        remember(memory, stock.memory)
        if new:
            with storage.naming(work):
                n_pools = _Stages(config, work, stock.listings, tokenizer, quiet, say).to_files(targets, request)
            record = {"request": request, "pools": n_pools}
            storage.write_atomic(record_path(targets[0]), json.dumps(record).encode())
        storage.remove(work)
        pools = targets[: recorded(targets)["pools"]]
    for line in [*left_out.summary(pools[0]), *changed_facts(pools[0], config)]:
        say(line)
    buckets = _divided(pools[0], config, quiet, say)
    return BuildResult(pools[0], pools[1] if pools[1:] else None, new, buckets)


def _divided(pool: str, config: Build, quiet: bool, say: Any) -> tuple[str, ...]:
    """Divide a pool that was built, where that is asked for; return the paths of its buckets."""
    if config.split is None:
        return ()
    from ..shards.buckets.divide import divide

    divided = divide(pool, config.split, quiet)
    if divided.empty:
        say(f"split: {divided.empty} buckets would hold no document: they were not made")
    for path, m in divided.pools:
        say(f"bucket {path.rpartition('/')[2]}: {m.tokens:,} tokens, {m.documents:,} documents")
    return tuple(path for path, _ in divided.pools)


def with_tokenizer(config: Build, say: Any) -> tuple[Build, Tokenizer]:
    """Return a configuration with the names that may be shown and the tokenizer that its sources carry, if it names
    none; and that tokenizer.

    Raises:
        RequestError: when it cannot be loaded.
        WorkError: when it is damaged.
    """
    config = _with_shown_names(config)
    config, named = _with_its_tokenizer(config), config.tokenizer
    choice = config.tokenizer
    tokenizer = load_tokenizer(choice.name, choice.eod, choice.pad, choice.mask)
    if choice != named:
        say(f"tokenizer: that of {choice.name}")
    return config, tokenizer


def checked(config: Build, tokenizer: Tokenizer, say: Any) -> list[Listing]:
    """Return the files of a configuration; what can be refused before it is built is.

    Raises:
        RequestError: for a wrong request.
        WorkError: for a damaged listing.
    """
    check_tokenizers(config.sources, tokenizer, config.tokenizer.name)
    try_filters(make_filters(config.filters))  # refused now rather than in a task
    check_conditions(config.sources)
    read_lists(config.exclude)  # the same
    found = [listing for i, source in enumerate(config.sources) for listing in list_source(i, source)]
    listings = [listing.shown(config.public) for listing in found]
    for note in (note for listing in listings for note in listing.notes):
        say(note)
    return listings


def _with_shown_names(config: Build) -> Build:
    """Return `config` with sources that are named as they may be shown: the names are in the pool's tables."""
    sources = [source.model_copy(update={"name": config.public(source.name)}) for source in config.sources]
    return config.model_copy(update={"sources": sources})


def _with_its_tokenizer(config: Build) -> Build:
    """Return `config` with the tokenizer that its sources of token ids carry, unless it names one."""
    if "name" in config.tokenizer.model_fields_set:
        return config
    folder = carried_tokenizer(config.sources)
    if folder is None:
        return config
    return config.model_copy(update={"tokenizer": config.tokenizer.model_copy(update={"name": folder})})


def _request_digest(config: Build, stock: Stock, tokenizer: Tokenizer) -> str:
    """Return a digest of everything that decides the pool: settings, input files by name and content, tokenizer."""
    files = [[item.root, [[f.name, f.size] for f in item.files]] for item in stock.listings]
    asked = [config.identity(), files, stock.contents, tokenizer.info.fingerprint, versions(config, tokenizer)]
    return digest(asked)


def _what_the_tokenizer_lost(totals: IngestTotals, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what a user should know of documents and the tokenizer, a line each."""
    name = tokenizer.info.name
    if totals.unknown:
        how = "characters left out" if tokenizer.unknown_id is None else "unknown tokens in their place"
        yield (
            f"tokenizer {name}: {totals.with_unknown:,} documents hold text that it does not know "
            f"({totals.unknown:,} {how})"
        )
    if totals.known_by_ids:
        yield (
            f"tokenizer {name}: {totals.known_by_ids:,} documents that came as token ids are compared by their ids, "
            "which it does not make of their text"
        )


class _Stages:
    """The stages of a build, in its work folder."""

    def __init__(
        self, config: Build, work: str, listings: list[Listing], tokenizer: Tokenizer, quiet: bool, say: Any
    ) -> None:
        self.config, self.work, self.listings, self.quiet, self.say = config, work, listings, quiet, say
        self.tokenizer = tokenizer
        self.kept: dict[str, str] = {}
        self.sources = [s.name for s in config.sources]
        self.dtype = "uint16" if tokenizer.info.vocab_size <= 1 << 16 else "uint32"
        self.input_bytes = sum(f.size for item in listings for f in item.files)

    def to_files(self, targets: list[str], request: str) -> int:
        """Run what is not done yet, up to the published pools; return how many there are."""
        for line in check_flat_files(self.config.sources, self.listings, self.tokenizer.info):
            self.say(line)
        if self.tokenizer.why_reference and any(source.tokenized is None for source in self.config.sources):
            self.say(
                f"tokenizer {self.tokenizer.info.name}: encoding with the reference, Hugging Face tokenizers, which is "
                f"slower than gigatoken ({self.tokenizer.why_reference})"
            )
        evaluation = self._index_evaluations()
        totals, files_left_out = self._ingest(evaluation)
        corpus = Corpus(open_parts(self.work), self.sources)
        with watch(self.work, "match", corpus.n_documents, "documents", self.quiet):
            outcome = deduplicate(corpus, self.work, self.config, self._stage)
        layouts, statistics, excerpts = self._lay_out(corpus, outcome, evaluation, totals, files_left_out)
        tokens = sum(layout.n_tokens for layout in layouts)
        with watch(self.work, "pack", tokens, "tokens", self.quiet):
            small = tokens < (SMALL_TOKENS_FORKED if is_forked() else SMALL_TOKENS)
            packing = Pack(self.work, layouts, self.sources, outcome.division.width)
            self._stage("pack", [packing], self.config.tasks, small)
        packed = [read_packed(layout.folder) for layout in layouts]
        some = tables_of(layouts, packed, outcome, corpus, self._stage, self.config.tasks)
        tables = WriteTables(self.work, some, self.config.workers if small else 1)
        if tables.units:
            with watch(self.work, "tables", len(tables.units), "files", self.quiet or small):
                (here if small else self._stage)("tables", [tables], min(self.config.tasks, len(tables.units)))
        for layout, written, target in zip(layouts, packed, targets, strict=False):
            if not storage.exists(layout.folder):
                continue  # published before an interruption
            if not storage.exists(storage.join(layout.folder, MANIFEST_NAME)):
                name = target.rpartition("/")[2]
                finish_pool(self.work, layout, written, name, self.config, self.tokenizer, statistics, excerpts)
            publish(layout.folder, target, request, self.config, self.work, self.quiet)
        return len(layouts)

    def _stage(self, name: str, pipeline: list[Any], tasks: int, small: bool = False) -> None:
        """Run a stage. small: it would be done before processes for it had started, so none are."""
        config = self.config
        workers = 1 if small and config.executor.name == "local" else config.workers
        run_stage(self.work, name, pipeline, tasks, workers, config.executor, [EngineDiffersError], config.written)

    def _index_evaluations(self) -> dict[str, Any] | None:
        """Index the evaluation files once for all tasks; return what the manifest says about them."""
        chosen = self.config.decontaminate
        if chosen is None:
            return None
        path = storage.join(self.work, INDEX_NAME)
        index = build_index(chosen.files, chosen.ngram, self.config.public)
        storage.write_atomic(path, index.to_bytes())
        return {"ngram": chosen.ngram, "too_short": index.too_short, "files": index.file_summary()}

    def _lists(self) -> str | None:
        """Put the lists of documents to leave out where all tasks read them; return where."""
        if not self.config.exclude:
            return None
        path = storage.join(self.work, EXCLUDE_NAME)
        storage.write_atomic(path, read_lists(self.config.exclude))
        return path

    def _excluded(self, totals: IngestTotals) -> list[LeftOut]:
        """Return what the lists of documents to leave out found."""
        if not self.config.exclude:
            return []
        lists = load_lists(storage.read_bytes(storage.join(self.work, EXCLUDE_NAME)))
        reasons = next(row["reasons"] for row in totals.filters if row["name"] == EXCLUDE)
        return said_of(lists, totals.excluded, reasons)

    def _ingest(self, evaluation: dict[str, Any] | None) -> tuple[IngestTotals, dict[str, int]]:
        """Read and encode; return the counts of all tasks, and those of files that were left out."""
        stage = "ingest"
        if storage.exists(storage.join(self.work, "reference-engine")):
            self.tokenizer, stage = self.tokenizer.on_reference(), "ingest-reference"
        try:
            self._run_ingest(stage, evaluation is not None)
        except EngineDiffersError as error:
            self.say(f"{error}; encoding with the reference, Hugging Face tokenizers, instead (slower)")
            storage.write_atomic(storage.join(self.work, "reference-engine"), b"")
            storage.remove(storage.join(self.work, "parts"))
            return self._ingest(evaluation)
        totals = ingest_totals(open_parts(self.work))
        if totals.left_out and self.config.on_damaged == "error":  # by an earlier run of this build
            raise WorkError(left_out.stopped(totals.left_out))
        table = storage.join(self.work, left_out.NAME)
        files_left_out = left_out.write(table, self.sources, self.listings, totals.left_out)
        check_fields(self.config.sources, totals)
        write = partial(write_left_out, self.work, self._stage, self.config.tasks)
        check_left_out(self.work, self.config.sources, self.config.max_reject_fraction, totals, write)
        self.kept = types_of(self.config.keep, totals.kept)
        for line in [*_what_the_tokenizer_lost(totals, self.tokenizer), *kept_lines(self.kept, totals.kept)]:
            self.say(line)
        for line in lines_of(self._excluded(totals)):
            self.say(f"exclude: {line}")
        return totals, files_left_out

    def _run_ingest(self, stage: str, decontaminated: bool) -> None:
        config = self.config
        partitions = 1 << max(0, (max(1, self.input_bytes // PARTITION_BYTES) - 1).bit_length())
        settings = IngestSettings(
            work=self.work,
            sources=tuple(self.sources),
            seed=config.seed,
            tokenizer=self.tokenizer,
            dtype=self.dtype,
            near=config.deduplicate.near,
            index_path=storage.join(self.work, INDEX_NAME) if decontaminated else None,
            partitions=min(partitions, MOST_PARTITIONS),
            run_bytes=max(RUN_BYTES, min(self.input_bytes // RUNS, MOST_RUN_BYTES)),
            compare_all=self.input_bytes <= COMPARED_WHOLE,
            keep=tuple(config.keep),
            exclude_path=self._lists(),
        )
        intake, filters = Intake(written=config.written), make_filters(config.filters, self.sources)
        skip, keep = config.on_damaged == "skip", [kept.name for kept in config.keep]
        readers = [
            make_reader(item, config.sources[item.source], intake, bool(filters), config.tokenizer, skip, keep)
            for item in self.listings
        ]
        pipeline = [*readers, *filters, Ingest(settings, intake, filters)]
        with watch(self.work, "ingest", self.input_bytes, "bytes", self.quiet):
            self._stage(stage, pipeline, config.tasks)
        give_up()  # the analyser of tasks that ran in this process

    def _lay_out(
        self,
        corpus: Corpus,
        outcome: Outcome,
        evaluation: dict[str, Any] | None,
        totals: IngestTotals,
        files_left_out: dict[str, int],
    ) -> tuple[list[PoolLayout], dict[str, Any], Excerpts]:
        """Return how each pool is cut, the statistics, and some texts."""
        cut_files = cut_groups(corpus.parts)
        (here if len(cut_files) == 1 else self._stage)("cuts", [WriteCuts(self.work, cut_files)], len(cut_files))
        counts, removed = outcome.counts, outcome.removed
        statistics = collect_statistics(corpus, counts, removed, totals, evaluation, self.config.sources)
        excluded = [one.model_dump(exclude={"unknown", "kind"}) for one in self._excluded(totals)]
        statistics |= {"exclude": excluded} if excluded else {}
        statistics |= files_left_out | (
            {"kept": self.kept, "kept_null": nulls(self.kept, totals.kept)} if self.kept else {}
        )
        rows = row_group(totals.longest_kept)
        layouts = [
            self._layout(counts.partitions[code], code, rows) for code in [TRAIN] + [VALIDATION] * outcome.held_out
        ]
        fates = Fates(self.work, outcome.division.width)
        return layouts, statistics, gather(corpus, fates, removed, totals, self.tokenizer)

    def _layout(self, tokens: Any, code: int, row_group: int) -> PoolLayout:
        samples, seq_len = self.config.samples_per_shard, self.config.seq_len
        auto = auto_samples_per_shard(int(tokens.sum()), seq_len, self.dtype)
        return PoolLayout(
            folder=storage.join(self.work, "pool" if code == TRAIN else "validation"),
            code=code,
            tokens=tokens.tolist(),
            seq_len=seq_len,
            dtype=self.dtype,
            pad=self.tokenizer.info.pad,
            samples_per_shard=auto if samples == "auto" else samples,
            kept=self.kept,
            row_group=row_group,
        )
