"""What an order of writing is called; `exact.orders` has its rules."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...common.errors import RequestError

Order = Literal["left_to_right", "confidence", "entropy"]
ORDERS: tuple[Order, ...] = get_args(Order)

EXACT = "exact/"
"""What names of exact likelihoods begin with, in logs (after `metrics/`) and tables: exact/ORDER/TOKENS_PER_STEP."""

EXACT_GIVEN_LENGTHS = "exact_given_lengths/"
"""The same of a model that is told where documents end."""


@dataclass(frozen=True)
class WritingOrder:
    """An order of writing: the rule, and how many positions it names before the model reads the text again.

    Attributes:
        order: left_to_right; confidence: where the likeliest token has the highest probability; entropy: where the
            distribution over tokens has the least entropy.
        tokens_per_step: the tokens of one step are independent of each other, given all that was written before.
    """

    order: Order
    tokens_per_step: int = 1

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise RequestError(f"an order of writing is one of {', '.join(ORDERS)}, got '{self.order}'")
        if self.tokens_per_step < 1:
            raise RequestError(f"tokens_per_step must be at least 1, got {self.tokens_per_step}")

    @property
    def key(self) -> str:
        """Return `order/tokens_per_step`, the name of its figures in logs and tables."""
        return f"{self.order}/{self.tokens_per_step}"

    @property
    def words(self) -> str:
        """Return the order for people."""
        many = f", {self.tokens_per_step} tokens a step" if self.tokens_per_step > 1 else ""
        return f"{self.order.replace('_', '-')} order{many}"


def of_key(key: str) -> WritingOrder:
    """Return the order whose `key` this is."""
    order, _, tokens = key.rpartition("/")
    return WritingOrder(order, int(tokens))  # type: ignore[arg-type]
