"""An order read back from JSON, whichever kind it is, and the state of a run of one: what checkpoints hold."""

from typing import Any

from ...common.errors import RequestError
from .base import Order
from .mixture import Mixture
from .plan import Plan


def order_from_dict(data: dict[str, Any]) -> Order:
    """Return the plan or mixture that `to_dict` wrote; raises like their `from_dict`."""
    is_mixture = isinstance(data, dict) and "mixture_version" in data
    return Mixture.from_dict(data) if is_mixture else Plan.from_dict(data)


STATE_VERSION = 1
"""Of the states of RepeatedDataset and of the adapters: each reads the others'."""


def state_of(order: Order, position: int) -> dict[str, Any]:
    """Return the state of a run of `order` that has read the positions before `position`."""
    return {"state_version": STATE_VERSION, "position": position, "plan": order.to_dict()}


def position_in(state: Any, order: Order) -> int:
    """Return the position that a state names.

    Raises:
        RequestError: when it is none of ours, or of another order; it says what differs.
    """
    if not isinstance(state, dict) or state.get("state_version") != STATE_VERSION:
        raise RequestError("the checkpoint holds no state of an epochal dataset (or one of another version)")
    theirs = order_from_dict(state.get("plan", {}))
    if theirs != order:
        raise RequestError(f"the checkpoint is of another run: {order.difference(theirs)} (this run)")
    return checked_position(state.get("position"), order)


def checked_position(position: Any, order: Order) -> int:
    """Return `position`, at which a run of `order` may stand.

    Raises:
        RequestError: when it is none of the run.
    """
    if type(position) is not int or not 0 <= position <= order.positions:
        raise RequestError(f"the state's position {position} is not within the run's {order.positions}")
    return position
