"""Which documents lie at a position, and where a document comes, against a walk over the pool's tokens."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from epochal.__main__ import main
from epochal.common.errors import RequestError
from epochal.shards.artifact import open_artifact
from epochal.shards.carve import carve
from epochal.shards.documents import rows
from epochal.shards.loader.order_reader import OrderReader
from epochal.shards.order.amendment.amend import amend
from epochal.shards.order.base import Order
from epochal.shards.order.contents import Piece, contents, documents_of, places
from epochal.shards.order.mixing import Ingredient, by_tokens
from epochal.shards.order.plan import Plan
from epochal.tests.support.loading import plan_for, tokens_of, toy_mixture
from epochal.tests.support.pools import EOD, random_documents


def walked(pool: str, first: int, tokens: int, alone: bool, seq_len: int = 16) -> list[list[tuple[str, int, int]]]:
    """Walk a pool token by token: for each sample of a window, (id, its first token, how many) of each document, which
    is counted from its beginning in the window where the subset stands `alone`."""
    artifact = open_artifact(pool)
    stream = np.concatenate(
        [np.frombuffer(Path(s.path).read_bytes()[-2 * 16 * s.samples :], "<u2") for s in artifact.shards]
    )
    samples: list[list[tuple[str, int, int]]] = [[] for _ in range(-(-tokens // seq_len))]
    document, offset = 0, 0
    for at, token in enumerate(stream[: artifact.manifest.tokens].tolist()):
        if alone and at == first:
            offset = 0
        if first <= at < first + tokens:
            rows = samples[(at - first) // seq_len]
            if rows and rows[-1][0] == f"doc{document}":
                rows[-1] = (rows[-1][0], rows[-1][1], rows[-1][2] + 1)
            else:
                rows.append((f"doc{document}", offset, 1))
        offset += 1
        if token == EOD:
            document, offset = document + 1, 0
    return samples


def pool_and_window(subset: str) -> tuple[str, int, int, bool]:
    artifact = open_artifact(subset)
    m = artifact.manifest
    if m.parent is None:
        return subset, 0, m.tokens, False
    return str(Path(subset) / m.parent.path), m.parent.start_sample * m.seq_len, m.tokens, m.materialized


def short(pieces: tuple[Piece, ...]) -> list[tuple[str, int, int]]:
    return [(piece.id, piece.begin, piece.tokens) for piece in pieces]


def orders_of(subsets: dict[str, str], make_pool: Callable[..., Path]) -> dict[str, tuple[Order, list[str]]]:
    """Every policy, over replicates, a copied subset and a pool whose documents are longer than samples; a mixture."""
    long = random_documents(3000)
    long[(long == EOD) & (np.arange(3000) % 3 > 0)] = 7  # two thirds of the documents go on
    long[-1] = EOD
    whole = str(make_pool(long, name="long"))
    copied = carve(subsets["a"].replace("/subsets/toy-901", "/pools/toy"), 777, 1, materialize=True)[0]
    mixture, roots, _ = toy_mixture(subsets)
    return {
        "reshuffle": (plan_for(subsets["b"]), [subsets["b"]]),
        "fixed": (plan_for(subsets["a"], policy="fixed"), [subsets["a"]]),
        "sequential": (plan_for(copied, policy="sequential"), [copied]),
        "global": (plan_for(whole, policy="global"), [whole]),
        "mixture": (mixture, roots),
        "repack": (plan_for(subsets["b"], policy="repack"), [subsets["b"]]),
        "amended repack": (amend(plan_for(whole, policy="repack"), [[30, 45], [200, 203]]), [whole]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reshuffle", "fixed", "sequential", "global", "mixture"])
def test_documents_of_random_positions_equal_a_walk_over_the_pool(
    subsets: dict[str, str], make_pool: Callable[..., Path], name: str
) -> None:
    order, roots = orders_of(subsets, make_pool)[name]
    walks = [walked(*pool_and_window(root)) for root in roots]
    tables = [documents_of(open_artifact(root)) for root in roots]
    positions = random.Random(3).choices(range(order.positions), k=1000)
    found = contents(order, tables, positions)
    numbers, samples = order.locate(order.ids(positions))
    expected = [walks[n][s] for n, s in zip(numbers.tolist(), samples.tolist(), strict=True)]
    assert [content.position for content in found] == positions
    assert [short(content.documents) for content in found] == expected
    assert any(len(rows) == 1 and rows[0][2] == 16 for rows in expected), "a document is longer than a sample"
    assert any(sum(n for _, _, n in rows) < 16 for rows in expected), "a short last sample is among them"
    before = 0 if name != "sequential" else int(walks[0][0][0][0].removeprefix("doc"))  # documents before the copy's
    of = {f"doc{piece.number + before}": piece for content in found for piece in content.documents}
    assert all(f"doc{int(piece.key, 16)}" == piece.id == name for name, piece in of.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repack", "amended repack"])
def test_documents_packed_anew_are_those_whose_tokens_are_read(
    subsets: dict[str, str], make_pool: Callable[..., Path], name: str
) -> None:
    order, (root,) = orders_of(subsets, make_pool)[name]
    table, artifact = documents_of(open_artifact(root)), open_artifact(root)
    pool = pool_and_window(root)[0]
    starts = {row["id"]: row["start"] for row in rows(pool, 0, 10_000)}
    stream = tokens_of(pool).ravel()
    positions = random.Random(3).choices(range(order.positions), k=300)
    ids = order.ids(positions).astype(np.int64)
    read = OrderReader.of(order, [artifact]).read(positions, ids)
    for content, tokens, n in zip(contents(order, [table], positions), read, order.n_tokens(ids), strict=True):
        told = [stream[starts[p.id] + p.begin :][: p.tokens] for p in content.documents]
        assert np.concatenate(told).tolist() == tokens[:n].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reshuffle", "fixed", "sequential", "global", "mixture", "repack", "amended repack"])
def test_places_of_a_document_are_the_positions_that_hold_it(
    subsets: dict[str, str], make_pool: Callable[..., Path], name: str
) -> None:
    order, roots = orders_of(subsets, make_pool)[name]
    tables = [documents_of(open_artifact(root)) for root in roots]
    every = contents(order, tables, range(order.positions))
    names = Counter(piece.id for content in every for piece in content.documents)
    for document in random.Random(4).sample(sorted(names), 12):
        found = places(order, tables, document, range(order.positions))
        expected = [(c.position, c.id, p) for c in every for p in c.documents if p.id == document]
        assert [(place.position, place.id, place.document) for place in found] == expected
        part = places(order, tables, document, range(20, 50))
        assert part == [place for place in found if 20 <= place.position < 50]
        key = found[0].document.key
        assert {place.position for place in places(order, tables, key, range(order.positions))} >= {
            p.position for p in found if p.document.key == key
        }
    with pytest.raises(RequestError, match="no document of this run has the id or key 'nobody'"):
        places(order, tables, "nobody", range(order.positions))


def test_a_subset_that_stands_alone_needs_no_pool(subsets: dict[str, str]) -> None:
    pool = pool_and_window(subsets["a"])[0]
    alone = carve(pool, 500, 1, materialize=True)[0]
    plan = plan_for(alone, 1, policy="sequential")
    whole = [short(c.documents) for c in contents(plan, [documents_of(open_artifact(alone))], range(plan.positions))]
    shutil.rmtree(pool)
    table = documents_of(open_artifact(alone))
    assert [short(c.documents) for c in contents(plan, [table], range(plan.positions))] == whole
    assert contents(plan, [table], [0])[0].documents[0].number == 0
    last = whole[-1][-1][0]
    assert places(plan, [table], last, range(plan.positions))[-1].position == plan.positions - 1


def test_a_copy_without_a_table_says_what_to_do(subsets: dict[str, str]) -> None:
    alone = open_artifact(carve(pool_and_window(subsets["a"])[0], 500, materialize=True)[0])
    files = {name: info for name, info in alone.manifest.files.items() if name != "documents.parquet"}
    early = replace(alone, manifest=alone.manifest.model_copy(update={"files": files}))
    with pytest.raises(RequestError, match=r"has no documents.parquet, .* carve it again"):
        documents_of(early)


def test_passes_of_places_in_a_mixture_are_the_sources_own(subsets: dict[str, str]) -> None:
    parts = [Ingredient(n, open_artifact(subsets[n]).manifest) for n in "ab"]
    mixture = by_tokens([(parts[0], 3 * 901), (parts[1], 1500)], 12)
    tables = [documents_of(open_artifact(subsets[n])) for n in "ab"]
    found = places(mixture, tables, "doc0", range(mixture.positions))
    assert Counter(place.pass_ for place in found if place.component == "a") == {p: len(found) // 3 for p in range(3)}


def test_the_command_lists_documents_of_positions_and_of_a_step(
    subsets: dict[str, str], capsys: pytest.CaptureFixture
) -> None:
    path, plan = subsets["a"], plan_for(subsets["a"], 1, seed=5)
    expected = contents(plan, [documents_of(open_artifact(path))], range(16, 24))
    words = ["order", path, "--seed", "5", "--documents", "--json"]
    assert main([*words, "--start", "16", "--count", "8"]) == 0
    by_position = json.loads(capsys.readouterr().out)["positions"]
    assert by_position == [
        content.to_dict() | {"documents": by_position[i]["documents"]} for i, content in enumerate(expected)
    ]
    assert [[d["id"] for d in row["documents"]] for row in by_position] == [
        [p.id for p in c.documents] for c in expected
    ]
    assert main([*words, "--step", "2", "--batch-tokens", "128"]) == 0
    assert json.loads(capsys.readouterr().out)["positions"] == by_position
    assert main([*words, "--step", "7", "--batch-tokens", "128", "--epochs", "1"]) == 0
    assert len(json.loads(capsys.readouterr().out)["positions"]) == 57 - 56
    assert main(["order", path, "--document", "doc3", "--epochs", "2", "--seed", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    both = places(
        Plan.for_artifact(open_artifact(path).manifest, 1802, 5),
        [documents_of(open_artifact(path))],
        "doc3",
        range(114),
    )
    assert [int(line.split()[1]) for line in lines] == [place.position for place in both]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--count", "2", "--text"], "--text goes with --documents"),
        (["--step", "2", "--documents"], "--step is one step, of --batch-tokens"),
        (["--step", "2", "--batch-tokens", "100", "--documents"], "no whole number of samples of 16"),
        (["--batch-tokens", "128", "--count", "2"], "--batch-tokens goes with --step"),
        (["--document", "doc3"], "say how long the run is"),
        (["--document", "nobody", "--epochs", "1"], "no document of this run has the id or key 'nobody'"),
        (["--documents"], "say how many positions: --count 8"),
        (["--documents", "--count", "100001"], "--count is at most 100,000"),
        (["--step", "99", "--batch-tokens", "128", "--epochs", "1"], "the run ends at position 57"),
    ],
)
def test_wrong_questions_are_one_line(
    subsets: dict[str, str], capsys: pytest.CaptureFixture, words: list[str], line: str
) -> None:
    assert main(["order", subsets["a"], *words]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
