"""An order read back from JSON, whichever kind it is, and the state of a run of one: what checkpoints hold."""

from typing import Any

from ...common.errors import RequestError, WorkError
from .amendment.amend import amend, why_not_on
from .amendment.amended import AMENDMENT_VERSION
from .base import Order
from .mixture import Mixture
from .plan import Plan


def order_from_dict(data: dict[str, Any]) -> Order:
    """Return the plan or mixture, amended or not, that `to_dict` wrote; raises like their `from_dict`."""
    if isinstance(data, dict) and "skip" in data:
        return _amended(data)
    is_mixture = isinstance(data, dict) and "mixture_version" in data
    return Mixture.from_dict(data) if is_mixture else Plan.from_dict(data)


def _amended(data: dict[str, Any]) -> Order:
    if data.get("amendment_version") != AMENDMENT_VERSION:
        raise RequestError(
            f"the plan's skips are of version {data.get('amendment_version')}, this epochal reads {AMENDMENT_VERSION}"
        )
    own = {k: v for k, v in data.items() if k not in ("amendment_version", "amends", "skip")}
    amends, skip = data.get("amends"), data["skip"]
    if not isinstance(amends, dict) or not isinstance(skip, list) or not skip:
        raise RequestError("this is no amended plan of epochal: it lacks what it amends, or its skips")
    order = amend(order_from_dict(own | amends), skip)
    if data.get("fingerprint") != order.fingerprint or data.get("positions") != order.positions:
        raise WorkError("the plan's skips and its fingerprint disagree: it was changed after it was written")
    return order


STATE_VERSION = 1
"""Of the states of RepeatedDataset and of the adapters: each reads the others'."""


def state_of(order: Order, position: int) -> dict[str, Any]:
    """Return the state of a run of `order` that has read the positions before `position`."""
    return {"state_version": STATE_VERSION, "position": position, "plan": order.to_dict()}


def position_in(state: Any, order: Order) -> int:
    """Return the position that a state names: of a run of `order`, or of one that may go on with it, being amended.

    Raises:
        RequestError: when it is none of ours, or of another order; it says what differs.
    """
    if not isinstance(state, dict) or state.get("state_version") != STATE_VERSION:
        raise RequestError("the checkpoint holds no state of an epochal dataset (or one of another version)")
    theirs = order_from_dict(state.get("plan", {}))
    if theirs == order:
        return checked_position(state.get("position"), order)
    position = checked_position(state.get("position"), theirs)
    if problem := why_not_on(theirs, order, position):
        another = theirs.without_skips() != order.without_skips()
        raise RequestError(
            f"the checkpoint is of another run: {problem} (this run)"
            if another
            else f"the checkpoint cannot go on with this run's skips: {problem}"
        )
    return checked_position(position, order)


def checked_position(position: Any, order: Order) -> int:
    """Return `position`, at which a run of `order` may stand.

    Raises:
        RequestError: when it is none of the run.
    """
    if type(position) is not int or not 0 <= position <= order.positions:
        raise RequestError(f"the state's position {position} is not within the run's {order.positions}")
    return position
