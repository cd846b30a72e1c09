"""The plan of a run: which sample is read at which position, as arithmetic on a few numbers.

A position p counts the samples of the whole run from 0. Let n be the samples of the subset:

    sequential  id = p mod n
    fixed       id = permutation with the key of pass 0 (p mod n), in every pass
    reshuffle   id = permutation with the key of pass p div n (p mod n)
    repack      the same, but id is a sample of that pass, which packs the documents anew: see packing.py
    global      id = permutation of all n * copies slots (p) mod n, with copies = ceil(total tokens / unique tokens)

docs/repetition.md is the definition for others, with test vectors.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from ...common.errors import RequestError, WorkError
from ...common.hashing import check_seed
from ...common.hashing import digest as json_digest
from ...common.json_text import strict_json
from ..manifest import Manifest
from .base import POLICIES, Ids, Int, Order, Policy, Repetition, as_positions, check_range
from .permutation import MAX_SIZE, Permutation, keyed_permutation

PLAN_VERSION = 1
"""Raised whenever the same numbers would give another order, or another digest."""

MOST_COPIES = 10**6
"""Passes of the policy `global`, which are counted one by one."""

_SLOTS = 1 << 20
"""Slots of `global` that are looked at together: 8 MB. Where a plan has more, `unique_tokens_seen` is expected."""


@dataclass(frozen=True)
class Plan(Repetition):
    """The order of one run. Equal plans have equal fingerprints and give the same samples in the same order.

    Attributes:
        subset: fingerprint of the artifact.
        samples: its samples n.
        unique_tokens: its tokens N, PAD never counted.
        seq_len: tokens of a sample.
        total_tokens: T, the budget in real tokens.
        seed: 0 to 2**63 - 1.
        policy: how the samples are repeated, see the head of this file.
        replicate: which replicate of that size it is.
        start_sample: where its window of the pool begins (0 for a pool, and for what was carved without documents).

    Raises:
        RequestError: when the numbers contradict each other or the budget is zero.
    """

    kind: ClassVar[Literal["plan", "mixture"]] = "plan"

    subset: str
    samples: int
    unique_tokens: int
    seq_len: int
    total_tokens: int
    seed: int = 0
    policy: Policy = "reshuffle"
    replicate: int = 0
    start_sample: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("samples", "unique_tokens", "seq_len", "total_tokens", "replicate", "start_sample"):
            value = getattr(self, name)
            least = 0 if name in ("replicate", "start_sample") else 1
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
                shown = repr(value)[:40] if not isinstance(value, int) or abs(value) < 2**64 else "one of more digits"
                raise RequestError(f"{name} must be an integer of at least {least} and below 2**63, got {shown}")
        if self.policy not in POLICIES:
            raise RequestError(f"policy must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        if self.samples != -(-self.unique_tokens // self.seq_len):
            raise RequestError(
                f"{self.unique_tokens} tokens make {-(-self.unique_tokens // self.seq_len)} samples of "
                f"{self.seq_len}, not {self.samples}"
            )
        if self.policy == "global" and self.copies > MOST_COPIES:
            raise RequestError(f"at most {MOST_COPIES:,} passes can be shuffled together: use the policy reshuffle")
        if self.samples * (self.copies if self.policy == "global" else 1) > MAX_SIZE:
            raise RequestError("more than 2**48 samples cannot be shuffled together: use the policy reshuffle")
        if not self.positions:
            raise RequestError(
                f"a budget of {self.total_tokens} tokens does not pay for one sample of {self.seq_len}: raise it"
            )

    # -- how long the run is ------------------------------------------------------------------------------------

    @property
    def copies(self) -> int:
        """Passes that are begun: ceil(T / N). The policy `global` shuffles so many copies together."""
        return -(-self.total_tokens // self.unique_tokens)

    @property
    def padding(self) -> int:
        """PAD ids in the last sample, 0 to seq_len - 1."""
        return self.samples * self.seq_len - self.unique_tokens

    @cached_property
    def positions(self) -> int:
        """P: as many samples as the budget pays for. Short of T by less than one sample; exactly T for whole passes."""
        low, high = self._around_the_end()
        while low < high:
            middle = (low + high + 1) // 2
            if self.tokens_before(middle) <= self.total_tokens:
                low = middle
            else:
                high = middle - 1
        return low

    def _around_the_end(self) -> tuple[int, int]:
        """Return two positions that `positions` lies between: PAD comes once a pass (`global`: `copies` times)."""
        if self.policy == "global":
            first, most = 0, self.padding * self.copies
        else:
            first, most = self.total_tokens // self.unique_tokens, self.padding
        left = self.total_tokens - first * self.unique_tokens
        low, high = (first * self.samples + tokens // self.seq_len for tokens in (left, left + most))
        end = self.copies * self.samples
        return min(low, end), min(high, end)

    def tokens_before(self, position: int) -> int:
        """Return the real tokens in positions [0, position): only the last sample of the subset holds PAD."""
        return position * self.seq_len - self.padding * self._tails_before(position)

    def _tails_before(self, position: int) -> int:
        """Return how often the subset's last sample comes in positions [0, position)."""
        if not self.padding:
            return 0
        if self.policy == "global":
            return int(np.searchsorted(self._tail_positions, position))
        passes, place = divmod(position, self.samples)
        return passes + bool(place and self._places([self.samples - 1], passes)[0] < place)

    @cached_property
    def _tail_positions(self) -> Ids:
        slots = np.arange(self.copies, dtype=np.uint64) * np.uint64(self.samples) + np.uint64(self.samples - 1)
        return np.sort(self._permutation(0).inverse(slots))

    def n_tokens(self, ids: ArrayLike) -> Int:
        """Return the real tokens of each sample in `ids`, int64 of the same shape: seq_len, less for the last one."""
        last = np.asarray(ids) == self.samples - 1
        return np.where(last, self.seq_len - self.padding, self.seq_len).astype(np.int64)

    def components(self) -> dict[str, "Plan"]:
        """Return the plan itself, whose name is empty."""
        return {"": self}

    # -- the order ----------------------------------------------------------------------------------------------

    def _permutation(self, number: int) -> Permutation:
        if self.policy == "global":
            return keyed_permutation(self.samples * self.copies, "order/global", self.seed, 0)
        return keyed_permutation(self.samples, "order/pass", self.seed, 0 if self.policy == "fixed" else number)

    def ids(self, positions: range | ArrayLike) -> Ids:
        """Return the sample at each position, uint64 of shape (k,).

        Every policy but `global` is defined for all positions from 0; `global` ends after samples * copies.

        Args:
            positions: a range (step 1), or integers of shape (k,) in any order.

        Raises:
            RequestError: outside of that.
        """
        if isinstance(positions, range) and self.policy != "global":
            return self._range_ids(positions)
        wanted = as_positions(positions)
        if not len(wanted):
            return wanted
        if self.policy == "global":
            if int(wanted.max()) >= self.samples * self.copies:
                raise RequestError(f"the order has {self.samples * self.copies} positions, {wanted.max()} is none")
            return self._permutation(0).forward(wanted) % np.uint64(self.samples)
        passes, places = np.divmod(wanted, np.uint64(self.samples))
        if self.policy == "sequential":
            return places
        if self.policy == "fixed":
            return self._permutation(0).forward(places)
        out = np.empty(len(wanted), np.uint64)
        for number in np.unique(passes):
            where = np.flatnonzero(passes == number)
            out[where] = self._permutation(int(number)).forward(places[where])
        return out

    def _range_ids(self, positions: range) -> Ids:
        """Return `ids` of a range pass by pass, which saves the division of each position."""
        check_range(positions)
        parts, begin = [], positions.start
        while begin < positions.stop:
            pass_, place = divmod(begin, self.samples)
            stop = min(self.samples, place + positions.stop - begin)
            places = np.arange(place, stop, dtype=np.uint64)
            parts.append(places if self.policy == "sequential" else self._permutation(pass_).forward(places))
            begin += stop - place
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def passes_at(self, positions: ArrayLike) -> Int:
        """Return in which pass each position lies, int64 (k,); not for the policy `global`."""
        return np.asarray(positions, np.int64) // self.samples

    def position_of(self, ids: ArrayLike, pass_: int) -> Ids:
        """Return where each sample comes in pass `pass_` (for `global`: where its copy `pass_` lies), uint64 (k,).

        A result of at least `positions` means that the run ends before.

        Raises:
            RequestError: for an unknown sample.
        """
        wanted = self._as_ids(ids)
        if pass_ < 0 or (self.policy == "global" and pass_ >= self.copies):
            raise RequestError(f"there is no pass {pass_} in this order")
        offset = np.uint64(pass_ * self.samples)
        if self.policy == "global":
            return self._permutation(0).inverse(wanted + offset)
        return self._places(wanted, pass_) + offset

    def positions_of(self, id_: int) -> Ids:
        """Return where sample `id_` comes in each of the `copies` passes that are begun, ascending, uint64 (copies,).

        Those of at least `positions` come after the run's end.

        Raises:
            RequestError: for an unknown sample.
        """
        if self.policy != "global":
            return np.concatenate([self.position_of([id_], pass_) for pass_ in range(self.copies)])
        return np.sort(self.positions_of_copies(self._as_ids(id_), range(self.copies))[:, 0])

    def positions_of_copies(self, ids: Ids, copies: range) -> Ids:
        """Return where some copies of each sample lie, uint64 (len(copies), k), for the policy `global`: one inverse.

        See `blocks_of_copies` for many.

        Args:
            ids: uint64 (k,).
            copies: of those from 0; neither is checked.
        """
        slots = np.arange(copies.start, copies.stop, dtype=np.uint64)[:, None] * np.uint64(self.samples) + ids
        return self._permutation(0).inverse(slots.ravel()).reshape(slots.shape)

    def blocks_of_copies(self, ids: int) -> Iterator[range]:
        """Yield the copies of a sample in blocks that do for `ids` samples at once without holding many slots."""
        step = max(1, _SLOTS // max(1, ids))
        return (range(first, min(first + step, self.copies)) for first in range(0, self.copies, step))

    def _places(self, ids: ArrayLike, pass_: int) -> Ids:
        wanted = np.asarray(ids, np.uint64)
        return wanted if self.policy == "sequential" else self._permutation(pass_).inverse(wanted)

    def locate(self, ids: ArrayLike) -> tuple[Int, Ids]:
        """Return zeros, as there is one component, and `ids`: int64 and uint64 (k,)."""
        numbers = self._as_ids(ids)
        return np.zeros(len(numbers), np.int64), numbers

    def position_of_own(self, component: int, numbers: Int) -> Ids:
        """Return `numbers` as uint64: the plan is its own single component."""
        del component
        return numbers.astype(np.uint64)

    def _as_ids(self, ids: ArrayLike) -> Ids:
        wanted = np.atleast_1d(np.asarray(ids))
        if wanted.dtype.kind not in "iu" or (len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.samples):
            raise RequestError(f"sample ids are integers from 0 to {self.samples - 1}")
        return wanted.astype(np.uint64)

    # -- what was seen ------------------------------------------------------------------------------------------

    def counts(self, position: int) -> list[int]:
        """Return [position]: all of them are this plan's."""
        self._check_position(position)
        return [position]

    def exposures(self, position: int, ids: ArrayLike | None = None) -> Int:
        """Return how often each sample comes in positions [0, position), int64 (k,), for `ids` or for all samples.

        Computed from the inverse permutation, without walking the run: O(1) a sample (`global`: O(copies)).
        """
        wanted = np.arange(self.samples, dtype=np.uint64) if ids is None else self._as_ids(ids)
        self._check_position(position)
        if self.policy == "global":
            seen = np.zeros(len(wanted), np.int64)
            for block in self.blocks_of_copies(len(wanted)):
                seen += (self.positions_of_copies(wanted, block) < position).sum(axis=0)
            return seen
        passes, place = divmod(position, self.samples)
        return passes + (self._places(wanted, passes) < place).astype(np.int64)

    def histogram(self, position: int) -> dict[int, int]:
        """Return {exposures: number of samples that have been seen so often} for positions [0, position).

        Closed form; only `global` has to look at every sample.
        """
        self._check_position(position)
        if self.policy == "global":
            times, counts = np.unique(self.exposures(position), return_counts=True)
            return dict(zip(times.tolist(), counts.tolist(), strict=True))
        passes, place = divmod(position, self.samples)
        return {k: v for k, v in ((passes, self.samples - place), (passes + 1, place)) if v}

    def unique_tokens_seen(self, position: int) -> int:
        """Return how many different tokens positions [0, position) hold.

        Closed form, but for `global` with more than one pass. There it is exact up to 2**20 slots (samples x copies;
        the first call computes where each sample comes first, about 0.1 s) and beyond that the expectation over keys,
        N * (1 - (1 - position / slots)**copies): a share of 1 / sqrt(samples) off or less.
        """
        self._check_position(position)
        if self.policy != "global" or self.copies == 1:
            return self.tokens_before(min(position, self.samples))
        if not self.counts_unique_tokens:
            left = 1 - position / (self.samples * self.copies)
            return round(self.unique_tokens * (1 - left**self.copies))
        seen = int(np.searchsorted(self._first_positions, position))
        return seen * self.seq_len - self.padding * bool(self._tails_before(position))

    @property
    def counts_unique_tokens(self) -> bool:
        """Whether `unique_tokens_seen` is exact: all but plans of `global` with several passes and over 2**20 slots."""
        return self.policy != "global" or self.copies == 1 or self.samples * self.copies <= _SLOTS

    @cached_property
    def _first_positions(self) -> Int:
        """Where each sample of a `global` plan comes first, ascending, int64 (samples,)."""
        copies = self.positions_of_copies(np.arange(self.samples, dtype=np.uint64), range(self.copies))
        return np.sort(copies.min(axis=0).astype(np.int64))

    def _check_position(self, position: int) -> None:
        if not 0 <= position <= self.copies * self.samples:
            raise RequestError(f"position must lie in 0 to {self.copies * self.samples}, got {position}")

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits: BLAKE2b-128 of the canonical JSON of the fields and PLAN_VERSION."""
        return json_digest({"plan_version": PLAN_VERSION} | asdict(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON data; `positions` and `fingerprint` are there to be read and checked."""
        derived = {"positions": self.positions, "fingerprint": self.fingerprint}
        return {"plan_version": PLAN_VERSION} | asdict(self) | derived

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Plan":
        """Return the plan that `to_dict` wrote.

        Raises:
            RequestError: when it is none.
            WorkError: when it was changed.
        """
        if not isinstance(data, dict) or "plan_version" not in data:
            raise RequestError("this is no plan of epochal")
        if data["plan_version"] != PLAN_VERSION:
            raise RequestError(f"the plan is of version {data['plan_version']}, this epochal reads {PLAN_VERSION}")
        try:
            plan = cls(**{k: v for k, v in data.items() if k not in ("plan_version", "positions", "fingerprint")})
        except TypeError as error:
            raise RequestError(f"this is no plan of epochal: {error}") from None
        if data.get("fingerprint") != plan.fingerprint or data.get("positions") != plan.positions:
            raise WorkError("the plan's numbers and its fingerprint disagree: it was changed after it was written")
        return plan

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Return the plan that `to_json` wrote; raises like `from_dict`."""
        try:
            data = strict_json(text)
        except ValueError as error:
            raise RequestError(f"this is no plan of epochal: not JSON ({error})") from None
        return cls.from_dict(data)

    @classmethod
    def for_artifact(cls, manifest: Manifest, total_tokens: int, seed: int = 0, policy: Policy = "reshuffle") -> "Plan":
        """Return the plan that trains on the artifact of `manifest` for `total_tokens` real tokens."""
        parent = manifest.parent
        _, start_sample = manifest.stream
        return cls(
            subset=manifest.fingerprint,
            samples=manifest.samples,
            unique_tokens=manifest.tokens,
            seq_len=manifest.seq_len,
            total_tokens=total_tokens,
            seed=seed,
            policy=policy,
            replicate=parent.replicate if parent else 0,
            start_sample=start_sample,
        )

    def _difference(self, other: Order) -> str:
        mine, theirs = asdict(self), other.to_dict()
        return ", ".join(f"{name} is {theirs[name]}, not {mine[name]}" for name in mine if mine[name] != theirs[name])
