"""An order read back from JSON, whichever kind it is."""

from typing import Any

from .base import Order
from .mixture import Mixture
from .plan import Plan


def order_from_dict(data: dict[str, Any]) -> Order:
    """Return the plan or mixture that `to_dict` wrote; raises like their `from_dict`."""
    is_mixture = isinstance(data, dict) and "mixture_version" in data
    return Mixture.from_dict(data) if is_mixture else Plan.from_dict(data)
