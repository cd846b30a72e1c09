"""The artifacts that an order reads, opened and held against its plans."""

from collections.abc import Sequence

from ...common.errors import RequestError
from ...common.remote.patience import ATTEMPTS, patiently
from ..artifact import Artifact, open_artifact
from ..order.base import Order, Repetition
from ..order.plan import Plan


def artifacts_for(root: str | Sequence[str], order: Order, attempts: int = ATTEMPTS) -> list[Artifact]:
    """Return the artifact of each component of `order`, in their order.

    Args:
        root: its path or URL; one for each source of a mixture.
        attempts: how often a store is asked.

    Raises:
        RequestError: when there are more or fewer of them, or one is not what its plan is for.
    """
    roots = [root] if isinstance(root, str) else list(root)
    plans = list(order.components().values())
    if len(roots) != len(plans):
        raise RequestError(f"the order reads {len(plans)} artifacts, {len(roots)} were named")
    return [_open_for(path, plan, attempts) for path, plan in zip(roots, plans, strict=True)]


def _open_for(root: str, plan: Repetition, attempts: int) -> Artifact:
    artifact = patiently(lambda: open_artifact(root), f"read {root}", attempts)
    own = plan.without_skips()
    expected = Plan.for_artifact(artifact.manifest, plan.total_tokens, plan.seed, plan.policy)
    if expected != own:
        raise RequestError(f"the plan is not for {root}: {expected.difference(own)} (this artifact)")
    return artifact
