import itertools

import numpy as np
import pytest
import regex
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.datapipe.text import _fragments, words
from epochal.datapipe.text.words import Analyser, split_words, windows, word_ngrams

FRAGMENTS = [
    "it's",
    "'so",
    " ",
    "\n",
    "_",
    "x1",
    "e\u0301",
    "\u0301",
    "हि",
    "न्दी",
    "漢",
    "ไท",
    "❤\ufe0f",
    "1\u20e3",
    "İ",
    "é",
]
TEXT = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=6)),
    max_size=12,
).map("".join)
ANALYSER = Analyser()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World_1! it's", ["hello", "world_1", "it", "s"]),
        ("'self' don't _x2 __init__.py", ["self", "don", "t", "_x2", "__init__", "py"]),
        ("漢字 kana カナ", ["漢", "字", "kana", "カ", "ナ"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("e\u0301te\u0301 हिन्दी", ["e\u0301te\u0301", "हिन्दी"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("1〇2 〇x", ["1", "〇", "2", "〇", "x"]),
        ("I \u2764\ufe0f 1\ufe0f\u20e3", ["i", "1"]),
        ("... --- \n\t", []),
        ("", []),
    ],
)
def test_words_of_several_scripts(text, expected):
    assert list(ANALYSER.spell(text)) == expected


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_words_are_runs_of_letters_digits_marks_and_underscores(text):
    text = text.lower()
    apart = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    mark = r"[\p{M}--[\ufe00-\ufe0f\u20e3]]"
    word = rf"(?V1)[[\p{{L}}\p{{N}}\p{{M}}]&&[{apart}]]|[[\p{{L}}\p{{N}}_{mark}]--[{apart}]]+"
    assert list(ANALYSER.spell(text)) == regex.findall(word, text)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=6))
def test_words_and_their_hashes_are_the_same(texts):
    found = split_words(texts)
    spelled = [list(ANALYSER.spell(text)) for text in texts]
    assert np.diff(found.starts).tolist() == [len(s) for s in spelled]
    by_word: dict[str, set[int]] = {}
    flat = [word for s in spelled for word in s]
    for word, value in zip(flat, found.hashes.tolist(), strict=True):
        by_word.setdefault(word, set()).add(value)
    assert all(len(values) == 1 for values in by_word.values())
    assert len({v for values in by_word.values() for v in values}) == len(by_word)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, max_size=5), st.integers(1, 6))
def test_ngrams_stay_within_a_text_and_depend_on_its_words_alone(texts, n):
    together, starts = word_ngrams(split_words(texts), n)
    for i, text in enumerate(texts):
        alone, _ = word_ngrams(split_words([text]), n)
        np.testing.assert_array_equal(together[starts[i] : starts[i + 1]], alone)
        assert len(alone) == max(0, len(list(ANALYSER.spell(text))) - n + 1)


def test_words_do_not_depend_on_how_texts_are_grouped():
    texts = ["one two three\n" * 90_000, "x", "a_long_word" + "_y" * 700_000, "", "été " * 40, "last one here"]
    whole = split_words(texts)
    alone = [split_words([text]) for text in texts]
    np.testing.assert_array_equal(whole.hashes, np.concatenate([words.hashes for words in alone]))
    assert np.diff(whole.starts).tolist() == [len(words.hashes) for words in alone] == [270_000, 1, 1, 0, 40, 3]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, max_size=6), st.integers(1, 6), st.integers(1, 30))
def test_windows_have_the_ngrams_of_the_texts(texts, n, size):
    words = split_words(texts)
    found: list[list[int]] = [[] for _ in texts]
    for window, numbers, before in windows(words, n, size):
        assert len(window.hashes) < 2 * size + n
        hashes, starts = word_ngrams(window, n)
        assert before == len(found[numbers[0]]) or not len(hashes)
        for i, number in enumerate(numbers):
            found[number] += hashes[starts[i] : starts[i + 1]].tolist()
    hashes, starts = word_ngrams(words, n)
    assert found == [hashes[starts[i] : starts[i + 1]].tolist() for i in range(len(texts))]


def codes_of(pieces: list[bytes]) -> list[list[int]]:
    counts, codes = _fragments.Fragments().codes(pieces, words.describe, words._codes)
    ends = np.cumsum(np.frombuffer(counts, np.uint32)).tolist()
    return [np.frombuffer(codes, np.uint64)[a:b].tolist() for a, b in itertools.pairwise([0, *ends])]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(TEXT, st.text(st.sampled_from("aΣσςİıſK漢ーかไ1_\u0301٣ \u20e3'ßẞǅ")))))
def test_compiled_codes_are_the_hashes_of_what_python_spells(texts):
    pieces = [text.encode() for text in texts]
    assert codes_of(pieces) == [words._codes(piece) for piece in pieces]


@pytest.mark.slow
def test_the_codes_of_every_character_are_pythons():
    chars = [chr(c) for c in range(0x30000) if not 0xD800 <= c < 0xE000]
    pieces = ["".join(f"{c}a{c}" for c in chars[i : i + 3]).encode() for i in range(0, len(chars), 3)]
    assert codes_of(pieces) == [words._codes(piece) for piece in pieces]


def test_fragments_of_every_length_have_the_hash_of_the_specification():
    pieces = [bytes(97 + i * i % 26 for i in range(n)) for n in range(1, 200)]
    assert codes_of(pieces) == [[xxhash.xxh64_intdigest(piece) | 3] for piece in pieces]


GOLDEN = [
    [2794345569481354659],
    [16679358290033791470],
    [8793464060190139422],
    [5004166917859930932, 4843314830407946056],
    [8674823023313301420, 2559274056464993116, 13822041398943990486],
    [3273870425679881485, 6665539201184043298],
    [1103947063864369019],
    [14066773077144876101, 14884601813537455206],
    [5326286198865496373, 10778543381439217734],
    [],
]


def test_golden_codes():
    pieces = ["Hello", " World", "'S", "漢字", " カナー", "__x", "ΣΑΣ", "İ", "e\u0301", "!="]
    assert codes_of([piece.encode() for piece in pieces]) == GOLDEN


@pytest.mark.parametrize("piece", [b"\xe6", b"a\xe6\xbc", b"\xf0\x9f\x99", b"\xc3", b"\xff\xff\xff\xff"])
def test_a_piece_that_is_cut_inside_a_character_is_refused(piece):
    with pytest.raises(ValueError, match="not UTF-8"):
        codes_of([b"whole", piece])


@pytest.mark.parametrize("answer", [5, 6, 8 * 0x110000 + 1, -1, 2**40, None, "1"])
def test_a_wrong_description_of_a_character_is_refused(answer):
    with pytest.raises((ValueError, TypeError, OverflowError)):
        _fragments.Fragments().codes([b"a"], lambda point: answer, words._codes)


@pytest.mark.parametrize("answer", [None, 5, ["code"], [-1], [2**64]])
def test_wrong_codes_of_a_strange_character_are_refused(answer):
    with pytest.raises((TypeError, OverflowError)):
        _fragments.Fragments().codes(["İ".encode()], words.describe, lambda piece: answer)
