"""Ids are those of Hugging Face `tokenizers` on the tokenizer.json itself, but for special tokens spelled in a text."""

import itertools
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from epochal.tests.tokenize.kinds import EXPRESSIONS, KINDS, all_pairs, byte_level, hostile_texts
from epochal.tokenize.pieces import PieceTable
from epochal.tokenize.tokenizer import load_tokenizer

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


SPELLED = {"qwen2, NFC", "Unigram", "Unigram with bytes", "WordPiece of words", "WordLevel", "BPE of words"}
"""Kinds of which the library makes special tokens of text even with `encode_special_tokens`."""


def load(spec: dict[str, Any], folder: Path, **special: str) -> Any:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(spec))
    return load_tokenizer(str(path), **special)


def by_piece(loaded: Any, texts: list[str]) -> list[list[int]]:
    """Return the ids of texts that are encoded piece by piece, as builds do."""
    table = PieceTable(lambda pieces: (bytes(4 * len(pieces)), b""), loaded.encode_pieces, loaded.info.eod)
    ids, starts, _, _ = table.gather(texts)
    return [ids[a : b - 1].tolist() for a, b in itertools.pairwise(starts.tolist())]


def check_ids(spec: dict[str, Any], loaded: Any, texts: list[str]) -> int:
    """Compare the ids of `texts` with those of the library; return in how many texts it made a special token."""
    stock = Tokenizer.from_str(json.dumps(spec))
    stock.encode_special_tokens = True
    theirs = [e.ids for e in stock.encode_batch_fast(texts, add_special_tokens=False)]
    ours = [ids.tolist() for ids in loaded.encode(texts)]
    if loaded.encode_pieces:
        assert by_piece(loaded, texts) == ours
    special = {loaded.info.eod, loaded.info.pad, loaded.info.mask}
    assert special.isdisjoint(i for ids in ours for i in ids)
    made = [i for i, ids in enumerate(theirs) if not special.isdisjoint(ids)]
    wrong = [i for i in np.setdiff1d(np.arange(len(texts)), made).tolist() if ours[i] != theirs[i]]
    assert not wrong, (texts[wrong[0]], ours[wrong[0]], theirs[wrong[0]])
    return len(made)


def check_kind(kind: str, n: int, folder: Path) -> None:
    """Check `n` hostile texts with one kind of tokenizer."""
    make, engine = KINDS[kind]
    loaded = load(spec := make(), folder)
    assert loaded.engine_name == engine, loaded.why_reference
    assert (check_ids(spec, loaded, hostile_texts(n, seed=1)) > 0) == (kind in SPELLED)


def check_points(name: str, points: Sequence[int], folder: Path) -> None:
    """Check that an expression cuts alike around the characters `points`."""
    loaded = load(spec := all_pairs(EXPRESSIONS[name]), folder)
    assert loaded.engine_name == "gigatoken", loaded.why_reference
    for first in range(0, len(points), 1 << 14):
        some = map(chr, points[first : first + (1 << 14)])
        check_ids(spec, loaded, [f"a{c}a 1{c}1 .{c}. {c}'{c}t '{c} {c}'LL\n{c}\n{c}'l{c} '{c}e{c}A" for c in some])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_get_the_librarys_ids_and_never_a_special_one(kind, tmp_path):
    check_kind(kind, 4_000, tmp_path)


def composed(points: Sequence[int]) -> list[str]:
    """Return texts in which NFC may compose, decompose or reorder what stands beside characters."""
    return [f"a{c}\u0301\u0316 {c}\u0316\u0301{c} \u09c7{c}\u1100{c}\u0338" for c in map(chr, points)]


@pytest.mark.parametrize("normalizer", [{"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}])
def test_nfc_does_what_the_library_does_also_with_characters_that_python_does_not_know(normalizer, tmp_path):
    """Marks and what decomposes, all of it; of the others, and of those without a name in Python's Unicode, some."""
    points = [p for p in POINTS if unicodedata.combining(chr(p)) or unicodedata.decomposition(chr(p))]
    newer = [p for p in POINTS if p < 0x20000 and unicodedata.category(chr(p)) == "Cn"]
    loaded = load(spec := all_pairs(EXPRESSIONS["qwen2"]) | {"normalizer": normalizer}, tmp_path)
    assert loaded.engine_name == "gigatoken", loaded.why_reference
    check_ids(spec, loaded, composed([*points[::5], *newer[::17], *POINTS[::997], *range(0x113C0, 0x113D0)]))


def test_added_tokens_that_are_no_special_ones_are_found_in_a_text(tmp_path):
    spec = byte_level(EXPRESSIONS["cl100k"])
    tokens = [
        ("<tool>", True, False),
        ("e\u0301t\u00e9", True, True),
        ("two words", False, False),
        ("\n\n", False, True),
    ]
    added = [
        {"id": 1201 + i, "content": content, "normalized": normalized, "special": False, "single_word": False}
        | {"lstrip": stripped, "rstrip": stripped}
        for i, (content, normalized, stripped) in enumerate(tokens)
    ]
    spec |= {"added_tokens": spec["added_tokens"] + added, "normalizer": {"type": "NFC"}}
    loaded = load(spec, tmp_path)
    assert loaded.engine_name == "gigatoken"
    assert loaded.encode_pieces is None
    marked = [
        "a <tool> b",
        "<tool",
        "\u00e9t\u00e9",
        "e\u0301te\u0301 x",
        "two words",
        "two  words",
        "a \n\n b",
        "<tool><tool>",
    ]
    check_ids(spec, loaded, [*marked, *hostile_texts(500, seed=4)])
    found = {i for ids in loaded.encode(marked) for i in ids.tolist()}
    assert {1201, 1202, 1203, 1204} <= found


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_known_expressions_cut_alike_around_characters_of_all_classes(name, tmp_path):
    """Those that a letter of a contraction may fold to are all there; tests/stress/ids.py takes every character."""
    folds = [c for c in POINTS if set((chr(c).casefold() + chr(c).lower() + chr(c).upper()).lower()) & set("strevmld'")]
    check_points(name, sorted({*range(0x250), *folds, *POINTS[::1009]}), tmp_path)
