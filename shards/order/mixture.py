"""A mixture: a training stream from several subsets, each repeated by a plan of its own, as arithmetic.

A run is cut into stages, a stage into windows of W positions (the last one may be shorter). How many positions of a
window belong to which source is its quota: with shares g_0, g_1, ... that add up to G and B_s(x) = x * (g_0 + ... +
g_(s-1)) / G, rounded, the first x positions of a stage hold B_(s+1)(x) - B_s(x) of source s, for every x at which a
window ends. A keyed permutation spreads the sources over the window, and each source's own samples come in the order of
its plan: the k-th position of source s, counted over the whole run, reads sample plan_s.ids(k).

docs/repetition.md is the definition for others, with test vectors.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from ...common.errors import RequestError, WorkError
from ...common.hashing import check_seed
from ...common.hashing import digest as json_digest
from .base import Ids, Int, Order, as_positions, summed_histogram
from .many import ids_of
from .plan import Plan
from .windows import CHUNK, MAX_WINDOW, Stage, StageWindows, places_of

MIXTURE_VERSION = 1
"""Raised whenever the same numbers would give another order, or another digest."""


@dataclass(frozen=True)
class Source:
    """A source of a mixture: its name, and the plan that its samples are repeated by, which is read to its end."""

    name: str
    plan: Plan

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise RequestError(f"a source of a mixture has a name, got {self.name!r}")


@dataclass(frozen=True)
class Mixture(Order):
    """The order of a run over several subsets. Equal mixtures have equal fingerprints.

    A sample's id is its number in its subset plus the samples of the sources before it, so ids go from 0 to `samples`.
    Build one with `by_tokens` or `by_weights` of mixing.py.

    Attributes:
        window: W, positions over which the shares are met exactly.
        seed: of how sources are spread over a window.

    Raises:
        RequestError: when the numbers contradict each other.
    """

    kind: ClassVar[Literal["plan", "mixture"]] = "mixture"

    sources: tuple[Source, ...]
    stages: tuple[Stage, ...]
    window: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not self.sources or not self.stages:
            raise RequestError("a mixture has at least one source and one stage")
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names) or len({source.plan.subset for source in self.sources}) < len(names):
            raise RequestError("each source of a mixture has a name and a subset of its own: one is there twice")
        if len({source.plan.seq_len for source in self.sources}) > 1:
            lengths = ", ".join(f"{s.name} {s.plan.seq_len}" for s in self.sources)
            raise RequestError(f"the sources of a mixture must have samples of one length, not {lengths}")
        if isinstance(self.window, bool) or not isinstance(self.window, int) or not 1 <= self.window <= MAX_WINDOW:
            raise RequestError(f"window must be an integer from 1 to {MAX_WINDOW}, got {self.window!r}")
        for stage in self.stages:
            self._check_stage(stage)
        if self.positions >= 2**63:
            raise RequestError("a mixture has less than 2**63 positions")
        for s, source in enumerate(self.sources):
            if self._begins[-1][s] != source.plan.positions:
                read, planned = self._begins[-1][s], source.plan.positions
                raise RequestError(f"the stages read {read} samples of '{source.name}', its plan has {planned}")

    def _check_stage(self, stage: Stage) -> None:
        if stage.positions < 1 or len(stage.shares) != len(self.sources) or min(stage.shares) < 0:
            raise RequestError("a stage has at least one position, and a share that is not negative for every source")
        total = sum(stage.shares)
        if not total:
            raise RequestError("a stage without any source: give one of them a weight")
        for source, share in zip(self.sources, stage.shares, strict=True):
            if 0 < share * self.window < total and stage.positions > self.window:
                least = -(-total // share)
                raise RequestError(
                    f"a window of {self.window} samples has room for less than one of '{source.name}': "
                    f"use a window of at least {least}"
                )

    # -- sizes --------------------------------------------------------------------------------------------------

    @property
    def seq_len(self) -> int:  # type: ignore[override]  # the sources have it
        """Tokens of a sample."""
        return self.sources[0].plan.seq_len

    @cached_property
    def positions(self) -> int:
        """P: samples of the whole run."""
        return sum(stage.positions for stage in self.stages)

    @cached_property
    def samples(self) -> int:  # type: ignore[override]  # the sources have it
        """Different samples, of all sources together."""
        return sum(source.plan.samples for source in self.sources)

    @cached_property
    def unique_tokens(self) -> int:  # type: ignore[override]  # the sources have it
        """Unique tokens, of all sources together."""
        return sum(source.plan.unique_tokens for source in self.sources)

    @property
    def copies(self) -> int:
        """Passes that are begun over the source that is repeated most."""
        return max(source.plan.copies for source in self.sources)

    @property
    def total_tokens(self) -> int:  # type: ignore[override]  # the sources have it
        """The budget: those of the sources' plans together."""
        return sum(source.plan.total_tokens for source in self.sources)

    def components(self) -> dict[str, Plan]:
        """Return the sources' plans by the names of the sources, in their order."""
        return {source.name: source.plan for source in self.sources}

    def _plans_at(self, position: int) -> list[tuple[Plan, int]]:
        """Return each source's plan and how many of its own positions the mixture's [0, position) read."""
        return list(zip(self.components().values(), self.counts(position), strict=True))

    def tokens_before(self, position: int) -> int:
        """Return the real tokens in positions [0, position)."""
        return sum(plan.tokens_before(n) for plan, n in self._plans_at(position))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The first sample id of each source, and the number of all samples."""
        return (0, *np.cumsum([source.plan.samples for source in self.sources], dtype=np.int64).tolist())

    @cached_property
    def _begins(self) -> list[list[int]]:
        """How much of each source was read before each stage; last, how much in all."""
        begins = [[0] * len(self.sources)]
        for stage in self.stages:
            begins.append([a + b for a, b in zip(begins[-1], stage.totals(stage.positions), strict=True)])
        return begins

    @cached_property
    def _begun(self) -> Int:
        """The same as int64 (stages + 1, sources)."""
        return np.array(self._begins, np.int64)

    @cached_property
    def _stage_starts(self) -> Int:
        """The first position of each stage, and the end, int64."""
        return np.cumsum([0] + [stage.positions for stage in self.stages])

    # -- windows ------------------------------------------------------------------------------------------------

    @cached_property
    def _windows(self) -> list[StageWindows]:
        """The windows of each stage."""
        return [StageWindows(stage, i, self.window, self.seed) for i, stage in enumerate(self.stages)]

    def quotas(self, stage: int, windows: range) -> Int:
        """Return how many positions of each window of a stage belong to each source, int64 (len(windows), sources)."""
        edges = np.array([*windows, windows.stop], object)
        return np.diff(self._windows[stage].before(edges), axis=0)

    def _located(self, positions: Ids) -> tuple[Int, Int]:
        """Return the source of each position and what of it came before in the run, int64 (k,) each."""
        wanted = positions.astype(np.int64)
        source, number = np.empty(len(wanted), np.int64), np.empty(len(wanted), np.int64)
        edges = self._stage_starts
        stages = np.searchsorted(edges, wanted, side="right") - 1
        for i in np.unique(stages).tolist():
            where = np.flatnonzero(stages == i)
            source[where], earlier = self._windows[i].locate(wanted[where] - edges[i])
            number[where] = self._begun[i][source[where]] + earlier
        return source, number

    # -- the order ----------------------------------------------------------------------------------------------

    def ids(self, positions: range | ArrayLike) -> Ids:
        """Return the sample at each position, uint64 of shape (k,). See `locate` for its source.

        Costs a window's work for each window that is touched, wherever it lies.

        Raises:
            RequestError: outside of the run.
        """
        out = np.empty(0, np.uint64)
        if isinstance(positions, range) and len(positions) > CHUNK:
            starts = range(positions.start, positions.stop, CHUNK)
            return np.concatenate([self.ids(range(a, min(a + CHUNK, positions.stop))) for a in starts])
        wanted = as_positions(positions)
        if not len(wanted):
            return out
        self._check_position(int(wanted.max()) + 1)
        sources, numbers = self._located(wanted)
        inner = ids_of([source.plan for source in self.sources], sources, numbers)
        return inner + np.array(self.offsets, np.uint64)[sources]

    def locate(self, ids: ArrayLike) -> tuple[Int, Ids]:
        """Return the source of each sample and its number in that source's subset, int64 and uint64 (k,)."""
        wanted = self._as_ids(ids)
        sources = np.searchsorted(np.array(self.offsets[1:], np.uint64), wanted, side="right")
        return sources, wanted - np.array(self.offsets, np.uint64)[sources]

    def passes_at(self, positions: ArrayLike) -> Int:
        """Return in which pass over its own source each position lies, int64 (k,); not for the policy `global`."""
        sources, numbers = self._located(np.asarray(positions).astype(np.uint64))
        return numbers // np.array([source.plan.samples for source in self.sources], np.int64)[sources]

    def position_of(self, ids: ArrayLike, pass_: int) -> Ids:
        """Return where each sample comes in pass `pass_` of its own source, uint64 (k,).

        A result of at least `positions` means that the run ends before.

        Raises:
            RequestError: for an unknown sample.
        """
        sources, inner = self.locate(ids)
        out = np.full(len(sources), self.positions, np.uint64)
        if pass_ < 0:
            raise RequestError(f"there is no pass {pass_} in this order")
        for s in np.unique(sources).tolist():
            if pass_ >= self.sources[s].plan.copies:
                continue
            where = np.flatnonzero(sources == s)
            numbers = self.sources[s].plan.position_of(inner[where], pass_)
            reached = numbers < self.sources[s].plan.positions
            out[where[reached]] = self.position_of_own(s, numbers[reached].astype(np.int64))
        return out

    def position_of_own(self, component: int, numbers: Int) -> Ids:
        """Return the position at which each of a source's own positions comes, uint64 of shape (k,).

        Args:
            component: number of the source.
            numbers: int64 (k,), 0 to positions of its plan (not checked). Costs a window's work for each one touched.
        """
        return positions_of_own([(self, component)], np.zeros(len(numbers), np.int64), numbers)

    @property
    def lookup_width(self) -> int:
        """Positions that are worked out to look at one: a window."""
        return self.window

    # -- what was seen ------------------------------------------------------------------------------------------

    def counts(self, position: int) -> list[int]:
        """Return how many of the positions [0, position) each source has: exact, and without walking the run."""
        self._check_position(position)
        i, left = 0, position
        while i < len(self.stages) and left >= self.stages[i].positions:
            i, left = i + 1, left - self.stages[i].positions
        if i == len(self.stages):
            return list(self._begins[-1])
        return (np.array(self._begins[i]) + self._windows[i].counts(left)).tolist()

    def exposures(self, position: int, ids: ArrayLike | None = None) -> Int:
        """Return how often each sample comes in positions [0, position), int64 (k,), for `ids` or for all samples.

        What each source's own plan says after as many of its positions as the mixture has read.
        """
        plans = self._plans_at(position)
        if ids is None:
            return np.concatenate([plan.exposures(n) for plan, n in plans])
        sources, inner = self.locate(ids)
        out = np.empty(len(sources), np.int64)
        for s in np.unique(sources).tolist():
            where = np.flatnonzero(sources == s)
            plan, n = plans[s]
            out[where] = plan.exposures(n, inner[where])
        return out

    def histogram(self, position: int) -> dict[int, int]:
        """Return {exposures: number of samples that have been seen so often} for positions [0, position)."""
        return summed_histogram(self._plans_at(position))

    def unique_tokens_seen(self, position: int) -> int:
        """Return how many different tokens positions [0, position) hold; see `Plan.unique_tokens_seen`."""
        return sum(plan.unique_tokens_seen(n) for plan, n in self._plans_at(position))

    @property
    def counts_unique_tokens(self) -> bool:
        """Whether `unique_tokens_seen` is exact: no source is too long a plan of the policy `global`."""
        return all(plan.counts_unique_tokens for plan in self.components().values())

    def n_tokens(self, ids: ArrayLike) -> Int:
        """Return the real tokens of each sample in `ids`, int64 of the same shape."""
        wanted = np.asarray(ids)
        out = np.full(wanted.shape, self.seq_len, np.int64)
        for source, stop in zip(self.sources, self.offsets[1:], strict=True):
            out -= source.plan.padding * (wanted == stop - 1)
        return out

    def _check_position(self, position: int) -> None:
        if not 0 <= position <= self.positions:
            raise RequestError(f"position must lie in 0 to {self.positions}, got {position}")

    def _as_ids(self, ids: ArrayLike) -> Ids:
        wanted = np.atleast_1d(np.asarray(ids))
        if wanted.dtype.kind not in "iu" or (len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.samples):
            raise RequestError(f"sample ids are integers from 0 to {self.samples - 1}")
        return wanted.astype(np.uint64)

    # -- JSON ---------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits: BLAKE2b-128 of the canonical JSON of the fields and MIXTURE_VERSION."""
        return json_digest({"mixture_version": MIXTURE_VERSION} | asdict(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the mixture as JSON data; `positions` and `fingerprint` are there to be read and checked."""
        return {
            "mixture_version": MIXTURE_VERSION,
            "sources": [{"name": source.name, "plan": source.plan.to_dict()} for source in self.sources],
            "stages": [{"positions": stage.positions, "shares": list(stage.shares)} for stage in self.stages],
            "window": self.window,
            "seed": self.seed,
            "positions": self.positions,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Mixture":
        """Return the mixture that `to_dict` wrote.

        Raises:
            RequestError: when it is none.
            WorkError: when changed.
        """
        if not isinstance(data, dict) or "mixture_version" not in data:
            raise RequestError("this is no mixture of epochal")
        if data["mixture_version"] != MIXTURE_VERSION:
            raise RequestError(
                f"the mixture is of version {data['mixture_version']}, this epochal reads {MIXTURE_VERSION}"
            )
        try:
            sources = tuple(Source(s["name"], Plan.from_dict(s["plan"])) for s in data["sources"])
            stages = tuple(Stage(s["positions"], tuple(s["shares"])) for s in data["stages"])
            mixture = cls(sources, stages, data["window"], data["seed"])
        except (KeyError, TypeError) as error:
            raise RequestError(f"this is no mixture of epochal: {error}") from None
        if data.get("fingerprint") != mixture.fingerprint or data.get("positions") != mixture.positions:
            raise WorkError("the mixture's numbers and its fingerprint disagree: it was changed after it was written")
        return mixture

    def _difference(self, other: Order) -> str:
        mine, theirs = self.to_dict(), other.to_dict()
        changes = [f"{k} is {theirs[k]}, not {mine[k]}" for k in ("window", "seed", "stages") if mine[k] != theirs[k]]
        plans, others = self.components(), other.components()
        if list(plans) != list(others):
            return ", ".join([*changes, f"sources are {list(others)}, not {list(plans)}"])
        changes += [f"{name}: {plans[name].difference(others[name])}" for name in plans if plans[name] != others[name]]
        return ", ".join(changes)


def positions_of_own(sources: Sequence[tuple[Order, int]], which: Int, numbers: Int) -> Ids:
    """Return where own positions of sources come, uint64 (n,): `order.position_of_own(component, numbers[i])` of the
    order and component at `sources[which[i]]`; those of mixtures are computed together. Both are int64 (n,)."""
    out = np.empty(len(numbers), np.uint64)
    mixed = np.array([type(order) is Mixture for order, _ in sources], bool)
    for s in np.unique(which[~mixed[which]]).tolist():
        where = np.flatnonzero(which == s)
        out[where] = sources[s][0].position_of_own(sources[s][1], numbers[where])
    if (where := np.flatnonzero(mixed[which])).size:
        kept = [(order, component) for order, component in sources if type(order) is Mixture]
        out[where] = _positions_in_mixtures(kept, (np.cumsum(mixed) - 1)[which[where]], numbers[where])
    return out


def _positions_in_mixtures(sources: Sequence[tuple[Mixture, int]], which: Int, numbers: Int) -> Int:
    lengths = np.array([len(mixture.stages) for mixture, _ in sources])
    begun = np.full((len(sources), lengths.max() + 1), np.iinfo(np.int64).max)  # a row a source, as `_begun`
    for row, (mixture, component) in zip(begun, sources, strict=True):
        row[: len(mixture.stages) + 1] = mixture._begun[:, component]
    at = (begun[which] <= numbers[:, None]).sum(axis=1) - 1
    of = (np.cumsum(lengths) - lengths)[which] + at
    stages = [windows for mixture, _ in sources for windows in mixture._windows]
    components = np.repeat([component for _, component in sources], lengths).tolist()
    starts = np.concatenate([mixture._stage_starts[:-1] for mixture, _ in sources])
    return starts[of] + places_of(stages, components, of, numbers - begun[which, at])
