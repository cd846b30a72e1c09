"""A mixture of three small subsets."""

from typing import Any

import numpy as np

from epochal.shards.artifact import open_artifact
from epochal.shards.order.mixing import Ingredient, by_tokens
from epochal.shards.order.mixture import Mixture
from epochal.tests.support.loading import tokens_of


def ingredient(name: str, root: str, **fields: Any) -> Ingredient:
    """Return the subset at `root` as an ingredient; fields: seed, policy."""
    return Ingredient(name, open_artifact(root).manifest, **fields)


def toy_mixture(subsets: dict[str, str]) -> tuple[Mixture, list[str], np.ndarray]:
    """Return a mixture of subsets a, b and c, their folders, and the tokens of all their samples, in order."""
    parts = [ingredient(n, subsets[n], seed=i) for i, n in enumerate("abc")]
    mixture = by_tokens([(parts[0], 3 * 901), (parts[1], 2000), (parts[2], 700)], 12)
    tokens = np.concatenate([tokens_of(subsets[n]) for n in "abc"])
    return mixture, [subsets[n] for n in "abc"], tokens
