"""How often the crossover's intervals hold the truth, by simulation: what docs/crossover.md states.

    python -m epochal.tests.train.crossover.fits.coverage [--simulations 2000]

Every simulated pair has a lead that grows over tokens with a slope and a place of its own (draws and seeds differ),
bends as real ones do, and wobbles from one evaluation to the next. The truth is the crossover of the mean lead of all
such pairs. `bootstrap` is what version 0.1 did: percentiles over resampled pairs.
"""

import argparse
import math
from typing import NamedTuple

import numpy as np

from epochal.train.crossover.fits.estimate import Pair, crossover, curve, overtakes
from epochal.train.crossover.fits.intervals import half_width
from epochal.train.crossover.fits.potential import potential

PAIRS = (3, 5, 10)
TRUTH = 0.5
"""Of the budget: where the mean lead crosses."""


class Coverage(NamedTuple):
    """The share of intervals that hold the truth, and the median width of those that are finite."""

    share: float
    width: float


def leads(
    rng: np.random.Generator, pairs: int, points: int = 20, wobble: float = 0.02
) -> tuple[np.ndarray, np.ndarray]:
    """Return (tokens, leads (pairs, points)): straight through the truth, each with its offset and slope."""
    x = np.linspace(1 / points, 1, points)
    offset, slope = rng.normal(0, 0.15, (pairs, 1)), 2 + rng.normal(0, 0.5, (pairs, 1))
    return x, slope * (x - TRUTH) + offset + rng.normal(0, 0.02, (pairs, points))


def pairs_of(x: np.ndarray, rows: np.ndarray) -> list[Pair]:
    """Return curves whose leads are `rows`: AR turns up, MDM is AR's loss less the lead."""
    ar = 4 + 3 * np.square(x - 0.3)
    return [Pair(curve(x, ar), curve(x, ar - row)) for row in rows]


def of_crossover(pairs: int, simulations: int, seed: int = 0) -> Coverage:
    """Return the coverage of the crossover's interval."""
    rng = np.random.default_rng([seed, pairs])
    hits, widths = 0, []
    for _ in range(simulations):
        found = crossover(pairs_of(*leads(rng, pairs)))
        assert found is not None
        hits += found.low <= TRUTH <= found.high
        widths.append(found.high - found.low)
    return _coverage(hits, widths)


def of_bootstrap(pairs: int, simulations: int, seed: int = 0, resamples: int = 500) -> Coverage:
    """Return the coverage of the percentile bootstrap that stood here before."""
    rng = np.random.default_rng([seed, pairs])
    hits, widths = 0, []
    for _ in range(simulations):
        x, rows = leads(rng, pairs)
        weights = rng.multinomial(pairs, np.full(pairs, 1 / pairs), resamples) / pairs
        places = [math.inf if (at := overtakes(x, row)) is None else at for row in weights @ rows]
        low, high = (float(np.quantile(places, q, method="inverted_cdf")) for q in (0.025, 0.975))
        hits += low <= TRUTH <= high
        widths.append(high - low)
    return _coverage(hits, widths)


def of_mean(pairs: int, simulations: int, seed: int = 0) -> Coverage:
    """Return the coverage of the interval of best against best: of a mean over pairs."""
    rng = np.random.default_rng([seed, pairs])
    values = rng.normal(0.3, 0.1, (simulations, pairs, 1))
    halves = np.array([half_width(own)[0] for own in values])
    hits = int(np.count_nonzero(np.abs(values.mean((1, 2)) - 0.3) <= halves))
    return _coverage(hits, list(2 * halves))


def of_multiple(replicates: int, simulations: int, seed: int = 0) -> Coverage:
    """Return the coverage of a multiple's interval: four budgets with so many replicates at the smallest and one at the
    others, MDM's budget worth twice its tokens."""
    rng = np.random.default_rng([seed, replicates])
    budgets = {25_000: replicates, 50_000: replicates, 100_000: 1, 400_000: 1}
    hits, widths = 0, []
    for _ in range(simulations):
        ar = {n: list(6 - 0.5 * math.log(n) + rng.normal(0, 0.05, r)) for n, r in budgets.items()}
        mdm = {n: list(6 - 0.5 * math.log(2 * n) + rng.normal(0, 0.05, r)) for n, r in budgets.items()}
        found = potential(ar, mdm, 50_000)
        hits += found.low <= 2 <= found.high
        widths.append(found.high - found.low)
    return _coverage(hits, widths)


def _coverage(hits: int, widths: list[float]) -> Coverage:
    finite = [w for w in widths if math.isfinite(w)]
    return Coverage(hits / len(widths), float(np.median(finite)) if finite else math.inf)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    n = parser.parse_args().simulations
    print("pairs  crossover    width  bootstrap    width  best lead  multiple")
    for pairs in (2, *PAIRS):
        before = of_bootstrap(pairs, n)
        if pairs < min(PAIRS):
            print(f"{pairs:5}       none        –      {before.share:5.1%}    {before.width:.3f}       none      none")
            continue
        ours, lead, multiple = of_crossover(pairs, n), of_mean(pairs, n), of_multiple(pairs, n)
        print(
            f"{pairs:5}      {ours.share:5.1%}    {ours.width:.3f}      {before.share:5.1%}    {before.width:.3f}"
            f"      {lead.share:5.1%}     {multiple.share:5.1%}"
        )


if __name__ == "__main__":
    main()
