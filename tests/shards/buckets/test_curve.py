"""Curves: each document is fed as often as the curve says, walked over all positions; exact totals; what is refused."""

import json
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epochal.__main__ import main
from epochal.common.config import load_yaml, validate
from epochal.common.errors import RequestError
from epochal.service.ledger import histogram, segments_of
from epochal.shards.artifact import open_artifact
from epochal.shards.buckets.curve import Curve, _factor, _rounded, buckets_of, fed, mixture_of
from epochal.shards.buckets.divide import divide
from epochal.shards.buckets.split import Split
from epochal.shards.order.contents import contents, documents_of
from epochal.shards.order.mixture_config import MixtureSettings, open_mixture
from epochal.tests.support.pools import planted

PASSES = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2.5, 3, 3, 3.25, 7]
"""Of 20 buckets: the lowest 40 % left out, the best 5 % seven times."""


@pytest.fixture
def pool(make_pool) -> str:
    """A pool in 20 buckets by quality, and one of documents without it."""
    root = planted(make_pool)
    divide(root, Split(by="quality", quantiles=20))
    return root


def written(tmp_path: Path, **curve: Any) -> str:
    path = tmp_path / "curve.yaml"
    path.write_text(yaml.safe_dump(curve))
    return str(path)


def mixture_in(path: str) -> Any:
    return open_mixture(validate(MixtureSettings, load_yaml(path), path), 0, None)


def test_each_document_is_fed_as_often_as_the_curve_says(pool: str, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "mix.yaml")
    assert main(["curve", pool, written(tmp_path, passes=PASSES), "--out", out]) == 0
    assert "9 of 21 buckets are fed 0 times and left out" in capsys.readouterr().err
    opened = mixture_in(out)
    mixture = opened.mixture
    tables = [documents_of(artifact) for artifact in opened.artifacts]
    fed_tokens: Counter[str] = Counter()
    for content in contents(mixture, tables, range(mixture.positions)):
        for piece in content.documents:
            fed_tokens[piece.key] += piece.tokens
    passes = {f"q{i:02}": Fraction(str(p)) for i, p in enumerate(PASSES)} | {"null": Fraction(0)}
    for path, m in buckets_of(pool, None):
        assert m.bucket is not None
        wanted = passes[m.bucket.name]
        for row in pq.read_table(f"{path}/documents.parquet").to_pylist():
            times = Fraction(fed_tokens[row["key"].hex()], row["tokens"])
            if wanted.denominator == 1:
                assert times == wanted
            else:
                assert int(wanted) <= times <= int(wanted) + 1
    # The ledger, which does not walk, counts the same.
    read = {a.manifest.fingerprint: a.root for a in opened.artifacts}

    def documents(fingerprint: str) -> Any:
        table = pq.read_table(f"{read[fingerprint]}/documents.parquet")
        yield {"key": table["key"], **{name: table[name].to_numpy() for name in ("start", "tokens")}}

    counted = histogram(segments_of("run", mixture, mixture.positions, 8, lambda s: s), documents)["tokens"]
    expected: Counter[int] = Counter()
    for source in mixture.sources:
        whole, part = divmod(source.plan.positions, source.plan.samples)
        ids = source.plan.exposures(source.plan.positions)
        assert set(ids.tolist()) <= {whole, whole + 1}
        for times in {whole, whole + 1} if part else {whole}:
            expected[times] += int(source.plan.n_tokens(np.flatnonzero(ids == times)).sum())
    assert counted == dict(sorted(expected.items()))
    for number, p in ((1, {8, 9, 10, 11, 12}), (7, {19})):  # whole passes: the histogram is the curve
        tokens = sum(m.tokens for _, m in buckets_of(pool, None) if m.bucket and m.bucket.number in p)
        assert counted[number] == tokens


def test_a_total_is_met_to_the_token_and_most_is_kept(pool: str, tmp_path: Path) -> None:
    curve = validate(Curve, {"passes": PASSES, "most": 7}, "curve")
    buckets = buckets_of(pool, "quality")
    for total in (10_001, 23_457, 60_000):
        parts, factor = fed(curve, buckets, total)
        assert sum(b.tokens for b in parts) == total
        for b, asked in zip(parts, [*map(Fraction, map(str, PASSES)), Fraction(0)], strict=True):
            assert b.passes == min(Fraction(7), factor * asked)
            assert abs(b.tokens - b.passes * b.manifest.tokens) < 1
        mixture = mixture_of(curve, parts)
        fewest = sum(1 for b in parts if b.tokens)
        assert total - 16 * fewest < mixture.tokens <= total
    with pytest.raises(RequestError, match=r"more than the .* that 7 passes of every bucket that is fed come to"):
        fed(curve, buckets, 10**6)


@given(
    st.lists(st.tuples(st.fractions(0, 8, max_denominator=16), st.integers(1, 10**6)), min_size=1, max_size=8),
    st.fractions(1, 9, max_denominator=8),
    st.fractions(0, 1, max_denominator=97),
)
def test_scaling_under_a_cap_comes_to_the_total(parts, most: Fraction, share: Fraction) -> None:
    passes, sizes = [p for p, _ in parts], [n for _, n in parts]
    total = int(share * most * sum(n for p, n in parts if p))
    if total < 1:
        return
    factor = _factor(passes, sizes, total, most)
    exact = [min(most, factor * p) * n for p, n in parts]
    assert sum(exact) == total
    whole = _rounded(exact, total)
    assert sum(whole) == total
    assert all(abs(a - b) < 1 for a, b in zip(whole, exact, strict=True))


def test_passes_by_name_and_exact_fractions(make_pool, tmp_path: Path, capsys) -> None:
    root = planted(make_pool)
    divide(root, Split(by="lang"))
    assert main(["curve", root, written(tmp_path, passes={"de": "1/3", "en": 2.1}, policy="fixed")]) == 0
    text = capsys.readouterr().out
    body = yaml.safe_load(text)
    tokens = {m.bucket.name: m.tokens for _, m in buckets_of(root, None) if m.bucket}
    assert {name: source["tokens"] for name, source in body["sources"].items()} == {
        "lang-de": tokens["de"] // 3,
        "lang-en": tokens["en"] * 21 // 10,
    }
    assert body["sources"]["lang-de"]["policy"] == "fixed"
    (tmp_path / "mix.yaml").write_text(text)
    assert main(["curve", root, written(tmp_path, passes={"de": "1/3", "en": 2.1}, policy="fixed"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert mixture_in(str(tmp_path / "mix.yaml")).mixture.fingerprint == shown["fingerprint"]


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        ({"passes": [0, 0]}, "feed no bucket"),
        ({"passes": [1] * 19}, "passes are 19, but there are buckets up to q19: give 20"),
        ({"passes": {"q1": 2}}, "there is no bucket 'q1': did you mean"),
        ({"passes": {f"q{i:02}": 1 for i in range(20)}}, "bucket 'null' has no passes"),
        ({"passes": ["x"] * 20}, "must be a number of passes"),
        ({"passes": [-1] * 20}, "must lie in 0 to"),
        ({"passes": {True: 1}}, "write names that YAML takes for something else in quotes"),
        ({"passes": [1] * 20, "by": "lang"}, "divided by lang"),
        ({"passes": [0] * 19 + ["1/100000"]}, "is fed for less than one sample"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(pool: str, tmp_path: Path, capsys, curve, said: str) -> None:
    assert main(["curve", pool, written(tmp_path, **curve)]) == 2
    assert said in capsys.readouterr().err


def test_missing_buckets_and_two_divisions_are_told(pool: str, tmp_path: Path, capsys) -> None:
    divide(pool, Split(by="lang"))
    assert main(["curve", pool, written(tmp_path, passes=PASSES)]) == 2
    assert "is divided by lang and by quality: say by which" in capsys.readouterr().err
    shutil.rmtree(buckets_of(pool, "quality")[3][0])
    assert main(["curve", pool, written(tmp_path, passes=PASSES, by="quality")]) == 2
    assert "1 of 21 buckets" in capsys.readouterr().err
    assert open_artifact(pool).manifest.bucket is None
