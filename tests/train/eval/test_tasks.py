"""Benchmarks: published formats, malformed rows, few-shot prompts, the leak check."""

import gzip
import json
from pathlib import Path

import pytest

from epochal.common.errors import RequestError
from epochal.datapipe.text.decontaminate import build_index
from epochal.shards.manifest import Manifest
from epochal.train.eval.contamination import contamination_status
from epochal.train.eval.tasks import load, parse_task, read_rows, spread


def write(folder: Path, name: str, rows: list[dict]) -> Path:
    """Write rows as JSON lines, compressed when the name says so."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return folder / name


HUB_HELLASWAG = {
    "activity_label": "Roof shingle removal",
    "ctx_a": "A man is sitting on a roof.",
    "ctx_b": "he",
    "endings": ["is using wrap.", "rips tiles [step] off.", "naps.", "starts pulling up roofing."],
    "label": "3",
}
ROWS = {
    "hellaswag": (
        [{"query": "Roof: A man sits. he", "choices": ["naps.", "works."], "gold": 1}, HUB_HELLASWAG],
        [
            ("Roof: A man sits. he", " works."),
            ("Roof shingle removal: A man is sitting on a roof. He", " starts pulling up roofing."),
        ],
    ),
    "mmlu": (
        [{"subject": "world_religions", "question": " Who? ", "choices": ["A", "B", "C", "D"], "answer": 2}],
        [
            (
                "The following are questions (with answers) about world religions.\n\nQuestion: Who?\nAnswer:",
                " C",
            )
        ],
    ),
    "arc_easy": (
        [
            {"query": "Question: Why?", "choices": ["so", "no"], "gold": 0},
            {"question": "Why?", "choices": {"text": ["so", "no"], "label": ["1", "2"]}, "answerKey": "2"},
        ],
        [("Question: Why?\nAnswer:", " so"), ("Question: Why?\nAnswer:", " no")],
    ),
    "piqa": (
        [
            {"query": "Question: dresser\n", "choices": ["a", "b"], "gold": 1},
            {"goal": "dresser", "sol1": "a", "sol2": "b", "label": 0},
        ],
        [("Question: dresser\nAnswer:", " b"), ("Question: dresser\nAnswer:", " a")],
    ),
    "winogrande": (
        [
            {"context_options": ["so Sarah", "so Maria"], "continuation": "won.", "gold": 1},
            {"sentence": "so _ won.", "option1": "Sarah", "option2": "Maria", "answer": "1"},
        ],
        [("so Maria", " won."), ("so Sarah", " won.")],
    ),
    "lambada_openai": (
        [{"context": "I do not care about", "continuation": "signs"}, {"text": "I do not care about signs"}],
        [("I do not care about", " signs")] * 2,
    ),
}


@pytest.mark.parametrize("task", ROWS)
def test_published_formats_become_the_same_items(tmp_path: Path, task: str) -> None:
    rows, expected = ROWS[task]
    write(tmp_path, f"{task}.jsonl", rows)
    items = load(task, str(tmp_path)).items
    assert [(i.contexts[i.gold], i.answers[i.gold]) for i in items] == expected
    assert [i.id for i in items] == list(range(len(rows)))


def test_bracketed_marks_are_removed_and_characters_counted_without_the_space(tmp_path: Path) -> None:
    write(tmp_path, "hellaswag_val.jsonl.gz", [HUB_HELLASWAG])
    (item,) = load("hellaswag", str(tmp_path)).items
    assert item.answers[1] == " rips tiles off."
    assert item.characters[1] == len("rips tiles off.")


def test_examples_are_the_first_of_the_items_subject(tmp_path: Path) -> None:
    def row(subject: str, i: int) -> dict:
        return {"subject": subject, "question": f"q{i}", "choices": ["yes", "no"], "answer": i % 2}

    write(tmp_path, "mmlu_test.jsonl", [row("law", 8), row("art", 9)])
    write(tmp_path, "mmlu_dev.jsonl", [row(s, i) for s in ("art", "law") for i in range(3)])
    law, art = load("mmlu:2", str(tmp_path)).items
    shots = "Question: q0\nAnswer: yes\n\nQuestion: q1\nAnswer: no\n\n"
    head = "The following are questions (with answers) about law.\n\n"
    assert law.contexts[0] == head + shots + "Question: q8\nAnswer:"
    assert art.contexts[0].startswith("The following are questions (with answers) about art.")
    with pytest.raises(RequestError, match="has 3 examples of 'law', 5 were asked for"):
        load("mmlu:5", str(tmp_path))


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("{nonsense", "row 2 is not JSON"),
        ("[1]", "row 2 is not a JSON object"),
        ('{"query": "q", "choices": ["a", "b"]}', "row 2 has no 'gold'"),
        ('{"query": "q", "choices": ["a", "b"], "gold": 2}', "row 2 is malformed: 'gold' is 2, which is none"),
        ('{"query": "q", "choices": ["a", "b"], "gold": null}', "row 2 is malformed: 'gold' is None"),
        ('{"query": "q", "choices": ["a"], "gold": 0}', "row 2 is malformed: 'choices' is not a list"),
        ('{"query": 3, "choices": ["a", "b"], "gold": 0}', "row 2 is malformed: 'query' is not a text"),
        ('{"ctx_a": "a", "ctx_b": "b"}', "row 2 has no 'activity_label'"),
    ],
)
def test_malformed_rows_are_one_line(tmp_path: Path, row: str, line: str) -> None:
    good = '{"query": "q", "choices": ["a", "b"], "gold": 0}'
    (tmp_path / "hellaswag.jsonl").write_text(f"{good}\n{row}\n")
    with pytest.raises(RequestError, match=line) as error:
        load("hellaswag", str(tmp_path))
    assert "\n" not in str(error.value)


def test_unknown_tasks_and_missing_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown task 'hellaswog': did you mean 'hellaswag'"):
        parse_task("hellaswog")
    with pytest.raises(RequestError, match="has no set of examples"):
        parse_task("hellaswag:5")
    with pytest.raises(RequestError, match=r"holds no arc_easy\.jsonl"):
        load("arc_easy", str(tmp_path))
    with pytest.raises(RequestError, match="does not exist"):
        load("piqa", None, {"piqa": str(tmp_path / "none.jsonl")})
    (tmp_path / "piqa.jsonl").write_text("")
    with pytest.raises(RequestError, match="has no rows"):
        load("piqa", str(tmp_path))


def test_a_limit_is_spread_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, "piqa.jsonl", [{"query": f"q{i}", "choices": ["a", "b"], "gold": 0} for i in range(10)])
    items = load("piqa", str(tmp_path)).items
    assert [i.id for i in spread(items, 4)] == [0, 2, 5, 7]
    assert len(spread(items, 99)) == len(spread(items, None)) == 10


def manifest(files: list[dict]) -> Manifest:
    tokenizer = {"name": "bytes", "fingerprint": "0", "vocab_size": 259, "eod": 256, "pad": 257, "mask": 258}
    body = {"kind": "pool", "name": "toy", "fingerprint": "f", "documents": 1, "tokens": 1, "samples": 1, "shards": 1}
    body |= {"seq_len": 1, "dtype": "uint16", "seed": 0, "tokenizer": tokenizer, "content": []}
    return Manifest(**body, statistics={"evaluation": {"ngram": 13, "too_short": 2, "files": files}})


def test_clean_means_decontaminated_against_exactly_these_items(tmp_path: Path) -> None:
    path = write(tmp_path, "piqa.jsonl.gz", [{"query": f"q{i}", "choices": ["a", "b"], "gold": 0} for i in range(9)])
    index = build_index([str(path)], n=13)
    _, digest = read_rows(str(path))
    status = contamination_status(digest, manifest(index.file_summary()))  # written by one side, read by the other
    assert status.clean
    assert "9 items (13-grams; 2 items" in status.reason
    changed = write(tmp_path, "changed.jsonl.gz", [{"query": "q"}])
    for unknown in (
        contamination_status(read_rows(str(changed))[1], manifest(index.file_summary())),
        contamination_status(digest, None),
    ):
        assert not unknown.clean
        assert unknown.reason.startswith("not known to be clean")
    assert not contamination_status(None, manifest(index.file_summary())).clean
    assert not contamination_status(digest, manifest([]).model_copy(update={"statistics": {}})).clean
