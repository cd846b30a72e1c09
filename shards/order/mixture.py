"""A mixture: a training stream from several subsets, each repeated by a plan of its own, as arithmetic.

A run is cut into stages, a stage into windows of W positions (the last one may be shorter). How many positions of a
window belong to which source is its quota: with shares g_0, g_1, ... that add up to G and B_s(x) = x * (g_0 + ... +
g_(s-1)) / G, rounded, the first x positions of a stage hold B_(s+1)(x) - B_s(x) of source s, for every x at which a
window ends. A keyed permutation spreads the sources over the window, and each source's own samples come in the order of
its plan: the k-th position of source s, counted over the whole run, reads sample plan_s.ids(k).

docs/repetition.md is the definition for others, with test vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...common.errors import RequestError, WorkError
from ...common.hashing import check_seed, derive_words, mix64
from ...common.hashing import digest as json_digest
from ..manifest import Manifest
from .base import Ids, Order, as_positions
from .plan import Plan, Policy

MIXTURE_VERSION = 1
"""Raised whenever the same numbers would give another order, or another digest."""

MAX_WINDOW = 1 << 20
_GOLDEN = 0x9E3779B97F4A7C15

_CHUNK = 1 << 18
"""Positions whose windows are held at once."""

Int = NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A source of a mixture: its name, and the plan that its samples are repeated by, which is read to its end."""

    name: str
    plan: Plan

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise RequestError(f"a source of a mixture has a name, got {self.name!r}")


@dataclass(frozen=True)
class Stage:
    """So many positions, of which each source has its share (integers, one a source; 0: not in this stage)."""

    positions: int
    shares: tuple[int, ...]

    def __post_init__(self) -> None:
        wrong = [n for n in (self.positions, *self.shares) if isinstance(n, bool) or not isinstance(n, int)]
        if wrong:
            raise RequestError(f"positions and shares of a stage are integers, got {wrong[0]!r}")


@dataclass(frozen=True)
class Mixture(Order):
    """The order of a run over several subsets. Equal mixtures have equal fingerprints.

    window: W, positions over which the shares are met exactly. seed: of how sources are spread over a window.

    A sample's id is its number in its subset plus the samples of the sources before it, so ids go from 0 to `samples`.
    Build one with `by_tokens` or `by_weights`. Raises RequestError when the numbers contradict each other.
    """

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
    def samples(self) -> int:
        """Different samples, of all sources together."""
        return sum(source.plan.samples for source in self.sources)

    @cached_property
    def unique_tokens(self) -> int:
        """Unique tokens, of all sources together."""
        return sum(source.plan.unique_tokens for source in self.sources)

    @property
    def copies(self) -> int:
        """Passes that are begun over the source that is repeated most."""
        return max(source.plan.copies for source in self.sources)

    @property
    def tokens(self) -> int:
        """Real tokens of the whole run."""
        return self.tokens_before(self.positions)

    @property
    def total_tokens(self) -> int:
        """The budget: those of the sources' plans together."""
        return sum(source.plan.total_tokens for source in self.sources)

    def tokens_before(self, position: int) -> int:
        """Return the real tokens in positions [0, position)."""
        counts = self.counts(position)
        return sum(source.plan.tokens_before(n) for source, n in zip(self.sources, counts, strict=True))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The first sample id of each source, and the number of all samples."""
        return (0, *np.cumsum([source.plan.samples for source in self.sources], dtype=np.int64).tolist())

    @cached_property
    def _begins(self) -> list[list[int]]:
        """How much of each source was read before each stage; last, how much in all."""
        found = [[0] * len(self.sources)]
        for stage in self.stages:
            found.append([a + b for a, b in zip(found[-1], _totals(stage, stage.positions), strict=True)])
        return found

    # -- windows ------------------------------------------------------------------------------------------------

    def _before(self, stage: Stage, windows: NDArray[Any]) -> Int:
        """Return how much of each source comes in a stage before each of some windows, int64 (k, sources).

        windows: numbers from 0 to the number of windows, object integers.
        """
        whole, rest = divmod(stage.positions, self.window)
        found = _counts(stage, np.minimum(windows * self.window, stage.positions))
        if rest and whole:
            # The last, shorter window must come out right to the sample: it shares what is left with the one before.
            last = np.array([whole - 1, whole + 1], object) * self.window
            start, end = _counts(stage, np.minimum(last, stage.positions))
            left = np.concatenate([[0], np.cumsum(end - start)]).astype(object)
            size = self.window + rest
            cut = np.diff((2 * left * self.window + size) // (2 * size)).astype(np.int64)
            found[windows == whole] = start + cut
        return found

    def quotas(self, stage: int, windows: range) -> Int:
        """Return how many positions of each window of a stage belong to each source, int64 (len(windows), sources)."""
        edges = np.array([*windows, windows.stop], object)
        return np.diff(self._before(self.stages[stage], edges), axis=0)

    def _spread(self, number: int, windows: Int) -> tuple[Int, Int, Int]:
        """Return (source of each place, what of it came before in the window, what came before the window).

        Shapes (k, width), (k, width), (k, sources), for windows of one width of stage `number`.
        """
        stage = self.stages[number]
        numbers = windows.astype(object)
        before, after = self._before(stage, numbers), self._before(stage, numbers + 1)
        width = min(self.window, stage.positions - int(windows[0]) * self.window)
        slots = (windows.astype(np.uint64) * np.uint64(MAX_WINDOW))[:, None] + np.arange(width, dtype=np.uint64)
        key = derive_words("mixture/window", self.seed, number, 1)[0]
        order = np.argsort(mix64(key + slots * np.uint64(_GOLDEN)), axis=1, kind="stable")
        edges = np.cumsum(after - before, axis=1)
        source = np.zeros((len(windows), width), np.int64)
        for s in range(len(self.sources) - 1):
            source += order >= edges[:, s : s + 1]
        earlier = np.zeros_like(source)
        for s in np.flatnonzero((after - before).any(axis=0)):
            mine = source == s
            earlier[mine] = (np.cumsum(mine, axis=1) - 1)[mine]
        return source, earlier, before

    def _located(self, positions: Ids) -> tuple[Int, Int]:
        """Return the source of each position and what of it came before in the run, int64 (k,) each."""
        wanted = positions.astype(np.int64)
        source, number = np.empty(len(wanted), np.int64), np.empty(len(wanted), np.int64)
        edges = np.cumsum([0] + [stage.positions for stage in self.stages])
        stages = np.searchsorted(edges, wanted, side="right") - 1
        for i in np.unique(stages).tolist():
            where = np.flatnonzero(stages == i)
            source[where], number[where] = self._located_in(i, wanted[where] - edges[i])
        return source, number

    def _located_in(self, number: int, places: Int) -> tuple[Int, Int]:
        """Return what `_located` does for places counted from the beginning of stage `number`."""
        begun = np.array(self._begins[number], np.int64)
        present = np.flatnonzero(self.stages[number].shares)
        if len(present) == 1:
            return np.full(len(places), present[0]), begun[present[0]] + places
        windows, inverse = np.unique(places // self.window, return_inverse=True)
        source, count = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        for first, part in self._parts(number, windows):
            where = np.flatnonzero((inverse >= first) & (inverse < first + len(part)))
            row, column = inverse[where] - first, places[where] % self.window
            sources, earlier, before = self._spread(number, part)
            source[where] = sources[row, column]
            count[where] = begun[source[where]] + before[row, source[where]] + earlier[row, column]
        return source, count

    def _parts(self, number: int, windows: Int) -> Iterator[tuple[int, Int]]:
        """Yield (index of the first, windows) of some windows of one width at a time; a short last one comes alone."""
        whole = self.stages[number].positions // self.window
        n = int(np.searchsorted(windows, whole))
        at_once = max(1, _CHUNK // self.window)
        for start in range(0, n, at_once):
            yield start, windows[start : min(start + at_once, n)]
        if n < len(windows):
            yield n, windows[n:]

    # -- the order ----------------------------------------------------------------------------------------------

    def ids(self, positions: range | ArrayLike) -> Ids:
        """Return the sample at each position, uint64 of shape (k,). See `locate` for its source.

        Costs a window's work for each window that is touched, wherever it lies. Raises RequestError outside of the run.
        """
        out = np.empty(0, np.uint64)
        if isinstance(positions, range) and len(positions) > _CHUNK:
            starts = range(positions.start, positions.stop, _CHUNK)
            return np.concatenate([self.ids(range(a, min(a + _CHUNK, positions.stop))) for a in starts])
        wanted = as_positions(positions)
        if not len(wanted):
            return out
        self._check_position(int(wanted.max()) + 1)
        sources, numbers = self._located(wanted)
        out = np.empty(len(wanted), np.uint64)
        for s in np.unique(sources).tolist():
            where = np.flatnonzero(sources == s)
            out[where] = self.sources[s].plan.ids(numbers[where]) + np.uint64(self.offsets[s])
        return out

    def locate(self, ids: ArrayLike) -> tuple[Int, Ids]:
        """Return the source of each sample and its number in that source's subset, int64 and uint64 (k,)."""
        wanted = self._as_ids(ids)
        sources = np.searchsorted(np.array(self.offsets[1:], np.uint64), wanted, side="right")
        return sources, wanted - np.array(self.offsets, np.uint64)[sources]

    def position_of(self, ids: ArrayLike, pass_: int) -> Ids:
        """Return where each sample comes in pass `pass_` of its own source, uint64 (k,).

        A result of at least `positions` means that the run ends before. Raises RequestError for an unknown sample.
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

    def position_of_own(self, s: int, numbers: Int) -> Ids:
        """Return the position at which each of source `s`'s own positions comes, uint64 of shape (k,).

        numbers: int64 (k,), 0 to positions of its plan (not checked). Costs a window's work for each one touched.
        """
        out = np.empty(len(numbers), np.uint64)
        begins = np.array([begin[s] for begin in self._begins])
        stages = np.searchsorted(begins, numbers, side="right") - 1
        starts = np.cumsum([0] + [stage.positions for stage in self.stages])
        for i in np.unique(stages).tolist():
            where = np.flatnonzero(stages == i)
            out[where] = starts[i] + self._place_of(i, s, numbers[where] - begins[i])
        return out

    def _place_of(self, number: int, s: int, counts: Int) -> Int:
        """Return the place, in stage `number`, of source `s`'s samples `counts`, counted from the stage's beginning."""
        stage = self.stages[number]
        if sum(map(bool, stage.shares)) == 1:
            return counts
        n_windows = -(-stage.positions // self.window)
        guess = counts.astype(object) * sum(stage.shares) // (stage.shares[s] * self.window)
        windows = np.minimum(guess, n_windows - 1)
        while True:  # the guess is off by a window or two where quotas were rounded
            late = self._before(stage, windows)[:, s] > counts
            early = self._before(stage, windows + 1)[:, s] <= counts
            if not (late.any() or early.any()):
                break
            windows = windows - late.astype(int) + early.astype(int)
        found, inverse = np.unique(windows.astype(np.int64), return_inverse=True)
        places = np.empty(len(counts), np.int64)
        for first, part in self._parts(number, found):
            where = np.flatnonzero((inverse >= first) & (inverse < first + len(part)))
            sources, _, before = self._spread(number, part)
            row = inverse[where] - first
            mine = np.argsort(sources != s, axis=1, kind="stable")  # places of this source first, in order
            places[where] = part[row] * self.window + mine[row, counts[where] - before[row, s]]
        return places

    # -- what was seen ------------------------------------------------------------------------------------------

    def counts(self, position: int) -> list[int]:
        """Return how many of the positions [0, position) each source has: exact, and without walking the run."""
        self._check_position(position)
        i, left = 0, position
        while i < len(self.stages) and left >= self.stages[i].positions:
            i, left = i + 1, left - self.stages[i].positions
        if i == len(self.stages):
            return list(self._begins[-1])
        window, place = divmod(left, self.window)
        found = np.array(self._begins[i]) + self._before(self.stages[i], np.array([window], object))[0]
        if place:
            sources = self._located_in(i, np.arange(left - place, left))[0]
            found = found + np.bincount(sources, minlength=len(self.sources))
        return found.tolist()

    def exposures(self, position: int, ids: ArrayLike | None = None) -> Int:
        """Return how often each sample comes in positions [0, position), int64 (k,), for `ids` or for all samples.

        What each source's own plan says after as many of its positions as the mixture has read.
        """
        counts = self.counts(position)
        if ids is None:
            return np.concatenate([s.plan.exposures(n) for s, n in zip(self.sources, counts, strict=True)])
        sources, inner = self.locate(ids)
        out = np.empty(len(sources), np.int64)
        for s in np.unique(sources).tolist():
            where = np.flatnonzero(sources == s)
            out[where] = self.sources[s].plan.exposures(counts[s], inner[where])
        return out

    def histogram(self, position: int) -> dict[int, int]:
        """Return {exposures: number of samples that have been seen so often} for positions [0, position)."""
        found: dict[int, int] = {}
        for source, n in zip(self.sources, self.counts(position), strict=True):
            for times, samples in source.plan.histogram(n).items():
                found[times] = found.get(times, 0) + samples
        return dict(sorted(found.items()))

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
        """Return the mixture that `to_dict` wrote. Raises RequestError when it is none, WorkError when changed."""
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

    def difference(self, other: Order) -> str:
        """Return what tells `other` from this mixture, such as `window is 10, not 100`; empty when they are equal."""
        if not isinstance(other, Mixture):
            return "one is a mixture, the other a plan of one subset"
        mine, theirs = self.to_dict(), other.to_dict()
        found = [f"{k} is {theirs[k]}, not {mine[k]}" for k in ("window", "seed", "stages") if mine[k] != theirs[k]]
        names = [s.name for s in self.sources]
        if names != [s.name for s in other.sources]:
            return ", ".join([*found, f"sources are {[s.name for s in other.sources]}, not {names}"])
        pairs = zip(self.sources, other.sources, strict=True)
        return ", ".join(found + [f"{a.name}: {a.plan.difference(b.plan)}" for a, b in pairs if a != b])


def _counts(stage: Stage, lengths: NDArray[Any]) -> Int:
    """Return how much of each source the first so many positions of a stage hold, int64 (k, sources).

    lengths: object integers, so that nothing overflows.
    """
    total = sum(stage.shares)
    edges = np.cumsum(np.array([0, *stage.shares], object))
    return np.diff((2 * lengths[:, None] * edges + total) // (2 * total), axis=1).astype(np.int64)


def _totals(stage: Stage, length: int) -> list[int]:
    return _counts(stage, np.array([length], object))[0].tolist()


# -- building -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ingredient:
    """A subset that goes into a mixture, under a name, and how it is repeated."""

    name: str
    manifest: Manifest
    seed: int = 0
    policy: Policy = "reshuffle"


def by_tokens(parts: Sequence[tuple[Ingredient, int]], window: int, seed: int = 0) -> Mixture:
    """Return the mixture that reads each ingredient for exactly so many tokens, all spread evenly over the run.

    Each source's plan is the one that it would have alone. Raises RequestError when they do not go together.
    """
    check_together([part for part, _ in parts])
    plans = [Plan.for_artifact(part.manifest, tokens, part.seed, part.policy) for part, tokens in parts]
    sources = tuple(Source(part.name, plan) for (part, _), plan in zip(parts, plans, strict=True))
    shares = tuple(plan.positions for plan in plans)
    return Mixture(sources, (Stage(sum(shares), shares),), window, seed)


def by_weights(
    parts: Sequence[Ingredient],
    stages: Sequence[tuple[int, Mapping[str, Fraction | int]]],
    window: int,
    seed: int = 0,
) -> Mixture:
    """Return the mixture whose stages are (tokens, weight by name), one after the other.

    Up to the end of each stage the run has as many positions as the tokens so far pay for: short of them by less than a
    sample. Raises RequestError when they do not go together.
    """
    check_together(parts)
    known = {part.name for part in parts}
    made: list[Stage] = []
    begun = [0] * len(parts)
    budget = 0
    for tokens, weights in stages:
        unknown = sorted(set(weights) - known)
        if unknown:
            raise RequestError(
                f"a stage names '{unknown[0]}', which is no source: there are {', '.join(sorted(known))}"
            )
        shares = _integers([Fraction(weights.get(part.name, 0)) for part in parts])
        budget += tokens
        made.append(_stage(parts, begun, shares, budget))
        begun = [a + b for a, b in zip(begun, _totals(made[-1], made[-1].positions), strict=True)]
    unused = [part.name for part, n in zip(parts, begun, strict=True) if not n]
    if unused:
        raise RequestError(f"no stage reads a sample of '{unused[0]}': give it a weight, or leave it out")
    sources = tuple(Source(p.name, _plan_of(p, n)) for p, n in zip(parts, begun, strict=True))
    return Mixture(sources, tuple(made), window, seed)


def _integers(weights: list[Fraction]) -> tuple[int, ...]:
    if min(weights) < 0 or not sum(weights):
        raise RequestError("weights are not negative, and one of them at least is more than zero")
    scale = 1
    for weight in weights:
        scale = scale * weight.denominator // gcd(scale, weight.denominator)
    whole = [int(weight * scale) for weight in weights]
    common = gcd(*whole)
    return tuple(n // common for n in whole)


def _stage(parts: Sequence[Ingredient], begun: list[int], shares: tuple[int, ...], budget: int) -> Stage:
    """Return the longest stage that `budget` tokens, counted from the run's beginning, pay for."""
    seq_len = parts[0].manifest.seq_len

    def spare(length: int) -> int:
        counts = [a + b for a, b in zip(begun, _totals(Stage(length, shares), length), strict=True)]
        return budget - sum(_plan_of(p, n).tokens for p, n in zip(parts, counts, strict=True) if n)

    length = max(0, budget // seq_len - sum(begun))
    while (left := spare(length)) >= seq_len:  # samples with PAD hold fewer tokens than were paid for
        length += left // seq_len
    while length and spare(length) < 0:
        length -= 1
    if not length:
        raise RequestError(f"a stage of the mixture pays for no sample of {seq_len} tokens: give it more")
    return Stage(length, shares)


def _plan_of(part: Ingredient, positions: int) -> Plan:
    """Return the plan of exactly so many positions."""
    m = part.manifest
    widest = Plan.for_artifact(m, -(-positions // m.samples) * m.tokens, part.seed, part.policy)
    return Plan.for_artifact(m, widest.tokens_before(positions), part.seed, part.policy)


def check_together(parts: Sequence[Ingredient]) -> None:
    """Raise RequestError unless the ingredients have the same tokenizer and sample length and share no token."""
    if not parts:
        raise RequestError("a mixture needs at least one source")
    first = parts[0].manifest
    for part in parts[1:]:
        m = part.manifest
        if m.tokenizer.model_dump(exclude={"name"}) != first.tokenizer.model_dump(exclude={"name"}):
            raise RequestError(
                f"'{part.name}' was tokenized with {m.tokenizer.name}, '{parts[0].name}' with another tokenizer "
                f"({first.tokenizer.name}): they cannot be mixed"
            )
        if m.seq_len != first.seq_len:
            raise RequestError(
                f"the samples of '{part.name}' have {m.seq_len} tokens, those of '{parts[0].name}' {first.seq_len}"
            )
    spans = [(_span(part.manifest), part.name) for part in parts]
    for i, ((pool, start, stop), name) in enumerate(spans):
        for (other, begin, end), earlier in spans[:i]:
            if pool == other and start < end and begin < stop:
                raise RequestError(
                    f"'{name}' and '{earlier}' hold the same samples of one pool: their unique tokens would be "
                    "counted twice; carve another replicate, or mix other subsets"
                )


def _span(m: Manifest) -> tuple[str, int, int]:
    """Return (fingerprint of the pool, first token, end) of what an artifact holds."""
    pool, start = (m.parent.fingerprint, m.parent.start_sample * m.seq_len) if m.parent else (m.fingerprint, 0)
    return pool, start, start + m.tokens


def plans_of(order: Plan | Mixture) -> dict[str, Plan]:
    """Return the plans that an order is made of by the names of their sources; a plan is its own, without a name."""
    return {source.name: source.plan for source in order.sources} if isinstance(order, Mixture) else {"": order}


def order_from_dict(data: dict[str, Any]) -> "Plan | Mixture":
    """Return the plan or mixture that `to_dict` wrote; raises like their `from_dict`."""
    is_mixture = isinstance(data, dict) and "mixture_version" in data
    return Mixture.from_dict(data) if is_mixture else Plan.from_dict(data)
