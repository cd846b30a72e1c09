"""Pieces that several sections of the report are made of."""

from collections.abc import Sequence

from ....common.html import Cell, Html, count, fold, paragraph, table, text

MOST_ROWS = 8
"""Rows of a table that are not folded away."""


def stack(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Html:
    """Return a table without the columns that say nothing in any row."""
    kept = [i for i in range(len(heads)) if any(row[i] != "" for row in rows)]
    return table([heads[i] for i in kept], [[row[i] for i in kept] for row in rows], "stack")


def folded(noun: str, note: str, inner: str, rows: int) -> str:
    """Return a long table under one line, which says how much there is."""
    return fold(f"{count(rows, noun)}, and what they mean" if note else count(rows, noun), note + inner)


def keep(words: str) -> Html:
    """Return words that stay on one line."""
    return Html(f'<span class="keep">{text(words)}</span>')


WORDS = table(
    ["Word", "Meaning"],
    [
        (
            "overtakes for good",
            "MDM’s lead turns positive there and stays so at every evaluation after it, two or more; one alone that is "
            "behind by less than the bound’s noise ends no lead",
        ),
        (
            "not within the budget, none",
            "no such place: MDM is behind at the end, or only the last evaluation shows it ahead",
        ),
        ("the first evaluation, ahead", "MDM leads from the first evaluation on: it overtook there, or before"),
        (
            "no interval: 2 pairs",
            "an interval needs three pairs or more: fewer say nothing of how far draws and seeds differ",
        ),
        ("beyond", "the interval reaches past the budget: MDM may not overtake within it"),
        ("2 of 3 pairs cross", "in how many pairs MDM overtakes by itself"),
        ("> and <", "the answer lies above or below all budgets that were run"),
        (
            "final MDM − AR",
            "MDM’s loss minus AR’s at the end, nats per token, ± its 95 % interval: below 0, MDM is better",
        ),
        (
            "interval",
            "95 %, Student’s t over draws of data, or over seeds where there is one draw; see “All crossovers”",
        ),
        ("decayed, at full rate", "whether the learning rate had begun to fall where the loss was measured"),
        (
            "NLL, NELBO",
            "AR’s loss is exact; MDM’s is an upper bound, so the truth is as good or better. An MDM’s NLL says under "
            "which order of writing it is exact",
        ),
    ],
)

BOUND_NOTE = paragraph(
    "The comparison is of MDM’s NELBO, an upper bound, with AR’s exact NLL. Where the bound lies below, MDM is "
    "better for certain: its overtaking is sufficient, not necessary, so MDM may be ahead earlier than it is "
    "seen to be."
)

EXACT_NOTE = paragraph(
    "Here both sides are exact likelihoods of the same texts: AR’s, and MDM’s when it writes in the stated order. With "
    "the order MDM is another distribution than the one that its NELBO bounds (all orders together), so either figure "
    "may be the lower one. Best checkpoints are chosen by the NELBO."
)

PAIR_NOTE = paragraph("A pair is an AR and an MDM run on the same draw of data with the same seed.", "note")
