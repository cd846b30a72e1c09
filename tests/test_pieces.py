"""Pieces and the table of distinct pieces, against the reference pre-tokenizer and the reference ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from epochal.tokenize import piece_table, pieces
from epochal.tokenize.piece_table import PieceTable
from epochal.tokenize.pieces import PieceSplitter
from epochal.tokenize.tokenizer import load_tokenizer

REFERENCE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
TOKENIZER = load_tokenizer("gpt2")
SPLITTER = PieceSplitter()
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
    return [text[start:end].encode() for _, (start, end) in REFERENCE.pre_tokenize_str(text)]


def split(texts: list[str]) -> list[list[bytes]]:
    found: list[list[bytes]] = [[] for _ in texts]
    for group in SPLITTER.split(texts):
        for i, number in enumerate(group.texts):
            spelled = group.spell(np.arange(group.first[i], group.first[i + 1]))
            assert spelled.pop() == b""  # each text ends in an empty piece
            found[number] += spelled
    return found


@settings(max_examples=500, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_pieces_are_the_reference_ones(texts):
    assert split(texts) == [reference_pieces(text) for text in texts]


def test_every_character_is_split_as_the_reference_does():
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["".join(f"a{c}a 1{c}1 .{c}. {c}'ll {c}" for c in chars[i : i + 4096 : 5]) for i in range(0, 0x30000, 4096)]
    assert split(texts) == [reference_pieces(text) for text in texts]


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=12), st.integers(1, 40))
def test_where_long_texts_are_cut_does_not_show(texts, size):
    together = " ".join(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "GROUP_BYTES", size)
        assert split([together, *texts]) == [reference_pieces(text) for text in [together, *texts]]


def table_ids(texts: list[str], table: PieceTable) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in texts]
    for group in SPLITTER.split(texts):
        ids = table.gather(0, table.look_up(group), group)
        for i, number in enumerate(group.texts):
            found[number] += ids.values[ids.starts[i] : ids.starts[i + 1]].tolist()
    return found


def new_table() -> PieceTable:
    return PieceTable([(TOKENIZER.encode_piece, np.uint32)])


SHARED = new_table()


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_ids_by_piece_are_the_reference_ids(texts):
    assert table_ids(texts, SHARED) == [ids.tolist() for ids in TOKENIZER.reference(texts)]


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_pieces_whose_keys_collide_keep_their_own_ids(texts):
    texts.append("several different pieces longerthanakey anotherlongpiece")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece_table, "mix64", np.zeros_like)
        assert table_ids(texts, new_table()) == [ids.tolist() for ids in TOKENIZER.reference(texts)]


def test_a_full_table_goes_on_and_stays_small(monkeypatch):
    monkeypatch.setattr(piece_table, "LIMIT", 50)
    table = new_table()
    for i in range(20):
        texts = [f"name{i} other{i * 7} the same words {'z' * i}{'-' * 3 * i}", "漢字" * i]
        assert table_ids(texts, table) == [ids.tolist() for ids in TOKENIZER.reference(texts)]
        table._forget()
        assert len(table._keys) <= 50
        assert all(len(c._starts) == len(table._keys) + 1 for c in table._columns)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(1, 2**64 - 1), unique=True, max_size=30), max_size=5), st.integers(1, 12))
def test_an_index_finds_the_row_of_every_key_and_no_other(batches, bits):
    """Also when the table is small and most places are taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece_table._Index, "_BITS", max(bits, 9))
        index, rows = piece_table._Index(), {0: 0}
        for batch in batches:
            new = [key for key in batch if key not in rows]
            rows |= {key: len(rows) + i for i, key in enumerate(new)}
            index.add(np.array(new, np.uint64))
        asked = [0, *rows, *(key ^ 1 for key in rows), 2**64 - 1]
        assert index.find(np.array(asked, np.uint64)).tolist() == [rows.get(key, -1) for key in asked]
