"""The receipt of a run: an order-free digest of every (position, sample) that was really trained on.

Each rank adds what it trained on; the parts are summed over ranks and restarts, in any order. At the end the sum must
equal the plan's own: every position exactly once, with the sample that belongs there.
"""

import json
import re
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...common.errors import RequestError, WorkError
from ...common.json_text import strict_json
from .base import Order, digest_text
from .stored import order_from_dict

RECEIPT_VERSION = 1
RECEIPT_NAME = "receipt.json"
"""In the folder of a run."""


class Receipt:
    """Folds (position, id) pairs of an order, `plan`.

    Its whole state is `state`, an int64 array of shape (3,): how many pairs, and two sums mod 2**64. The state of
    several ranks is their element-wise sum with wrap-around, which is what all_reduce(SUM) on an int64 tensor does.
    """

    def __init__(self, plan: Order, state: ArrayLike | None = None) -> None:
        self.plan = plan
        self.state = np.zeros(3, np.int64) if state is None else np.array(state, np.int64)
        if self.state.shape != (3,):
            raise RequestError(f"a receipt's state has shape (3,), got {self.state.shape}")

    @property
    def count(self) -> int:
        """How many samples were added."""
        return int(self.state[0])

    @property
    def digest(self) -> str:
        """The digest so far, 32 hexadecimal digits, to be held against `plan.digest`."""
        first, second = self.state[1:].view(np.uint64).tolist()
        return digest_text((first, second))

    def add(self, positions: ArrayLike, ids: ArrayLike) -> None:
        """Add the samples of one step: positions and ids, integers of the same shape (k,)."""
        positions, ids = np.asarray(positions), np.asarray(ids)
        if positions.shape != ids.shape:
            raise ValueError(f"positions {positions.shape} and ids {ids.shape} differ in shape")
        first, second = self.plan.fold(positions.astype(np.uint64).ravel(), ids.astype(np.uint64).ravel())
        self.state += np.array([positions.size, first, second], np.uint64).view(np.int64)

    def merge(self, other: "Receipt") -> None:
        """Add what another rank, or an earlier part of the run, has.

        Raises:
            RequestError: for another plan.
        """
        if other.plan != self.plan:
            raise RequestError(f"receipts of two plans cannot be joined: {self.plan.difference(other.plan)}")
        self.state += other.state

    def check(self) -> str | None:
        """Return None for the receipt of the whole run; otherwise what is wrong, one line.

        Computes the plan's digest: about 0.1 s per million positions on one core.
        """
        expected = self.plan.positions
        if self.count > expected:
            return f"{self.count} samples were trained on, the plan has {expected}: some were seen twice"
        sound = self.digest == self.plan.digest(0, self.count)
        if sound and self.count == expected:
            return None
        if sound:
            return f"the run is not finished: positions 0 to {self.count} of {expected} were trained on, in order"
        return f"the {self.count} samples trained on are not positions 0 to {self.count} of the plan: digests differ"

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as JSON data, its plan included."""
        return {
            "receipt_version": RECEIPT_VERSION,
            "plan": self.plan.to_dict(),
            "count": self.count,
            "digest": self.digest,
        }

    def to_json(self) -> str:
        """Return the receipt as JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Receipt":
        """Return the receipt that `to_dict` wrote.

        Raises:
            RequestError: when it is none.
            WorkError: when damaged.
        """
        if not isinstance(data, dict) or data.get("receipt_version") != RECEIPT_VERSION:
            raise RequestError("this is no receipt of epochal (or one of another version)")
        try:
            digest, count = data["digest"], data["count"]
            if not isinstance(count, int) or not 0 <= count < 2**63 or not re.fullmatch("[0-9a-f]{32}", digest):
                raise ValueError
            sums = [int(digest[:16], 16), int(digest[16:], 16)]
            plan = order_from_dict(data["plan"])
        except (KeyError, TypeError, ValueError):
            raise WorkError("the receipt is damaged: count, digest or plan cannot be read") from None
        return cls(plan, np.array([count, *sums], np.uint64).view(np.int64))

    @classmethod
    def from_json(cls, text: str) -> "Receipt":
        """Return the receipt that `to_json` wrote; raises like `from_dict`."""
        try:
            data = strict_json(text)
        except ValueError as error:
            raise RequestError(f"this is no receipt of epochal: not JSON ({error})") from None
        return cls.from_dict(data)
