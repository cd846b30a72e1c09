"""Which document each token is of."""

import numpy as np
import pytest

from epochal.train.objective import documents
from epochal.train.objective.dual import Dual
from epochal.train.objective.objectives import Autoregressive, MaskedDiffusion, SpecialIds, pack

IDS = SpecialIds(eod=9, pad=8, mask=7)
TEXT = np.array([[1, 2, 9, 3, 9, 9, 4, 8], [9, 1, 2, 3, 4, 5, 6, 0]])
N_TOKENS = np.array([7, 8])


def test_what_an_autoregressive_model_reads_begins_a_document_at_each_eod() -> None:
    rows = Autoregressive(IDS, document_mask=True).corrupt(TEXT, N_TOKENS, np.arange(2))
    assert rows.inputs[0].tolist() == [9, 1, 2, 9, 3, 9, 9, 4]
    assert rows.documents is not None
    assert rows.documents.tolist() == [[1, 1, 1, 2, 2, 3, 4, 4], [1, 2, 2, 2, 2, 2, 2, 2]]


def test_in_a_text_eod_ends_its_document_and_pad_is_apart() -> None:
    rows = MaskedDiffusion(IDS, document_mask=True).corrupt(TEXT, N_TOKENS, np.arange(2))
    assert rows.documents is not None
    assert rows.documents.tolist() == [[0, 0, 0, 1, 1, 2, 3, 8], [0, 1, 1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    "objective",
    [
        Autoregressive(IDS, 3, input_masking=0.9, random_replacement=0.5, vocab_size=10, document_mask=True),
        MaskedDiffusion(IDS, 3, fixed_ratio=0.99, document_mask=True),
    ],
    ids=["ar", "mdm"],
)
def test_places_are_those_of_the_clean_text(objective: Autoregressive | MaskedDiffusion) -> None:
    """Noise hides EOD, which changes no document."""
    clean = type(objective)(IDS, 3, document_mask=True).corrupt(TEXT, N_TOKENS, np.arange(2))
    noised = objective.corrupt(TEXT, N_TOKENS, np.arange(2))
    assert (noised.inputs == 9).sum() < (clean.labels == 9).sum()
    assert np.array_equal(noised.documents, clean.documents)  # type: ignore[arg-type]


def test_masked_eods_are_targets_like_any_token() -> None:
    rows = MaskedDiffusion(IDS, 3, fixed_ratio=1.0, weighting="exact_count", document_mask=True)
    targets = rows.corrupt(TEXT, N_TOKENS, np.arange(2)).targets
    assert targets.sum(1).tolist() == N_TOKENS.tolist()


def test_each_row_of_a_dual_batch_has_its_types_documents() -> None:
    ar, mdm = Autoregressive(IDS, 1, document_mask=True), MaskedDiffusion(IDS, 1, document_mask=True)
    dual = Dual(ar, mdm, 0.5, 1)
    text, n, at = np.repeat(TEXT[:1], 16, 0), np.full(16, 7), np.arange(16)
    is_ar = dual.is_autoregressive(at)
    assert 0 < is_ar.sum() < 16
    rows = dual.corrupt(text, n, at)
    assert rows.documents is not None
    assert {tuple(row) for row in rows.documents[is_ar]} == {(1, 1, 1, 2, 2, 3, 4, 4)}
    assert {tuple(row) for row in rows.documents[~is_ar]} == {(0, 0, 0, 1, 1, 2, 3, 8)}


def test_nothing_is_told_where_it_is_off() -> None:
    for objective in (Autoregressive(IDS), MaskedDiffusion(IDS), Dual(Autoregressive(IDS), MaskedDiffusion(IDS), 0.5)):
        rows = objective.corrupt(TEXT, N_TOKENS, np.arange(2))
        assert rows.documents is None
        assert pack(rows).documents is None


def test_losses_of_a_model_that_is_told_go_by_other_names() -> None:
    told = {"document_mask": True}
    assert Autoregressive(IDS, **told).kind == "nll"  # it reads nothing that lies to the right
    assert MaskedDiffusion(IDS, **told).kind == "nelbo_given_lengths"
    assert MaskedDiffusion(IDS, weighting="uniform", **told).kind == "masked_nll_given_lengths"
    assert Dual(Autoregressive(IDS, **told), MaskedDiffusion(IDS, **told), 0.5).kind == "dual_given_lengths"


def test_a_text_is_cut_after_each_eod() -> None:
    found = [part.tolist() for part in documents.parts(np.array([9, 1, 9, 2, 3]), 9)]
    assert found == [[9], [1, 9], [2, 3]]
    assert [part.tolist() for part in documents.parts(np.array([1, 9]), 9)] == [[1, 9]]


@pytest.mark.parametrize(
    ("context", "ar", "mdm"),
    [([9, 1, 2], [9, 1, 2], [1, 2]), ([9, 1, 9, 2], [9, 2], [2]), ([9], [9], []), ([1, 2], [1, 2], [1, 2])],
)
def test_of_a_context_the_document_that_is_not_over_is_seen(context: list, ar: list, mdm: list) -> None:
    assert documents.last(np.array(context), 9, causal=True).tolist() == ar
    assert documents.last(np.array(context), 9, causal=False).tolist() == mdm
