import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.common.errors import RequestError
from epochal.tests.tokenize import kinds
from epochal.tokenize import gpt2
from epochal.tokenize.tokenizer import load_tokenizer

HOSTILE = [
    "Hello world",
    "<|endoftext|>",
    "a<|endoftext|>b <|endoftext|>",
    "🙂👩‍👩‍👧‍👦 emoji",
    "漢字かな交じり文。한국어",
    "e\u0301 combining a\u0300\u0316",
    " " * 300 + "x" + "\n" * 12000 + "\t's \x0b'll",
    "".join(map(chr, range(0x20))) + "\x7f\x85\u2028\ufeff",
    "\U0010ffff\ud7ff\U000330be'll",
    "def f(x):\n\treturn {'a': 1_000.5e-3}  # ünïcode\r\n",
    "",
]
PIECES = [
    "<|endoftext|>",
    "'ll",
    "'s",
    "  ",
    "\n\n",
    "\t",
    "\x0b",
    "\r\n",
    "\u00a0",
    "\u3000",
    "123",
    "½",
    "漢",
    "🙂",
    "é",
    "e\u0301",
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("gpt2")


def test_gpt2_ids_and_special_ids(tokenizer):
    assert tokenizer.encode(["Hello world"])[0].tolist() == [15496, 995]
    assert (tokenizer.info.eod, tokenizer.info.mask, tokenizer.info.pad) == (50256, 50257, 50258)
    assert tokenizer.info.vocab_size == 50259
    assert tokenizer.engine_name == "gigatoken"


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_gets_the_reference_ids_and_decodes_back(tokenizer, text):
    (ids,) = tokenizer.encode([text])
    assert tokenizer.first_difference([text], [ids]) is None
    assert tokenizer.info.eod not in ids
    assert tokenizer.decode(ids.tolist()) == text


REFERENCE = load_tokenizer("gpt2", fast=False)
FAST = load_tokenizer("gpt2")


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(st.characters(exclude_categories=["Cs"])))).map("".join))
def test_any_text_gets_the_reference_ids(text):
    np.testing.assert_array_equal(FAST.encode([text])[0], REFERENCE.encode([text])[0])


@pytest.mark.slow
def test_every_character_gets_the_reference_ids_beside_letters_digits_and_spaces():
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["".join(f"a{c}a 1{c}1 .{c}. {c}'ll" for c in chars[i : i + 4096 : 7]) for i in range(0, len(chars), 4096)]
    assert FAST.first_difference(texts, FAST.encode(texts)) is None


@pytest.mark.slow
def test_tokenizer_file_with_its_own_special_tokens(tmp_path: Path):
    spec = gpt2.tokenizer_json()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for i, content in enumerate(["[MASK]", "[PAD]", "<eod>"]):
        spec["added_tokens"].append({"id": 50257 + i, "content": content, **flags})
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec))
    loaded = load_tokenizer(str(path), eod="<eod>")
    assert (loaded.info.eod, loaded.info.mask, loaded.info.pad, loaded.info.vocab_size) == (50259, 50257, 50258, 50260)
    assert loaded.info.fingerprint != FAST.info.fingerprint
    assert not set(loaded.encode(["x [MASK] <eod>"])[0].tolist()) & {50256, 50257, 50258, 50259}


@pytest.mark.slow
def test_a_normaliser_other_than_nfc_leaves_only_the_reference_engine(tmp_path: Path):
    spec = gpt2.tokenizer_json() | {"normalizer": {"type": "NFKC"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    assert load_tokenizer(str(tmp_path)).engine_name == "tokenizers"


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("./nowhere/tokenizer.json", {}, "does not exist"),
        ("gpt2", {"eod": "<nope>"}, "has no token '<nope>' to be tokenizer.eod"),
        ("gpt2", {"pad": "<|endoftext|>"}, "three different tokens"),
        (__file__, {}, "is not a tokenizer.json"),
    ],
)
def test_bad_tokenizers_are_refused_in_one_line(name, kwargs, message):
    with pytest.raises(RequestError, match=message) as error:
        load_tokenizer(name, **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [lambda: kinds.byte_level(None), kinds.llama2, kinds.unigram, kinds.wordpiece])
def test_ids_are_decoded_together_with_what_is_before_them(kind, tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(kind()))
    tokenizer = load_tokenizer(str(path))
    ids = tokenizer.encode(["return the same value as before"])[0].tolist()
    whole = tokenizer.decode(ids)
    for cut in range(1, len(ids)):
        assert tokenizer.decode(ids[:cut]) + tokenizer.decode_after(ids[:cut], ids[cut:]) == whole
    assert tokenizer.decode_after([tokenizer.info.eod], ids) == whole
    assert tokenizer.decode_after(ids, []) == ""
