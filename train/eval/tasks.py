"""Benchmarks as questions with answers to choose from, read from JSON lines or the hub in the formats they are
published in.

A task is a row of `TASKS`: the files it is known by, where it lies on the hub, and a function from a row to an `Item`.
Prompts are cloze: the model never sees the alternatives, only `question + answer`. They are those that
lm-evaluation-harness uses (hellaswag, mmlu_continuation, arc, piqa, winogrande, lambada_openai).
"""

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec

from ...common.errors import RequestError, WorkError, one_line
from ...common.hashing import items_digest
from ...common.problems import did_you_mean
from ...common.storage import open_read
from ...common.unpack import DamagedError, unpacked
from ...common.unpack import lines as text_lines

BenchmarkRow = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One question. The text of choice i is contexts[i] + answers[i]; only answers[i] is scored.

    Attributes:
        id: row number in the file, from 0.
        gold: index of the right choice.
        subject: MMLU's, else "". answers begin with the space that parts them from the context. lengths: characters of
            each answer without that space.
    """

    id: int
    contexts: tuple[str, ...]
    answers: tuple[str, ...]
    gold: int
    subject: str = ""

    @property
    def characters(self) -> tuple[int, ...]:
        """Return the characters of each answer, leading space left out."""
        return tuple(len(a.removeprefix(" ")) for a in self.answers)


@dataclass(frozen=True)
class Benchmark:
    """All items of one file.

    Attributes:
        digest: of its rows, for `contamination`; None when they came from the hub.
    """

    task: str
    items: tuple[Item, ...]
    source: str
    digest: str | None
    shots: int = 0


@dataclass(frozen=True)
class Task:
    """How a benchmark is found and read.

    Attributes:
        files: stems of local files, in order of preference.
        hub: dataset, configuration, split.
        item: from a row to its parts.
        preamble: text before everything (of a subject).
        shot_files: where examples for few-shot prompts come from.
        shot_split: where examples for few-shot prompts come from.
    """

    files: tuple[str, ...]
    hub: tuple[str, str | None, str]
    item: Callable[[int, BenchmarkRow], Item]
    preamble: Callable[[str], str] = lambda subject: ""
    shot_files: tuple[str, ...] = ()
    shot_split: str | None = None


def _texts(row: BenchmarkRow, *keys: str) -> list[str]:
    for key in keys:
        if not isinstance(row[key], str):
            raise ValueError(f"'{key}' is not a text")
    return [row[key] for key in keys]


def _choices(value: Any, key: str) -> list[str]:
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(v, str) and v.strip() for v in value):
        raise ValueError(f"'{key}' is not a list of at least two texts")
    return value


def _index(value: Any, n: int, key: str, first: int = 0) -> int:
    """Return `value` (a number or its digits) as an index of n choices that are counted from `first`."""
    text = str(value).strip()
    if not re.fullmatch(r"\d+", text) or not 0 <= int(text) - first < n:
        raise ValueError(f"'{key}' is {value!r}, which is none of the {n} choices")
    return int(text) - first


def _same_context(row_id: int, context: str, choices: Sequence[str], gold: int, subject: str = "") -> Item:
    return Item(row_id, (context,) * len(choices), tuple(" " + c.strip() for c in choices), gold, subject)


def _hellaswag_text(text: str) -> str:
    """Return `text` as the benchmark's users clean it: WikiHow's bracketed marks removed."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _hellaswag(row_id: int, row: BenchmarkRow) -> Item:
    if "query" in row:
        return _query(row_id, row)
    activity, a, b = _texts(row, "activity_label", "ctx_a", "ctx_b")
    choices = [_hellaswag_text(c) for c in _choices(row["endings"], "endings")]
    context = _hellaswag_text(f"{activity}: {a} {b.capitalize()}")
    return _same_context(row_id, context, choices, _index(row["label"], len(choices), "label"))


def _query(row_id: int, row: BenchmarkRow) -> Item:
    choices = _choices(row["choices"], "choices")
    (query,) = _texts(row, "query")
    return _same_context(row_id, query, choices, _index(row["gold"], len(choices), "gold"))


def _question_and_answer(question: str) -> str:
    """Return the cloze prompt of a question, its own `Question:` kept when it has one."""
    question = question.strip().removeprefix("Question:").strip()
    return f"Question: {question}\nAnswer:"


def _local_question(row_id: int, row: BenchmarkRow) -> Item:
    item = _query(row_id, row)
    context = _question_and_answer(item.contexts[0])
    return Item(row_id, (context,) * len(item.answers), item.answers, item.gold)


def _mmlu(row_id: int, row: BenchmarkRow) -> Item:
    question, subject = _texts(row, "question", "subject")
    choices = _choices(row["choices"], "choices")
    gold = _index(row["answer"], len(choices), "answer")
    return _same_context(row_id, _question_and_answer(question), choices, gold, subject)


def _arc(row_id: int, row: BenchmarkRow) -> Item:
    if "query" in row:
        return _local_question(row_id, row)
    (question,) = _texts(row, "question")
    choices = _choices(row["choices"]["text"], "choices.text")
    labels = row["choices"]["label"]
    if row["answerKey"] not in labels or len(labels) != len(choices):
        raise ValueError(f"'answerKey' is {row['answerKey']!r}, which is none of the labels {labels}")
    return _same_context(row_id, _question_and_answer(question), choices, labels.index(row["answerKey"]))


def _piqa(row_id: int, row: BenchmarkRow) -> Item:
    if "query" in row:
        return _local_question(row_id, row)
    goal, *choices = _texts(row, "goal", "sol1", "sol2")
    return _same_context(row_id, _question_and_answer(goal), choices, _index(row["label"], 2, "label"))


def _winogrande(row_id: int, row: BenchmarkRow) -> Item:
    if "context_options" in row:
        options = _choices(row["context_options"], "context_options")
        (ending,) = _texts(row, "continuation")
        gold = _index(row["gold"], len(options), "gold")
    else:
        sentence, *names = _texts(row, "sentence", "option1", "option2")
        before, blank, ending = sentence.partition("_")
        if not blank:
            raise ValueError("'sentence' has no blank '_'")
        options, gold = [before + name for name in names], _index(row["answer"], 2, "answer", first=1)
    return Item(row_id, tuple(options), (" " + ending.strip(),) * len(options), gold)


def _lambada(row_id: int, row: BenchmarkRow) -> Item:
    if "text" in row:
        context, _, word = _texts(row, "text")[0].rpartition(" ")
    else:
        context, word = _texts(row, "context", "continuation")
    if not context.strip() or not word.strip():
        raise ValueError("there is no last word to predict")
    return Item(row_id, (context,), (" " + word.strip(),), 0)


def _mmlu_preamble(subject: str) -> str:
    return f"The following are questions (with answers) about {subject.replace('_', ' ')}.\n\n"


TASKS: dict[str, Task] = {
    "hellaswag": Task(("hellaswag_val", "hellaswag"), ("Rowan/hellaswag", None, "validation"), _hellaswag),
    "mmlu": Task(
        ("mmlu_test", "mmlu"),
        ("cais/mmlu", "all", "test"),
        _mmlu,
        _mmlu_preamble,
        ("mmlu_dev",),
        "dev",
    ),
    "arc_easy": Task(("arc_easy",), ("allenai/ai2_arc", "ARC-Easy", "test"), _arc),
    "arc_challenge": Task(("arc_challenge",), ("allenai/ai2_arc", "ARC-Challenge", "test"), _arc),
    "piqa": Task(("piqa",), ("baber/piqa", None, "validation"), _piqa),
    "winogrande": Task(("winogrande",), ("allenai/winogrande", "winogrande_xl", "validation"), _winogrande),
    "lambada_openai": Task(("lambada_openai",), ("EleutherAI/lambada_openai", "default", "test"), _lambada),
}

PAPER_TASKS = ("hellaswag:0", "mmlu:0", "mmlu:5")
"""The protocol of arXiv 2511.03276: cloze, HellaSwag without examples, MMLU without and with five."""


def parse_task(text: str) -> tuple[str, int]:
    """Return the task and the number of shots that `mmlu:5` or `mmlu` names.

    Raises:
        RequestError: for a wrong request.
    """
    name, colon, shots = text.strip().partition(":")
    if name not in TASKS:
        meant = did_you_mean(name, TASKS) or f": known are {', '.join(TASKS)} (or --lm-eval {name})"
        raise RequestError(f"unknown task '{name}'{meant}")
    if colon and not shots.isdecimal():
        raise RequestError(f"task '{text}': write the number of examples as in {name}:5")
    if colon and int(shots) and not TASKS[name].shot_split:
        raise RequestError(f"task '{text}': {name} has no set of examples here, use {name}:0 (or --lm-eval {name})")
    return name, int(shots or 0)


def load(text: str, data: str | None = None, files: Mapping[str, str] | None = None) -> Benchmark:
    """Return the benchmark that `text` (`mmlu:5`) names, prompts with their examples in front.

    Args:
        data: folder with local files, plain or compressed; the hub when None.
        files: paths by task name, instead.

    Raises:
        RequestError: for an unknown task, a missing file or a malformed row.
    """
    name, shots = parse_task(text)
    task = TASKS[name]
    where = (files or {}).get(name) or (find(data, task.files, name) if data else None)
    rows, source, digest = _read(task, where, task.hub[2])
    items = tuple(_items(task, rows, source))
    if not items:
        raise RequestError(f"{source} has no rows")
    heads: dict[str, str] = {}
    if shots:
        beside = None if where is None else find(os.path.dirname(where) or ".", task.shot_files, name)
        examples, shot_source, _ = _read(task, beside, task.shot_split or "")
        heads = _examples(tuple(_items(task, examples, shot_source)), items, shots, shot_source)
    items = tuple(_with_head(item, task.preamble(item.subject) + heads.get(item.subject, "")) for item in items)
    return Benchmark(name, items, source, digest, shots)


def _with_head(item: Item, head: str) -> Item:
    return Item(item.id, tuple(head + c for c in item.contexts), item.answers, item.gold, item.subject)


def _examples(examples: Sequence[Item], items: Sequence[Item], shots: int, source: str) -> dict[str, str]:
    """Return the few-shot text of each subject: its first `shots` examples with their right answers."""
    heads = {}
    for subject in dict.fromkeys(item.subject for item in items):
        own = [e for e in examples if e.subject == subject][:shots]
        if len(own) < shots:
            raise RequestError(f"{source} has {len(own)} examples of '{subject}', {shots} were asked for")
        heads[subject] = "".join(f"{e.contexts[0]}{e.answers[e.gold]}\n\n" for e in own)
    return heads


def find(folder: str, stems: Sequence[str], name: str) -> str:
    """Return the file in `folder` (path or URL) of the first of `stems` that is there, with a known ending."""
    for stem in stems:
        for ending in (".jsonl", ".jsonl.gz", ".jsonl.zst"):
            path = f"{folder.rstrip('/')}/{stem}{ending}"
            fs, inner = fsspec.core.url_to_fs(path)
            if fs.exists(inner):
                return path
    raise RequestError(f"task {name}: {folder} holds no {stems[0]}.jsonl (or .jsonl.gz, .jsonl.zst)")


def _items(task: Task, rows: Sequence[BenchmarkRow], source: str) -> Iterator[Item]:
    for number, row in enumerate(rows):
        try:
            yield task.item(number, row)
        except KeyError as error:
            raise RequestError(f"{source} row {number + 1} has no {error}: it is not in a published format") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise RequestError(f"{source} row {number + 1} is malformed: {error}") from None


def _read(task: Task, path: str | None, split: str) -> tuple[list[BenchmarkRow], str, str | None]:
    if path is None:
        dataset, config, _ = task.hub
        return hub_rows(dataset, config, split), f"{dataset} ({split})", None
    rows, digest = read_rows(path)
    return rows, path, digest


def read_rows(path: str) -> tuple[list[BenchmarkRow], str]:
    """Return the objects of a JSON lines file (plain, gz, zst, xz, bz2; path or URL) and the digest of its rows.

    The digest is BLAKE2b-128 over the non-empty rows, each stripped of white space, joined by line ends: what a pool's
    manifest lists of the files it was decontaminated against.

    Raises:
        RequestError: for a wrong request.
        WorkError: for a file that ends early or is damaged.
    """
    rows: list[BenchmarkRow] = []
    lines: list[bytes] = []
    number = 0
    try:
        with open_read(path) as f:
            for number, line in enumerate(text_lines(unpacked(f, path)), 1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line := line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise RequestError(f"{path} row {number} is not a JSON object")
                    rows.append(row)
                    lines.append(line)
    except FileNotFoundError:
        raise RequestError(f"{path} does not exist") from None
    except DamagedError as error:
        until = f" (after row {number})" if number else ""
        raise WorkError(f"{path} {error}{until}: fetch it again, as JSON lines") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} row {number} is not JSON ({one_line(error)})") from None
    return rows, items_digest(lines)


def hub_rows(dataset: str, config: str | None, split: str) -> list[BenchmarkRow]:
    """Return the rows of a split of a dataset on the hub.

    Raises:
        RequestError: when it cannot be had.
    """
    try:
        from datasets import load_dataset

        return list(load_dataset(dataset, config, split=split))
    except ImportError:
        raise RequestError(f"reading {dataset} from the hub needs epochal[eval]; or give --data FOLDER") from None
    except Exception as error:  # the library raises many kinds for a network that is not there
        reason = one_line(error, 160)
        raise RequestError(f"{dataset} cannot be read from the hub ({reason}): give --data FOLDER") from None


def spread(items: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """Return `limit` items evenly spread over all (all when None or more than there are)."""
    n = len(items)
    if limit is None or limit >= n:
        return tuple(items)
    return tuple(items[i * n // limit] for i in range(limit))
