"""Ids are those of Hugging Face `tokenizers` on the tokenizer.json itself, but for special tokens spelled in a text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from epochal.tests.tokenize.kinds import EXPRESSIONS, KINDS, all_pairs, hostile_texts
from epochal.tokenize.tokenizer import load_tokenizer

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


SPELLED = {"qwen2, NFC", "Unigram", "Unigram with bytes", "WordPiece of words", "WordLevel", "BPE of words"}
"""Kinds of which the library makes special tokens of text even with `encode_special_tokens`."""


def load(spec: dict[str, Any], folder: Path, **special: str) -> Any:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(spec))
    return load_tokenizer(str(path), **special)


def check_ids(spec: dict[str, Any], loaded: Any, texts: list[str]) -> int:
    """Compare the ids of `texts` with those of the library; return in how many texts it made a special token."""
    stock = Tokenizer.from_str(json.dumps(spec))
    stock.encode_special_tokens = True
    theirs = [e.ids for e in stock.encode_batch_fast(texts, add_special_tokens=False)]
    ours = [ids.tolist() for ids in loaded.encode(texts)]
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
    assert loaded.engine_name == "tiktoken", loaded.why_reference
    for first in range(0, len(points), 1 << 14):
        some = map(chr, points[first : first + (1 << 14)])
        check_ids(spec, loaded, [f"a{c}a 1{c}1 .{c}. {c}'{c}t '{c} {c}'LL\n{c}\n{c}'l{c} '{c}e{c}A" for c in some])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_get_the_librarys_ids_and_never_a_special_one(kind, tmp_path):
    check_kind(kind, 4_000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_known_expressions_cut_alike_around_characters_of_all_classes(name, tmp_path):
    """Those that a letter of a contraction may fold to are all there; tests/stress/ids.py takes every character."""
    folds = [c for c in POINTS if set((chr(c).casefold() + chr(c).lower() + chr(c).upper()).lower()) & set("strevmld'")]
    check_points(name, sorted({*range(0x250), *folds, *POINTS[::251]}), tmp_path)
