import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.datapipe import words
from epochal.datapipe.words import split_words, word_ngrams, words_as_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def naive_words(text: str) -> list[str]:
    """The definition, one character at a time."""
    found, current = [], ""
    for char in text.lower() + " ":
        part = char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M"
        alone = part and any(first <= ord(char) <= last for first, last in words._SPACELESS)
        if part and not alone:
            current += char
            continue
        found += [current] * bool(current) + [char] * alone
        current = ""
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World_1! it's", ["hello", "world_1", "it", "s"]),
        ("漢字 kana カナ", ["漢", "字", "kana", "カ", "ナ"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("e\u0301te\u0301 हिन्दी", ["e\u0301te\u0301", "हिन्दी"]),
        ("... --- \n\t", []),
        ("", []),
    ],
)
def test_words_of_several_scripts(text, expected):
    assert words_as_text(text) == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=6))
def test_words_and_their_hashes_follow_the_definition(texts):
    found = split_words(texts)
    spelled = [words_as_text(text) for text in texts]
    assert spelled == [naive_words(text) for text in texts]
    assert np.diff(found.starts).tolist() == [len(s) for s in spelled]
    by_word: dict[str, set[int]] = {}
    flat = [word for s in spelled for word in s]
    for word, value in zip(flat, found.hashes.tolist(), strict=True):
        by_word.setdefault(word, set()).add(value)
    assert all(len(values) == 1 for values in by_word.values())
    assert len({v for values in by_word.values() for v in values}) == len(by_word)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, max_size=5), st.integers(1, 6))
def test_ngrams_stay_within_a_text_and_depend_on_its_words_alone(texts, n):
    together, starts = word_ngrams(split_words(texts), n)
    for i, text in enumerate(texts):
        alone, _ = word_ngrams(split_words([text]), n)
        np.testing.assert_array_equal(together[starts[i] : starts[i + 1]], alone)
        assert len(alone) == max(0, len(words_as_text(text)) - n + 1)


def test_words_do_not_depend_on_how_texts_are_cut_into_pieces(monkeypatch):
    texts = ["one two three\n" * 30, "x", "a long word" + "y" * 50, "", "last one here"]
    whole = split_words(texts)
    monkeypatch.setattr(words, "_PIECE", 64)
    cut = split_words(texts)
    np.testing.assert_array_equal(whole.hashes, cut.hashes)
    np.testing.assert_array_equal(whole.starts, cut.starts)
