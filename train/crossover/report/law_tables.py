"""The section of fitted laws: their constants with intervals, and their errors elsewhere side by side."""

import json
from typing import Any

from ....common.html import Cell, Html, Number, fold, paragraph
from ....common.units import format_count
from .panels import KINDS, NAMES, Results, fit_panels, settings_words
from .parts import keep, stack


def section(results: Results) -> str:
    """Return the section's HTML."""
    fits = results.found["fits"]
    if not fits:
        return paragraph("No run is finished yet.")
    return (
        _absent(results)
        + fold("The laws", NOTE)
        + fold("Errors side by side", stack(HOLD_OUT_HEAD, [_errors(f) for f in fits]))
        + fold("Constants", CONSTANTS_NOTE + stack(CONSTANTS_HEAD, [_constants(f) for f in fits]))
        + fold("Laws and measurements", fit_panels(results))
    )


HOLD_OUT_HEAD = ("Runs", "Law", "Evaluations", "RMS", "Largest", "RMS on a budget left out", "RMS on the last third")
CONSTANTS_HEAD = ("Runs", "Law", "Constants, 95 % intervals", "Independent points")

NOTE = paragraph(
    "Saturating: L = E + B / D′^b, D′ = U′ + U′ r (1 − exp(−R / r)), repeated tokens are worth ever less (Muennighoff "
    "et al. 2023). U-shaped: the same + C R^c / U^d, which rises with repeated passes R. Penalty: L = E + B / D^b + P "
    "R / U, one coefficient of overfitting. Sizes: L = E + A / N^a + B / D^b + P R^c (N / U)^d (both after Lovelace "
    "et al. 2026)."
)

CONSTANTS_NOTE = paragraph(
    "Errors are relative (of log L). Tokens are in units of the geometric mean of the unique tokens, weights of "
    "theirs. Intervals are from the fit’s curvature, with as many independent points as the evaluations are worth: "
    "those of one run go together. * unidentified: at its bound, or within a factor of more than ten; the value means "
    "nothing.",
    "note",
)


def _who(f: dict[str, Any]) -> str:
    many = json.loads(f["settings"])
    return f"{NAMES.get(f['objective'], f['objective'])}, {KINDS[f['kind']]}" + (
        f", {settings_words(many)}" if many else ""
    )


def _errors(f: dict[str, Any]) -> list[Cell]:
    head: list[Cell] = [_who(f), keep(f["form"]), Number(str(f["points"]))]
    if f["why_not"]:
        return [*head, f["why_not"], "", "", ""]
    left = Html(", ".join(keep(f"{format_count(int(n))}: {_percent(e)}") for n, e in f["left_out"].items()))
    late = "too few points" if f["late"] is None else Number(_percent(f["late"]))
    return [*head, Number(_percent(f["rms"])), Number(_percent(f["worst"])), left or "too few budgets", late]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _constants(f: dict[str, Any]) -> list[Cell]:
    if f["why_not"]:
        return [_who(f), keep(f["form"]), f["why_not"], ""]
    parts = (constant_words(name, value, f) for name, value in f["constants"].items())
    return [_who(f), keep(f["form"]), ", ".join(parts), Number(f"{f['independent']:.0f}")]


def constant_words(name: str, value: float, f: dict[str, Any]) -> str:
    """Return a constant with its interval; one that is unidentified with a star in its place."""
    if name in f["unidentified"]:
        return f"{name} {value:.3g}*"
    low, high = f["intervals"][name]
    return f"{name} {value:.3g} ({low:.3g} to {high:.3g})"


def _absent(results: Results) -> str:
    """Return what of the evaluations is in no fit: runs with their own decay, and what is no number."""
    n = sum(len(own) for own in results.decayed.values())
    words = "Every evaluation of every finished run of the whole length is in the fit."
    if n:
        words += f" Not in it: {n} evaluations of {len(results.decayed)} runs with their own decay."
    dropped = [f for f in results.found["left_out"] if f["metric"] == "loss"]
    words += "".join(f" Left out, being no number: {f['evaluations']} of {f['run']}." for f in dropped)
    return paragraph(words, "note")
