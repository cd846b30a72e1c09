"""Components: which documents belong together, from links that lie in files and need not fit into memory.

A link joins two documents; a cluster is a connected component. Links are turned into stars, in which every document of
a cluster is linked to its smallest and to no other, by Kiveris and others' two operations in turn (Connected Components
in MapReduce and Beyond, 2014). Large star: each document's larger neighbours are linked to the smallest of its
neighbours and itself instead of to it. Small star: so are its smaller neighbours, and it itself. Each is done at every
document at once: a task has the links of one stretch of documents, and each link lies with both of its ends. Links that
a task holds together anyway it turns into stars before it writes them. Either way the sum of the numbers that links
hold falls until there are only stars, after a few rounds.
"""

import numpy as np
from numpy.typing import NDArray

from ..external_sort import Dealt, DealtWriter, order_of
from .division import Division, Step, note

Edges = NDArray[np.int64]
"""Shape (n, 2): numbers of two documents that belong together."""

LINK = np.dtype([("node", "<i8"), ("other", "<i8")])
"""A link as it lies with one of its ends, `node`."""

EDGES_AT_ONCE = 1 << 22
"""Links that a task turns into stars at once."""

MOST_ROUNDS = 100
"""Each halves the longest way, or nearly so: chains of 2^34 documents take about 34."""


class Forest:
    """Which of a few documents belong together: each points to a smaller one, or is the smallest itself."""

    def __init__(self, n: int) -> None:
        self._parent = np.arange(n)

    def join(self, edges: Edges) -> None:
        """Join the two clusters of each pair of documents that is linked."""
        a, b = edges.T
        while len(a):
            a, b = self.roots(a), self.roots(b)
            apart = a != b
            a, b = np.minimum(a[apart], b[apart]), np.maximum(a[apart], b[apart])
            np.minimum.at(self._parent, b, a)
            while (above := self._parent[self._parent[b]]).size and (above != self._parent[b]).any():
                self._parent[b] = above  # halves the way up, as all on it do the same

    def roots(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the smallest document of the cluster of each of `numbers`."""
        root = self._parent[numbers]
        while ((above := self._parent[root]) != root).any():
            root = above
        self._parent[numbers] = root
        return root


def stars(edges: Edges) -> Edges:
    """Return as few links that join the same: (document, the smallest of those that it belongs with), in order."""
    nodes, places = _numbered(edges)
    forest = Forest(len(nodes))
    forest.join(places)
    roots = forest.roots(np.arange(len(nodes)))
    larger = np.flatnonzero(roots != np.arange(len(nodes)))
    return np.stack([nodes[larger], nodes[roots[larger]]], axis=1)


def _numbered(edges: Edges) -> tuple[NDArray[np.int64], Edges]:
    """Return the documents of some links, in order, and the links with their places among these."""
    first, last = (int(edges.min()), int(edges.max())) if len(edges) else (0, -1)
    if last - first >= 4 * edges.size:
        nodes, places = np.unique(edges.reshape(-1), return_inverse=True)
        return nodes, places.reshape(-1, 2)
    there = np.zeros(last - first + 1, np.bool_)  # a table of all between them is smaller than what is to be sorted
    there[edges - first] = True
    return np.flatnonzero(there) + first, (np.cumsum(there) - 1)[edges - first]


class LinkWriter(DealtWriter):
    """Writes links, as stars of some at a time, dealt out by the stretches of both their ends."""

    def __init__(self, path: str, stretches: int, width: int) -> None:
        super().__init__(path, stretches, LINK)
        self._width, self._edges, self._n_edges = width, [np.zeros((0, 2), np.int64)], 0

    def add(self, edges: Edges) -> None:  # type: ignore[override]
        """Add links."""
        for start in range(0, len(edges), EDGES_AT_ONCE):
            self._edges.append(edges[start : start + EDGES_AT_ONCE])
            self._n_edges += len(self._edges[-1])
            if self._n_edges >= EDGES_AT_ONCE:
                self._flush()

    def _flush(self) -> None:
        found = stars(np.concatenate(self._edges))
        self._edges, self._n_edges = [np.zeros((0, 2), np.int64)], 0
        records = np.empty(2 * len(found), LINK)
        records["node"] = np.concatenate([found[:, 0], found[:, 1]])
        records["other"] = np.concatenate([found[:, 1], found[:, 0]])
        stretch = records["node"] // self._width
        self.write(records.take(order_of(stretch, self._ranges)), np.bincount(stretch, minlength=self._ranges))


class Lowest:
    """The links of a stretch of documents.

    Attributes:
        lowest: the smallest neighbour of each, or itself.
        linked: whether it has one.
    """

    def __init__(self, links: Dealt, stretch: int, first: int, last: int) -> None:
        self._links, self._stretch, self._first = links, stretch, first
        self.lowest = np.arange(first, last)
        self.linked = np.zeros(last - first, np.bool_)
        for some in links.read(stretch):
            node = some["node"] - first
            np.minimum.at(self.lowest, node, some["other"])
            self.linked[node] = True

    def not_stars(self) -> int:
        """Return how many links keep the documents from being stars: at the larger end, those that do not lead to the
        smallest; at the smaller end, those of a document that is not the smallest itself."""
        found = 0
        for some in self._links.read(self._stretch):
            node, other = some["node"], some["other"]
            lowest = self.lowest[node - self._first]
            found += int(np.count_nonzero(np.where(other < node, other != lowest, lowest != node)))
        return found

    def star(self, large: bool, writer: LinkWriter) -> None:
        """Write the links that take the place of these: those to larger neighbours, or those to smaller ones."""
        for some in self._links.read(self._stretch):
            node, other = some["node"], some["other"]
            mine = (other > node) if large else (other < node)
            node, other = node[mine], other[mine]
            lowest = self.lowest[node - self._first]
            made = np.stack([other, lowest], axis=1)
            if not large:
                made = np.concatenate([made, np.stack([node, lowest], axis=1)])
            writer.add(made[made[:, 0] != made[:, 1]])


class Stars(Step):
    """Links all documents to smaller ones: a large or a small star at each of every world_size-th stretch.

    Attributes:
        links: the folder of the links that there are.
        made: the folder of those that take their place.
        large: which of the two.
    """

    name = "Stars"

    def __init__(self, division: Division, links: str, made: str, large: bool) -> None:
        super().__init__(division)
        self.links, self.made, self.large = links, made, large

    def do(self, rank: int, world_size: int) -> None:
        """Write `<made>/<rank>`; with large stars, count what is not a star yet, and the documents that have links."""
        d, not_stars, linked = self.division, 0, 0
        mine = d.mine(rank, world_size)
        links = Dealt(d.path(self.links), LINK, mine)
        path = d.path(f"{self.made}/{rank:05d}")
        with LinkWriter(path, d.stretches, d.width) as writer:
            for stretch in mine:
                at = Lowest(links, stretch, *d.span(stretch))
                if self.large:
                    not_stars += at.not_stars()
                    linked += int(np.count_nonzero(at.linked))
                at.star(self.large, writer)
        note(f"{rounds_path(d, self.made)}/{rank:05d}", {"not_stars": not_stars, "linked": linked})


def rounds_path(division: Division, made: str) -> str:
    """Return the folder of what the tasks counted that made the links in folder `made`."""
    return division.path(f"rounds/{made}")
