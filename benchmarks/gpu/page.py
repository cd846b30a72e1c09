"""The stages' tables, as text and as Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from epochal.benchmarks.gpu.process import Outcome
from epochal.benchmarks.gpu.stages import ENVIRONMENT, Case, Column, Stage
from epochal.common.cli import text_table
from epochal.train.crossover.report.summary import markdown_table

Done = Mapping[str, Mapping[str, Outcome]]
"""What cases came to, by stage and case."""

LONGEST = 90
"""Characters of a cell: names of kernels have hundreds. They are whole in the JSON files."""

DRY = (
    "**A dry run on a CPU with toy sizes.** It shows that every stage works. None of its figures says anything about "
    "speed, and none was measured on a GPU."
)


def cell(row: Mapping[str, Any], column: Column) -> str:
    """Return one figure as text, empty where there is none."""
    value = row.get(column.key)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = format(value, column.pattern) if isinstance(value, int | float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def table(stage: Stage, done: Mapping[str, Outcome]) -> tuple[list[Column], list[list[str]]]:
    """Return the columns of a stage that have figures, and the cells of its rows."""
    rows = [{"case": case.name} | row for case in stage.cases if case.name in done for row in done[case.name].rows]
    columns = [column for column in stage.columns if any(cell(row, column) for row in rows)]
    return columns, [[cell(row, column) for column in columns] for row in rows]


def unfinished(stage: Stage, done: Mapping[str, Outcome]) -> list[str]:
    """Return a line for each case of a stage that was cut or failed, by name."""
    words = {"cut": "cut for lack of time", "failed": "FAILED"}
    return [
        f"{case.name}: {words[done[case.name].state]}: {done[case.name].reason}"
        for case in stage.cases
        if case.name in done and done[case.name].state in words
    ]


def printed(stage: Stage, done: Mapping[str, Outcome]) -> str:
    """Return a stage as text for a terminal."""
    columns, rows = table(stage, done)
    lines = [stage.title, ""]
    lines += [text_table([column.title for column in columns], rows)] if rows else []
    return "\n".join(lines + unfinished(stage, done)) + "\n"


def markdown(stages: Sequence[Stage], done: Done, dry: bool) -> str:
    """Return everything as a page: what was measured, on what, and what was not."""
    machine = next((o.rows[0]["figure"] for o in done.get(ENVIRONMENT, {}).values() if o.rows), "a machine")
    lines = [f"# On {machine}", "", f"`python -m epochal.benchmarks.gpu{' --dry-run' if dry else ''}`", ""]
    lines += [DRY, ""] if dry else []
    for stage in stages:
        lines += [f"## {stage.title}", "", *_section(stage, done.get(stage.name, {}))]
    return "\n".join(lines).rstrip() + "\n"


def _section(stage: Stage, done: Mapping[str, Outcome]) -> list[str]:
    columns, rows = table(stage, done)
    lines: list[str] = []
    if rows:
        lines += [markdown_table([column.title for column in columns], rows), ""]
        lines += [*_kinds(columns), ""]
    lines += [f"* {line}" for line in unfinished(stage, done)]
    missing = [case.name for case in stage.cases if case.name not in done]
    lines += [f"* Not run: {_names(missing)}."] if missing else []
    return [*lines, ""] if lines[-1:] != [""] else lines


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)


def _kinds(columns: Sequence[Column]) -> list[str]:
    """Return what kind of figure each column holds, columns of one kind together."""
    titles: dict[str, list[str]] = {}
    for column in columns:
        if column.kind:
            titles.setdefault(column.kind, []).append(column.title)
    return [f"* {', '.join(of_kind)}: {kind}." for kind, of_kind in titles.items()]


def state(case: Case, outcome: Outcome) -> str:
    """Return what became of a case, in a line."""
    if outcome.kept:
        return f"{case.name}: measured before"
    words = {"finished": f"{outcome.seconds:.0f} s", "cut": f"cut: {outcome.reason}"}
    return f"{case.name}: {words.get(outcome.state, f'FAILED: {outcome.reason}')}"
