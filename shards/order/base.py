"""What every order of a run has in common, whether it repeats one subset or mixes several: batches and the digest."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...common.errors import RequestError
from ...common.hashing import derive_words, mix64
from .amendment.skips import Skip

Ids = NDArray[np.uint64]
Int = NDArray[np.int64]
Lanes = tuple[int, int]

Policy = Literal["reshuffle", "fixed", "global", "sequential", "repack"]
POLICIES: tuple[str, ...] = get_args(Policy)

_CHUNK = 1 << 20
"""Positions whose ids are held at once by what folds over a long range."""

_BLOCK = 1 << 15
"""Pairs that are mixed at once, so that the temporary arrays stay in the cache."""


class Order(ABC):
    """Which sample is read at which position of a run: a pure function, known by its `fingerprint`.

    A plan repeats one subset; a mixture reads several, its components, each by a plan of its own. Whoever reads an
    order needs to know which only where a component's name is shown: a plan is its own single component, "".

    Attributes:
        kind: which of the two.
        seed: 0 to 2**63 - 1.
        seq_len: tokens of a sample.
        samples: n, different samples of all components.
        unique_tokens: N, their tokens, PAD never counted.
        total_tokens: T, the budget in real tokens.
        skips: spans of positions that are passed over, see `amendment.amend`.
    """

    kind: ClassVar[Literal["plan", "mixture"]]
    seed: int
    seq_len: int
    samples: int
    unique_tokens: int
    total_tokens: int
    skips: tuple[Skip, ...] = ()

    def without_skips(self) -> "Order":
        """Return the order of which this one passes over some spans: itself where there are none."""
        return self

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """32 hexadecimal digits that name the order."""

    # -- how long the run is ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def positions(self) -> int:
        """P: how many samples the run reads."""

    @property
    @abstractmethod
    def copies(self) -> int:
        """Passes that are begun over the component that is repeated most."""

    @abstractmethod
    def tokens_before(self, position: int) -> int:
        """Return how many real tokens positions [0, position) hold."""

    @property
    def tokens(self) -> int:
        """Real tokens of the whole run: T, or less than one sample short of it."""
        return self.tokens_before(self.positions)

    @property
    def passes(self) -> float:
        """Passes over the unique tokens that the whole run makes."""
        return self.tokens / self.unique_tokens

    # -- the order ----------------------------------------------------------------------------------------------

    @abstractmethod
    def components(self) -> Mapping[str, "Repetition"]:
        """Return the plan of each component by its name, in the order in which `counts` and `locate` number them."""

    @abstractmethod
    def ids(self, positions: range | ArrayLike) -> Ids:
        """Return the sample at each position, uint64 of shape (k,): 0 to `samples`, counted through the components."""

    @abstractmethod
    def locate(self, ids: ArrayLike) -> tuple[Int, Ids]:
        """Return the component of each sample and its number within it, int64 and uint64 (k,).

        Raises:
            RequestError: for an unknown sample.
        """

    @abstractmethod
    def passes_at(self, positions: ArrayLike) -> Int:
        """Return in which pass over its own component each position lies, int64 (k,); not for the policy `global`."""

    @abstractmethod
    def position_of(self, ids: ArrayLike, pass_: int) -> Ids:
        """Return where each sample comes in pass `pass_` of its own component, uint64 (k,).

        A result of at least `positions` means that the run ends before.

        Raises:
            RequestError: for an unknown sample.
        """

    @abstractmethod
    def position_of_own(self, component: int, numbers: Int) -> Ids:
        """Return the position at which each of a component's own positions comes, uint64 of shape (k,).

        Args:
            numbers: int64 (k,), 0 to `positions` of its plan (not checked).
        """

    @property
    def lookup_width(self) -> int:
        """Positions that are worked out to look at one: its own, or a window of a mixture."""
        return 1

    @abstractmethod
    def n_tokens(self, ids: ArrayLike) -> Int:
        """Return the real tokens of each sample in `ids`, int64 of the same shape."""

    # -- what was seen ------------------------------------------------------------------------------------------

    @abstractmethod
    def counts(self, position: int) -> list[int]:
        """Return how many of the positions [0, position) belong to each component."""

    @abstractmethod
    def exposures(self, position: int, ids: ArrayLike | None = None) -> Int:
        """Return how often each sample comes in positions [0, position), int64 (k,), for `ids` or for all samples."""

    @abstractmethod
    def histogram(self, position: int) -> dict[int, int]:
        """Return {exposures: number of samples that come so often} for positions [0, position)."""

    @abstractmethod
    def unique_tokens_seen(self, position: int) -> int:
        """Return how many different tokens positions [0, position) hold: exact where `counts_unique_tokens`, else the
        expectation of that."""

    @property
    @abstractmethod
    def counts_unique_tokens(self) -> bool:
        """Whether `unique_tokens_seen` is exact: always, but for long plans of the policy `global`."""

    # -- JSON ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the order as JSON data. See `stored.order_from_dict`."""

    def difference(self, other: "Order") -> str:
        """Return what tells `other` from this order, such as `seed is 2, not 1`; empty when they are equal."""
        if other.kind != self.kind:
            names = {"plan": "a plan of one subset", "mixture": "a mixture"}
            return f"one is {names[self.kind]}, the other {names[other.kind]}"
        mine, theirs = ([[skip.start, skip.stop] for skip in order.skips] for order in (self, other))
        changes = [self.without_skips()._difference(other.without_skips())]
        changes += [f"skip is {theirs or 'nothing'}, not {mine or 'nothing'}"] if mine != theirs else []
        return ", ".join(filter(None, changes))

    def _difference(self, other: "Order") -> str:
        """Return what tells `other`, of the same kind and without skips as this one, from it."""
        raise NotImplementedError

    def to_json(self) -> str:
        """Return the order as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    # -- batches ------------------------------------------------------------------------------------------------

    def batch_samples(self, batch_tokens: int) -> int:
        """Return the samples of a global batch of `batch_tokens`.

        Raises:
            RequestError: when it is no whole number.
        """
        samples, rest = divmod(batch_tokens, self.seq_len)
        if rest or not samples:
            near = [f"{n * self.seq_len:,}" for n in (samples, samples + 1) if n]
            raise RequestError(
                f"a batch of {batch_tokens:,} tokens is no whole number of samples of {self.seq_len:,}: "
                f"take {' or '.join(near)}"
            )
        if samples > self.positions:
            raise RequestError(
                f"a batch of {samples:,} samples is larger than the whole run of {self.positions:,}: "
                "take a smaller batch, or more tokens"
            )
        return samples

    def steps(self, batch_samples: int) -> int:
        """Return the number of global batches, the last, perhaps short, one included."""
        return -(-self.positions // batch_samples)

    # -- the digest ---------------------------------------------------------------------------------------------

    def digest(self, start: int, stop: int) -> str:
        """Return the order-free digest of positions [start, stop): 32 hexadecimal digits. See `fold`."""
        if not 0 <= start <= stop <= self.positions:
            raise RequestError(f"positions {start} to {stop} are not within the run's 0 to {self.positions}")
        first = second = 0
        for begin in range(start, stop, _CHUNK):
            span = range(begin, min(begin + _CHUNK, stop))
            lanes = self.fold(as_positions(span), self.ids(span))
            first, second = first + lanes[0], second + lanes[1]
        return digest_text((first, second))

    def fold(self, positions: ArrayLike, ids: ArrayLike) -> Lanes:
        """Return two sums mod 2**64 over the pairs (position, id), each mixed with keys of the order's fingerprint.

        The sums of parts add up to the sum of the whole, in any order; a missing, doubled or exchanged sample changes
        them (unseen by chance: 2**-128). They guard against accidents, not against someone who wants to forge them.

        Args:
            positions: integers of the same shape (k,).
            ids: integers of the same shape (k,).
        """
        k = self._digest_keys
        p, y = np.asarray(positions, np.uint64), np.asarray(ids, np.uint64)
        first = second = 0
        for begin in range(0, len(p), _BLOCK):
            x, id_ = mix64(p[begin : begin + _BLOCK] + k[0]), y[begin : begin + _BLOCK]
            first += int(mix64(x + (id_ ^ k[1]) * np.uint64(0x9E3779B97F4A7C15)).sum(dtype=np.uint64))
            second += int(mix64(x ^ ((id_ + k[2]) * np.uint64(0xD1B54A32D192ED03))).sum(dtype=np.uint64))
        return first % 2**64, second % 2**64

    @cached_property
    def _digest_keys(self) -> NDArray[np.uint64]:
        return derive_words(f"digest/{self.fingerprint}", self.seed, 0, 3)


class Repetition(Order):
    """The order of one subset: what every component of an order is. A `Plan`, or one that was amended.

    Attributes:
        subset: fingerprint of the artifact.
        policy: how it is repeated.
        replicate: the window of its pool.
        start_sample: the window of its pool.
    """

    subset: str
    policy: Policy
    replicate: int
    start_sample: int

    @property
    @abstractmethod
    def padding(self) -> int:
        """PAD ids in the last sample, 0 to seq_len - 1."""

    @abstractmethod
    def positions_of_copies(self, ids: Ids, copies: range) -> Ids:
        """Return where some copies of each sample lie, uint64 (len(copies), k), for the policy `global`."""

    @abstractmethod
    def blocks_of_copies(self, ids: int) -> Iterator[range]:
        """Yield the copies of a sample in blocks that do for `ids` samples at once."""


def summed_histogram(plans: Iterable[tuple[Repetition, int]]) -> dict[int, int]:
    """Return {exposures: number of samples that come so often} for plans, each read up to a position of its own."""
    summed: dict[int, int] = {}
    for plan, n in plans:
        for times, samples in plan.histogram(n).items():
            summed[times] = summed.get(times, 0) + samples
    return dict(sorted(summed.items()))


def digest_text(lanes: Lanes) -> str:
    """Return the two sums of `Order.fold` as 32 hexadecimal digits."""
    return f"{lanes[0] % 2**64:016x}{lanes[1] % 2**64:016x}"


def check_range(positions: range) -> None:
    """Raise RequestError unless a range counts positions upwards one by one."""
    if positions.step != 1 or (len(positions) and positions.start < 0):
        raise RequestError("positions start at 0 and rise in steps of 1")


def as_positions(positions: range | ArrayLike) -> Ids:
    """Return positions as uint64 of shape (k,).

    Raises:
        RequestError: for what is none.
    """
    if isinstance(positions, range):
        check_range(positions)
        return np.arange(positions.start, positions.start + len(positions), dtype=np.uint64)
    wanted = np.atleast_1d(np.asarray(positions))
    if wanted.size and (wanted.dtype.kind not in "iu" or wanted.min() < 0):
        raise RequestError("positions are integers from 0")
    return wanted.astype(np.uint64)
