"""Pieces and the table of distinct pieces, against the reference pre-tokenizer and the reference ids."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from epochal.tokenize import _pieces, pieces
from epochal.tokenize.pieces import FIRST, LAST, PieceCodes, PieceTable
from epochal.tokenize.tokenizer import load_tokenizer

REFERENCE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
TOKENIZER = load_tokenizer("gpt2")
FRAGMENTS = [
    *["'s", "'ll", "'re", "'l", "'v", "''", " '", "'", "'T", "'so"],
    *[" ", "  ", "\n", "\n\n", "\t", "\r\n", "\x0b", "\x1c", "\x85", "\u00a0", "\u3000", "\u2028"],
    *[
        "a",
        "self",
        "word" * 9,
        "1",
        "12",
        "½",
        "_",
        "!=",
        "-" * 40,
        "é",
        "e\u0301",
        "漢字",
        "🙂",
        "ⅷ",
        "ª",
        "\U0010ffff",
    ],
]
TEXTS = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.text(st.characters(exclude_categories=["Cs"]), max_size=4))
).map("".join)


def reference_pieces(text: str) -> list[bytes]:
    """The reference's, but a contraction and letters right after it are one."""
    pieces: list[str] = []
    for _, (start, end) in REFERENCE.pre_tokenize_str(text):
        letters = len(REFERENCE.pre_tokenize_str(f"a{text[start:end]}a")) == 1
        if pieces and letters and pieces[-1] in ("'s", "'d", "'m", "'t", "'ll", "'ve", "'re"):
            pieces[-1] += text[start:end]
        else:
            pieces.append(text[start:end])
    return [piece.encode() for piece in pieces]


def each(codes: Callable[[bytes], Sequence[int]]) -> PieceCodes:
    """What gives pieces' codes, given what gives those of one."""

    def of_all(pieces: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        found = [codes(piece) for piece in pieces]
        return np.array(list(map(len, found)), np.uint32), np.array(list(itertools.chain(*found)), np.uint64)

    return of_all


NO_CODES = each(lambda piece: ())
SPLITTER = PieceTable(NO_CODES)


def split(texts: list[str]) -> list[list[bytes]]:
    return [list(SPLITTER.split(text)) for text in texts]


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_pieces_are_the_reference_ones(texts):
    assert split(texts) == [reference_pieces(text) for text in texts]


@pytest.mark.slow
def test_every_character_is_split_as_the_reference_does():
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["".join(f"a{c}a 1{c}1 .{c}. {c}'ll {c}" for c in chars[i : i + 4096 : 5]) for i in range(0, 0x30000, 4096)]
    assert split(texts) == [reference_pieces(text) for text in texts]


def table_ids(texts: list[str], table: PieceTable) -> list[list[int]]:
    found, starts, _, _ = table.gather(texts)
    lists = [found[a:b].tolist() for a, b in itertools.pairwise(starts.tolist())]
    assert all(ids.pop() == END for ids in lists)
    return lists


END = TOKENIZER.info.eod


def new_table(dtype: type = np.uint32) -> PieceTable:
    return PieceTable(NO_CODES, TOKENIZER.encode_pieces, END, dtype)


SHARED = new_table()


def reference_ids(texts: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in TOKENIZER.reference(texts)]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_ids_by_piece_are_the_reference_ids(texts):
    assert table_ids(texts, SHARED) == reference_ids(texts)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_ids_of_long_texts_are_the_reference_ids(dtype):
    """Of several megabytes, whose groups end anywhere in a text, with pieces that are too long to be kept."""
    rng = np.random.default_rng(0)
    words = ["word", "'s", "  ", "\n", "é", "漢字", "z" * 300, "=" * 127, "-" * 128, " 12", "\t\t"]
    long = "".join(rng.choice(words, 100_000))
    texts = [long, "", "short", long[:1_500_000], "a" * 100_000]
    assert len(long.encode()) > 3 << 20
    assert table_ids(texts, new_table(dtype)) == reference_ids(texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=24), st.integers(0, 20)), max_size=40))
def test_pieces_that_are_alike_keep_their_own_ids(parts):
    """Equal in their first bytes, their last bytes or their length."""
    texts = [" ".join(data.hex() * (1 + copies) for data, copies in parts), " ".join(data.hex() for data, _ in parts)]
    assert table_ids(texts, SHARED) == reference_ids(texts)


def test_a_full_table_goes_on_and_stays_small(monkeypatch):
    monkeypatch.setattr(pieces, "LIMIT", 50)
    table = new_table()
    for i in range(20):
        texts = [f"name{i} other{i * 7} the same words {'z' * i}{'-' * 3 * i}", "漢字" * i]
        assert table_ids(texts, table) == reference_ids(texts)
        assert table._pieces.kept() < 50


@pytest.mark.slow
def test_the_table_grows_with_what_it_meets():
    table = new_table()
    texts = [f"{i:x} {i * 7919:o}" for i in range(60_000)]
    assert table_ids(texts, table) == table_ids(texts, table) == reference_ids(texts)
    assert table._pieces.kept() > 1 << 16


def test_codes_are_put_together_across_pieces():
    """A word ends with its text, and where a fragment's edge or a piece without fragments says so."""
    codes = {
        b"a": [4 | FIRST | LAST],
        b"1": [8 | FIRST | LAST],
        b" a": [4 | LAST],
        b"!": [],
        b"b": [16, 20],
        b"c": [24 | FIRST],
    }
    step = 0xA0761D6478BD642F
    table = PieceTable(each(codes.__getitem__))
    ids, _, hashes, starts = table.gather(["a1a", "a a1!a", "", "1b1", "!c", "c1"])
    words = [hashes[a:b].tolist() for a, b in itertools.pairwise(starts.tolist())]
    together = [(4 + 8 * step + 4 * step**2) % 2**64, (4 + 8 * step) % 2**64]
    assert words == [[together[0]], [4, together[1], 4], [], [8, 16, 20, 8], [24], [24, 8]]
    assert len(ids) == 0


def test_an_error_in_what_works_pieces_out_is_raised_and_nothing_wrong_is_remembered():
    def fail(pieces: list[bytes]) -> tuple[bytes, bytes]:
        raise KeyError(pieces)

    table = PieceTable(fail)
    for _ in range(2):
        with pytest.raises(KeyError):
            table.gather(["some words"])
    with pytest.raises(TypeError):
        table.gather([b"bytes"])
    assert table.gather([""])[3].tolist() == [0, 0]


@pytest.mark.parametrize("answer", [None, (), ([], [], [], []), (np.ones(2, np.uint32), np.zeros(1, np.uint32)) * 2])
def test_a_wrong_answer_for_new_pieces_is_refused(answer):
    with pytest.raises((TypeError, ValueError)):
        _pieces.Pieces(2, 0, 10).gather(["some words"], lambda point: _pieces.LETTER, lambda pieces: answer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        *("tokenize._pieces", "datapipe.arrays._gather", "datapipe.text._blake2b"),
        *("datapipe.text._fragments", "datapipe.text._minhash"),
    ],
)
def test_without_a_compiled_part_a_build_says_so_in_one_line(part):
    program = (
        f"import sys; sys.modules['epochal.{part}'] = None; from epochal.__main__ import main; "
        "sys.exit(main(['build', 'folder', 'sources.0.path=.', 'tasks=2']))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("epochal: epochal's compiled part is missing")
    assert done.stderr.count("\n") == 1
