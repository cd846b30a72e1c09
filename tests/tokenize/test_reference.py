"""Ids are those of Hugging Face `tokenizers` on the tokenizer.json itself, but for special tokens spelled in a text."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from epochal.tests.support.tokenizer_kinds import KINDS, hostile_texts
from epochal.tokenize.tokenizer import load_tokenizer


@functools.cache
def spec_of(kind: str) -> dict[str, Any]:
    return KINDS[kind][0]()


def load(kind: str, folder: Path) -> Any:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(spec_of(kind)))
    return load_tokenizer(str(path))


def check_ids(kind: str, loaded: Any, texts: list[str]) -> int:
    """Compare the ids of `texts` with those of the library; return in how many texts it made a special token."""
    stock = Tokenizer.from_str(json.dumps(spec_of(kind)))
    stock.encode_special_tokens = True
    theirs = [e.ids for e in stock.encode_batch_fast(texts, add_special_tokens=False)]
    ours = [ids.tolist() for ids in loaded.encode(texts)]
    special = {loaded.info.eod, loaded.info.pad, loaded.info.mask}
    assert special.isdisjoint(i for ids in ours for i in ids)
    made = [i for i, ids in enumerate(theirs) if not special.isdisjoint(ids)]
    wrong = [i for i in np.setdiff1d(np.arange(len(texts)), made).tolist() if ours[i] != theirs[i]]
    assert not wrong, (kind, texts[wrong[0]], ours[wrong[0]], theirs[wrong[0]])
    return len(made)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_get_the_librarys_ids_and_never_a_special_one(kind, tmp_path):
    loaded = load(kind, tmp_path)
    assert loaded.engine_name == KINDS[kind][1], loaded.why_reference
    check_ids(kind, loaded, hostile_texts(4_000, seed=1))
