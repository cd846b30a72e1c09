"""Bounds: how large a plan, and how much work for one answer, the service accepts."""

from collections.abc import Iterable
from typing import Any

from ..common.errors import RequestError
from ..common.units import tokens_for_epochs
from ..shards.manifest import Manifest
from ..shards.order.base import Order, Repetition
from ..shards.order.mixture_config import MixtureSource
from ..shards.order.plan import MOST_COPIES
from ..shards.order.stored import order_from_dict
from .catalogue import FINGERPRINT
from .schemas import INT, MOST_SKIPS

MOST_TOKENS = 10**18
MOST_DIGEST = 20_000_000
"""Positions that one digest is computed over: about two seconds."""

MOST_COUNTED = 1 << 28
"""Samples x passes that are looked at for one answer of the policy `global`."""

MOST_PLACES = 1 << 26
"""Places in windows of a mixture that are worked out for one answer: some seconds."""


MOST_COPIES_LOOKED_AT = 1 << 26
"""Copies of samples of the policy `global` that one look-up of a document compares: some seconds."""


def check_budget(policy: str, total_tokens: int, unique_tokens: int) -> None:
    """Raise RequestError for a plan too large to answer for. Called before one is made: its length is counted then."""
    if total_tokens > MOST_TOKENS:
        raise RequestError(f"total_tokens is at most {MOST_TOKENS:,}")
    if policy == "global" and total_tokens > MOST_COPIES * unique_tokens:
        raise RequestError(f"at most {MOST_COPIES:,} passes can be shuffled together: use the policy reshuffle")


def most_tokens(source: MixtureSource, staged: int, manifest: Manifest) -> int:
    """Return how many tokens of a source a mixture with a length of its own reads at most.

    Args:
        staged: the tokens of all its stages together.
    """
    if source.tokens is not None:
        return source.tokens
    return staged if source.epochs is None else tokens_for_epochs(source.epochs, manifest.tokens)


def order_from_request(data: dict[str, Any]) -> Order:
    """Return the order that a request holds whole.

    Its bounds are checked before it is made, because making it may already count along its length.

    Raises:
        RequestError: for a wrong request.
        WorkError: when the work failed.
    """
    sources = data.get("sources")
    parts = [s.get("plan") for s in sources if isinstance(s, dict)] if isinstance(sources, list) else [data]
    for part in (part for part in parts if isinstance(part, dict)):
        total, unique = part.get("total_tokens"), part.get("unique_tokens")
        if isinstance(total, int) and isinstance(unique, int):
            check_budget(str(part.get("policy")), total, max(1, unique))
    skip = data.get("skip")
    if isinstance(skip, list) and len(skip) > MOST_SKIPS:
        raise RequestError(f"plan: at most {MOST_SKIPS:,} spans are skipped")
    order = order_from_dict(data)
    for plan in order.components().values():
        if not isinstance(plan.subset, str) or not FINGERPRINT.fullmatch(plan.subset):
            raise RequestError("plan: subset must be a fingerprint, 32 hexadecimal digits")
        if plan.start_sample * plan.seq_len > INT or plan.unique_tokens > INT:
            raise RequestError("plan: its numbers are too large")
    return order


def check_shares(order: Order) -> None:
    """Raise RequestError when the shares of a mixture's stages are integers that JSON readers do not all take."""
    stages = order.to_dict().get("stages", [])
    if any(share >= 2**63 for stage in stages for share in stage["shares"]):
        raise RequestError("the mixture's shares have more than 63 bits: round the weights")


def slots_counted(order: Order) -> int:
    """Return how many samples are looked at to count the exposures of all: slots of the policy `global`, and what is
    passed over."""
    slots = sum(p.samples * p.copies for p in order.components().values() if p.policy == "global")
    return slots + sum(map(len, order.skips))


def lookups_at_once(order: Order) -> int:
    """Return at how many positions of an order one request may look: each costs a window's work in a mixture."""
    return MOST_PLACES // order.lookup_width


def check_copies(looked_at: Iterable[tuple[Repetition, int]]) -> None:
    """Raise RequestError when a document is looked up among too many copies of the policy `global`.

    Args:
        looked_at: the plan of each stretch of a history and the document's tokens in its pool.
    """
    copies = sum((tokens // p.seq_len + 2) * p.copies for p, tokens in looked_at if p.policy == "global")
    if copies > MOST_COPIES_LOOKED_AT:
        raise RequestError(
            f"the document's samples have up to {copies:,} copies in runs of the policy global, and one look-up goes "
            f"through at most {MOST_COPIES_LOOKED_AT:,}: name a run (run=) with fewer passes"
        )
