import tempfile
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from epochal.datapipe import deduplicate
from epochal.datapipe.external_sort import Dealt
from epochal.datapipe.stages import components
from epochal.datapipe.stages.division import Division


def clusters(folder: str, n: int, tasks: Sequence[np.ndarray], stretches: int) -> tuple[list[int], list[int]]:
    """Return the smallest document of the cluster of each, and those that are linked, from the links of each task."""
    division = Division(folder, f"{folder}/match", ("s",), n, 1, 0, 1, stretches)
    for rank, edges in enumerate(tasks):
        with components.LinkWriter(division.path(f"links/{rank}"), stretches, division.width) as writer:
            writer.add(edges)

    def run(_: str, steps, tasks: int) -> None:
        for rank in range(tasks):
            for step in steps:
                assert not list(step.run(rank=rank, world_size=tasks))

    links, n_linked = deduplicate._Stages(division, len(tasks), run)._stars()
    dealt = Dealt(division.path(links), components.LINK, range(division.stretches))
    found = [components.Lowest(dealt, i, *division.span(i)) for i in range(stretches)]
    lowest = np.concatenate([some.lowest for some in found])
    linked = np.flatnonzero(np.concatenate([some.linked for some in found]))
    assert len(linked) == n_linked
    return lowest.tolist(), linked.tolist()


@pytest.mark.slow
@given(
    st.integers(2, 40).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.lists(st.tuples(*[st.integers(0, n - 1)] * 2), max_size=30), min_size=1, max_size=3),
        )
    ),
    st.integers(1, 7),
    st.integers(1, 9),
)
def test_stars_are_connected_components(case, stretches, at_once):
    n, tasks = case
    edges = [np.array([link for link in links if link[0] != link[1]], np.int64).reshape(-1, 2) for links in tasks]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "EDGES_AT_ONCE", at_once)
        lowest, linked = clusters(folder, n, edges, stretches)
    whole = np.concatenate(edges)
    _, labels = connected_components(coo_matrix((np.ones(len(whole)), whole.T), (n, n)), directed=False)
    assert lowest == [int(np.flatnonzero(labels == label)[0]) for label in labels]
    assert linked == np.unique(whole).tolist()


@pytest.mark.parametrize(("at_once", "most"), [(1 << 22, 3), (64, 14)])  # 14: a chain of 10,000 that only halves
def test_long_chains_whose_links_come_backwards_take_few_rounds(tmp_path, monkeypatch, at_once, most):
    monkeypatch.setattr(components, "EDGES_AT_ONCE", at_once)
    n = 10_000
    numbers = np.random.default_rng(0).permutation(n)  # neighbours have numbers far apart
    links = np.stack([numbers[1:], numbers[:-1]], axis=1)[::-1]
    lowest, _ = clusters(str(tmp_path), n, np.array_split(links, 2), 3)
    assert not any(lowest)
    assert len(list((tmp_path / "match" / "log").iterdir())) <= most


def test_a_cluster_that_takes_too_many_rounds_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(components, "EDGES_AT_ONCE", 1)
    monkeypatch.setattr(deduplicate, "MOST_ROUNDS", 1)
    links = np.array([[1, 0], [2, 1], [3, 2]])
    with pytest.raises(deduplicate.WorkError, match="clusters are not found after 1 rounds"):
        clusters(str(tmp_path), 4, [links], 2)
