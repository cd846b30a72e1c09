"""Deduplicate: the stages that say what becomes of each document, all of them tasks on files, on every executor.

    deal      documents -> values            keys and buckets of signatures, by range of value
    match     values -> links                documents that agree in one
    large-n   links -> large-n               in turn with small-n, until links are stars: each document of a cluster is
    small-n   large-n -> small-n             linked to the smallest
    members   documents, stars -> members    documents that have duplicates, by cluster
    cluster   members -> removed, removals   survivors are chosen; what is removed, by number and by survivor
    rows      removals -> rows               rows of duplicates.parquet, and what validation may be drawn from
    fates     documents, removed -> fates    what becomes of each, and counts

What one stage leaves for the next lies in a folder of the work folder, `match-` and how the work is divided. It is
removed when no stage wants it any more.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from ..common import storage
from ..common.errors import WorkError
from .config import Build
from .stages.cluster import Clusters, Members, cluster_ranges
from .stages.components import MOST_ROUNDS, Stars, rounds_path
from .stages.division import Corpus, Division, divided, note, noted
from .stages.duplicates import RemovedCounts, Rows, removed_counts
from .stages.fates import Decide, DocumentCounts, count_documents
from .stages.match import Deal, Match
from .stages.validation import Candidates, chosen, draw, read_candidates, tokens_by_group

SMALL_DOCUMENTS = 1 << 19
"""Fewer documents take less than a second: this process looks for their duplicates itself."""

Run = Callable[[str, list[PipelineStep], int], None]
"""Runs (stage, its steps, tasks) to its end, or goes on with it."""


@dataclass(frozen=True)
class Outcome:
    """What became of documents.

    Attributes:
        division: how they were divided among tasks.
        removed: what deduplication removed.
        counts: of all documents.
        held_out: whether there is a validation pool.
    """

    division: Division
    removed: RemovedCounts
    counts: DocumentCounts
    held_out: bool


def deduplicate(corpus: Corpus, work: str, config: Build, run: Run) -> Outcome:
    """Decide what becomes of each document of `corpus`, which lies in `work`.

    Raises:
        RequestError: when validation would take more than half.
        WorkError: when a stage failed.
    """
    near, small = config.deduplicate.near, corpus.n_documents < SMALL_DOCUMENTS
    division = divided(corpus, work, near.buckets if near else 0, 1 if small else config.tasks)
    return _Stages(division, 1 if small else config.tasks, here if small else run).decide(config)


def here(_: str, steps: list[PipelineStep], __: int) -> None:
    """Run the steps of a stage in this process, as one task."""
    for step in steps:
        deque(step.run(), maxlen=0)


class _Stages:
    """The stages of one division of the work."""

    def __init__(self, division: Division, tasks: int, run: Run) -> None:
        self.division, self.tasks, self._run = division, tasks, run

    def _stage(self, name: str, *steps: PipelineStep) -> None:
        folder = self.division.folder.rpartition("/")[2]
        self._run(f"{folder}-{name}", list(steps), self.tasks)

    def _remove(self, *names: str) -> None:
        for name in names:
            storage.remove(self.division.path(name))

    def decide(self, config: Build) -> Outcome:
        """Run all stages."""
        d = self.division
        self._stage("deal", Deal(d))
        self._stage("match", Match(d))
        self._remove("values")
        links, linked = self._stars()
        ranges = cluster_ranges(d, linked, self.tasks)
        self._stage("members", Members(d, links, ranges))
        self._remove(links)
        self._stage("cluster", Clusters(d, ranges))
        self._remove("members", "member-texts")
        drawn = draw(tokens_by_group(d), config.validation_tokens)
        self._stage("rows", Rows(d, ranges), *([Candidates(d, drawn.last)] if drawn else []))
        self._remove("removals", "removal-texts")
        held_out = chosen(drawn, read_candidates(d)) if drawn else None
        last = drawn.last if drawn and held_out is not None else 0
        self._stage("fates", Decide(d, last, np.zeros(0, np.int64) if held_out is None else held_out))
        return Outcome(d, removed_counts(d), count_documents(d), held_out is not None)

    def _stars(self) -> tuple[str, int]:
        """Turn links into stars; return their folder, and how many documents they link."""
        d, links = self.division, "links"
        for n in range(1, MOST_ROUNDS + 1):
            large, small = f"large-{n}", f"small-{n}"
            self._stage(large, Stars(d, links, large, True))
            counts = noted(rounds_path(d, large))
            not_stars, linked = (sum(count[name] for count in counts) for name in ("not_stars", "linked"))
            log: dict[str, Any] = {"round": n, "not_stars": not_stars, "linked": linked}
            note(d.path(f"log/{large}"), log)
            if not not_stars:
                self._remove(large)
                return links, linked
            self._stage(small, Stars(d, large, small, False))
            self._remove(links, large)
            links = small
        raise WorkError(
            f"clusters are not found after {MOST_ROUNDS} rounds, which no {d.n_documents:,} documents should take: "
            f"report it with {d.path('log')}"
        )
