import gzip
import io
import json

import numpy as np
import pytest

from epochal.common.errors import RequestError, WorkError
from epochal.datapipe.text.decontaminate import Decontaminator, EvaluationIndex, build_index
from epochal.datapipe.text.words import split_words

ITEM = {
    "query": "Cooking: A man stands at a stove and cracks three brown eggs",
    "choices": ["into a hot pan while he keeps smiling", "onto the floor"],
    "gold": 0,
}


@pytest.fixture
def find(tmp_path):
    def find(documents, items=(ITEM,), n=13):
        path = tmp_path / "items.jsonl.gz"
        path.write_bytes(gzip.compress("\n".join(json.dumps(item) for item in items).encode()))
        return Decontaminator(build_index([str(path)], n)).find(documents, split_words(documents))

    return find


def test_a_document_with_the_question_and_its_answer_is_found_whatever_its_case_and_punctuation(find):
    document = "Intro. cooking -- a MAN stands at a stove, and cracks three brown eggs into a hot pan! The end."
    (hit,) = find(["something else", document])
    assert (hit.document, hit.file, hit.row) == (1, "items.jsonl.gz", 0)
    assert len(hit.ngram.split()) == 13


def test_an_ngram_across_question_and_answer_is_found(find):
    assert find(["x stove and cracks three brown eggs into a hot pan while he keeps smiling y"])


def test_twelve_shared_words_are_not_thirteen(find):
    words = ["cooking", "a", "man", "stands", "at", "a", "stove", "and", "cracks", "three", "brown", "eggs"]
    assert find([" ".join(words)], n=12)
    assert not find([" ".join(words[:12])], n=13)


def test_each_item_of_a_document_is_reported_once_in_order(find):
    items = [ITEM, {"context": "one two three four five six seven", "continuation": "eight nine ten eleven twelve 13"}]
    text = (
        "one two three four five six seven eight nine ten eleven twelve 13 " + ITEM["query"] + " " + ITEM["choices"][0]
    )
    assert [(h.document, h.row) for h in find([text, text], items)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.slow
def test_an_item_is_found_anywhere_in_a_long_document(find):
    """Of more words than are compared at once; there is one at the seam."""
    filler = "word " * ((1 << 20) - 6)
    document = f"{filler} {ITEM['query']} {ITEM['choices'][0]} {filler} {ITEM['query']} {ITEM['choices'][1]}"
    (hit,) = find(["short", document])
    assert (hit.document, hit.row, hit.ngram[:13]) == (1, 0, "cooking a man")


def test_items_shorter_than_an_ngram_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"q": "too short"}) + "\n" + json.dumps(ITEM) + "\n")
    index = build_index([str(path)], 13)
    assert index.too_short == 1
    assert index.file_summary()[0]["items"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{bad\n", "row 1 is not JSON"),
        ("[\n1\n]", "row 1 is not JSON: .* one item a line"),
        ("", "holds no item"),
        ("\n\n", "holds no item"),
    ],
)
def test_bad_evaluation_files_are_refused(tmp_path, content, message):
    path = tmp_path / "items.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RequestError, match=message):
        build_index([str(path)], 13)


def test_an_index_is_written_and_read_as_plain_arrays(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "one two three four"}\n\n{"q": "é"}\r\n{"q": "two three four five"}')
    index = build_index([str(tmp_path / "a.jsonl")], 3)
    again = EvaluationIndex.from_bytes(index.to_bytes())
    assert [getattr(again, name).tolist() for name in ("ngrams", "items")] == [
        index.ngrams.tolist(),
        index.items.tolist(),
    ]
    for name in ("n", "files", "rows", "raw", "too_short"):
        assert getattr(again, name) == getattr(index, name)
    nothing = build_index([], 3)
    assert EvaluationIndex.from_bytes(nothing.to_bytes()).raw == []
    file = io.BytesIO()
    np.savez(file, said=np.array([print], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        EvaluationIndex.from_bytes(file.getvalue())


def test_a_folder_of_evaluation_files_is_refused_with_what_to_write(tmp_path):
    with pytest.raises(RequestError, match=r"is a folder: name its files, as in .*/\*\.jsonl"):
        build_index([str(tmp_path)], 13)


def test_a_file_that_is_none_of_items_is_refused_before_any_row(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"PAR1")
    with pytest.raises(WorkError, match=r"a\.jsonl is Parquet \(format: parquet\): fetch it again, as JSON lines$"):
        build_index([str(tmp_path / "a.jsonl")], 13)
