import pickle
from typing import Any

import pytest
from datatrove.data import Document

from epochal.common.errors import RequestError, WorkError
from epochal.common.text import content_key
from epochal.datapipe.config import Filter
from epochal.datapipe.text import filters
from epochal.datapipe.text.filters import FilterStep, make_filters, removed_by

SOURCES = ("s", "t")


def document(text: str, identifier: str = "", source: int = 0, **metadata: Any) -> Document:
    return Document(text=text, id=identifier, metadata={"_source": source} | metadata)


def run(step: FilterStep, documents: list[Document]) -> tuple[list[str], list[tuple]]:
    """Return the ids that a step keeps, and the rows of those that it takes away."""
    rows: list[tuple] = []
    step.take = rows.append
    return [d.id for d in step.run(documents)], rows


class Stub:
    """Stands for one of datatrove's filters."""

    batch_size = 2

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def filter_batch(self, batch: list[Document]) -> list[Any]:
        return [self.answer(document) for document in batch]


def stub(answer: Any) -> FilterStep:
    return FilterStep("Stub", Filter(name="Stub"), Stub(answer), SOURCES)


def test_every_document_taken_away_is_a_row_with_its_reason():
    step = stub(lambda d: (False, "short") if len(d.text) < 3 else d.text != "none")
    kept, rows = run(
        step, [document("x", "a"), document("long", "b"), document(" none\n", "c", 1), document("none", "", 1)]
    )
    assert kept == ["b", "c"]
    key = content_key("none")
    assert rows == [
        (content_key("x"), "a", "s", "Stub", "short"),
        (key, key.hex(), "t", "Stub", "the filter states no reason"),
    ]
    (counted,) = removed_by([step])
    reasons = {"short": 1, "the filter states no reason": 1}
    assert counted == {"name": "Stub", "seen": 4, "changed": 0, "removed": 2, "reasons": reasons}


def test_a_reason_of_an_earlier_filtering_in_the_row_is_not_taken_for_this_ones():
    _, rows = run(stub(lambda d: False), [document("x", "a", filter_reason="too long")])
    assert rows[0][-1] == "the filter states no reason"


def test_a_filter_that_states_no_reason_is_told_by_its_parameters():
    (step,) = make_filters([Filter(name="RegexFilter", regex_exp="same line")], SOURCES)
    kept, rows = run(step, [document("a same line", "a"), document("another", "b")])
    assert kept == ["b"]
    assert rows[0][1:] == ("a", "s", "RegexFilter", "regex_exp=same line")


def test_a_filter_used_twice_is_told_apart_by_its_place():
    chosen = [Filter(name="RegexFilter", regex_exp=e) for e in ("x", "y")] + [Filter(name="C4ParagraphFilter")]
    labels = [step.label for step in make_filters(chosen, SOURCES)]
    assert labels == ["RegexFilter (filters.0)", "RegexFilter (filters.1)", "C4ParagraphFilter"]


def test_texts_that_a_filter_changes_are_counted():
    def cut(d: Document) -> bool:
        d.text = d.text.removesuffix(" tail")
        return True

    step = stub(cut)
    assert run(step, [document("a tail", "a"), document("b", "b")])[0] == ["a", "b"]
    assert removed_by([step])[0]["changed"] == 1


def test_samples_are_those_of_the_smallest_keys_in_any_order(monkeypatch):
    monkeypatch.setattr(filters, "PER_FILTER", 2)
    texts = [f"text {i} " + "x" * 400 for i in range(9)]
    keys = sorted(content_key(text).hex() for text in texts)[:2]
    samples = []
    for order in (texts, texts[::-1], texts + texts):
        step = stub(lambda d: (False, "no"))
        run(step, [document(text, f"d{texts.index(text)}") for text in order])
        samples.append(step.samples)
    assert samples[0] == samples[1] == samples[2]
    assert [sample[0] for sample in samples[0]] == keys
    assert {len(sample[-1]) for sample in samples[0]} == {301}


def test_a_filter_that_fails_names_the_document():
    def fail(d: Document) -> bool:
        raise AssertionError("Document does not have url\nin its metadata")

    with pytest.raises(
        WorkError, match=r"filter Stub fails on document 'a' of source 't' \(Document does not have url"
    ):
        run(stub(fail), [document("x", "a", 1)])


def test_steps_reach_other_processes():
    (step,) = pickle.loads(pickle.dumps(make_filters([Filter(name="RegexFilter", regex_exp="x")], SOURCES)))
    assert list(step.run([document("a x", "a")])) == []


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"name": "RegexFilter", "regex_exp": "("}, r"filters\.0: RegexFilter: .*unterminated"),
        ({"name": "C4BadWordsFilter", "keep_fraction": 0.5}, "reading order"),
        ({"name": "RegexFilter"}, r"filters\.0: RegexFilter needs the parameter 'regex_exp'$"),
    ],
)
def test_what_cannot_work_is_refused(chosen, message):
    with pytest.raises(RequestError, match=message):
        make_filters([Filter(**chosen)])


def test_a_filter_whose_model_cannot_be_fetched_is_named_before_the_build(monkeypatch):
    def offline(self, *args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("datatrove.pipeline.filters.RegexFilter.__init__", offline)
    with pytest.raises(RequestError, match=r"filters\.0: RegexFilter cannot get a file that it needs \(.*not known"):
        make_filters([Filter(name="RegexFilter")])
