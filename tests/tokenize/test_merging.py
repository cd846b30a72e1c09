"""Merging of pieces against Hugging Face's BPE: lists of merges of every shape, and pieces longer than a window."""

import itertools
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from epochal.tokenize import _merge
from epochal.tokenize.compiled import NotCompiledError
from epochal.tokenize.merging import piece_encoder
from epochal.tokenize.special import byte_to_char
from epochal.tokenize.tokenizer import load_tokenizer

WINDOW = 4096  # as in _merge.c
CHARS = byte_to_char()


def spec_of(merges: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Return the description of a tokenizer that has these merges; ids are in the order of first appearance."""
    tokens = dict.fromkeys([bytes([b]) for b in range(256)])
    for left, right in merges:
        tokens |= dict.fromkeys((left, right, left + right))
    vocab = {spelled(token): i for i, token in enumerate(tokens)}
    return {"model": {"vocab": vocab, "merges": [(spelled(a), spelled(b)) for a, b in merges]}}


def spelled(token: bytes) -> str:
    return "".join(CHARS[byte] for byte in token)


def encode(spec: dict[str, Any], pieces: list[bytes]) -> list[list[int]]:
    counts, ids = piece_encoder(spec)(pieces)
    ends = np.cumsum(np.frombuffer(counts, np.uint32)).tolist()
    return [np.frombuffer(ids, np.uint32)[a:b].tolist() for a, b in itertools.pairwise([0, *ends])]


def library(spec: dict[str, Any], pieces: list[bytes]) -> list[list[int]]:
    """The library's ids of pieces, none of which begins with a contraction."""
    model = models.BPE(dict(spec["model"]["vocab"]), [tuple(merge) for merge in spec["model"]["merges"]])
    return [[token.id for token in model.tokenize(spelled(piece))] for piece in pieces]


@st.composite
def merge_lists(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    """Merges of some bytes and what others make, in any order: some come before those that make their parts, some make
    what another makes."""
    tokens = [b"a", b"b", b"\xe6"]
    merges: list[tuple[bytes, bytes]] = []
    for _ in range(draw(st.integers(0, 14))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        merges.append(pair)
        tokens.append(b"".join(pair))
    return draw(st.permutations(list(dict.fromkeys(merges))))


@settings(max_examples=300, deadline=None)
@given(merge_lists(), st.lists(st.text("ab\xe6", max_size=40), max_size=5))
def test_any_list_of_merges_gives_the_librarys_ids(merges, texts):
    spec, pieces = spec_of(merges), [text.encode("latin-1") for text in texts]
    assert encode(spec, pieces) == library(spec, pieces)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(merge_lists(), st.text("ab\xe6", min_size=1, max_size=40), st.integers(WINDOW - 2, 4 * WINDOW), st.integers(0))
def test_pieces_longer_than_a_window_have_the_librarys_ids(merges, text, size, seed):
    """Periodic ones, and random ones of the same characters."""
    spec, period = spec_of(merges), text.encode("latin-1")
    drawn = np.random.default_rng(seed).choice(list(period), size).astype(np.uint8).tobytes()
    pieces = [(period * size)[:size], drawn, drawn[: WINDOW + 1], drawn[:WINDOW]]
    assert encode(spec, pieces) == library(spec, pieces)


def test_a_token_as_long_as_what_two_windows_have_in_common_is_found():
    """Each merge doubles what the one before made: up to half a window, a window and more."""
    merges = [(b"a" * 2**k, b"a" * 2**k) for k in range(14)]
    spec = spec_of(merges)
    pieces = [b"a" * n for n in (WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 5, 2**14, 5 * 2**14 + 1023)]
    assert encode(spec, pieces) == library(spec, pieces)


@pytest.mark.parametrize("size", [2 * WINDOW, 3 * WINDOW, 3 * WINDOW + 1, 9001, 9002])
def test_what_stands_at_its_end_may_decide_the_ids_of_a_whole_piece(size):
    """Each two neighbours are another pair, and the last ones merge first: whether the first byte is alone depends on
    the length. Windows that do not fit together must be noticed."""
    piece = bytes(k * step % 256 for step in range(1, 256, 2) for k in range(256))[:size]
    pairs = list(itertools.pairwise(piece))
    assert len(set(pairs)) == size - 1
    spec = spec_of([(bytes([a]), bytes([b])) for a, b in reversed(pairs)])
    assert encode(spec, [piece]) == library(spec, [piece])


@pytest.mark.slow
def test_a_megabyte_without_a_blank_has_the_librarys_ids():
    tokenizer = load_tokenizer("gpt2")
    rng = np.random.default_rng(0)
    kana = "".join(map(chr, rng.integers(0x3041, 0x3097, 350_000)))
    texts = ["abcdefgh" * 131_072, "".join(rng.choice(list("etaoinshrdlu"), 1 << 20)), kana, "=" * (1 << 20)]
    counts, ids = tokenizer.encode_pieces([text.encode() for text in texts])
    found = np.split(np.frombuffer(ids, np.uint32), np.cumsum(np.frombuffer(counts, np.uint32))[:-1])
    for ours, theirs in zip(found, tokenizer.reference(texts), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_contraction_and_the_letters_behind_it_are_two():
    tokenizer = load_tokenizer("gpt2")
    pieces = [b"'self", b"'s", b"'llama", b"'ll", b"'velo", b"'v", b"'", b"'l", b"", "'té".encode()]
    counts, ids = tokenizer.encode_pieces(pieces)
    expected = tokenizer.reference([piece.decode() for piece in pieces])
    assert np.frombuffer(counts, np.uint32).tolist() == [len(some) for some in expected]
    assert np.frombuffer(ids, np.uint32).tolist() == np.concatenate(expected).tolist()


@pytest.mark.parametrize("shape", [(255, 3), (257, 3), (256, 2), (0, 0)])
def test_ids_that_are_not_256_or_no_triples_are_refused(shape):
    with pytest.raises(ValueError, match="256 ids"):
        _merge.Merger(np.zeros(shape[0], np.uint32), np.zeros(shape[1], np.uint32))


def test_what_is_no_list_of_pieces_is_refused():
    merger = _merge.Merger(np.zeros(256, np.uint32), np.zeros(0, np.uint32))
    for wrong in (b"bytes", ["text"], [b"a", None]):
        with pytest.raises(TypeError):
            merger.encode(wrong)
    assert merger.encode([]) == (b"", b"")


def test_without_the_compiled_part_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "epochal.tokenize._merge", None)
    monkeypatch.delattr("epochal.tokenize._merge")
    with pytest.raises(NotCompiledError, match="compiled part is missing: install epochal again"):
        piece_encoder(spec_of([]))
