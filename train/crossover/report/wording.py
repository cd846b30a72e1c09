"""A crossover in words: its setting, its place, its interval, and the lines that `epochal crossover` ends with."""

import json
import math
from typing import Any

from ....common.cli import text_table
from ....common.html import count
from ....common.units import format_count, round_count
from ...exact.writing_order import EXACT
from ..curves import MetricsRow


def describe(body: dict[str, Any]) -> str:
    """Return the lines that end `epochal crossover`."""
    head = ["metric", "unique tokens", "setting", "MDM overtakes AR for good at", "95 % interval, passes", "pairs"]
    rows = [
        [
            *(found["metric"], format_count(found["unique_tokens"]), setting(found)),
            *(where(found), interval(found), str(len(found["units"]))),
        ]
        for found in body["crossovers"]
    ]
    lines = [
        f"{body['grid']}: {body['finished']} of {count(body['runs'], 'run')} finished, "
        f"{count(body['receipts_valid'], 'receipt')} valid"
    ]
    if rows:
        exact = any(found["metric"].startswith(EXACT) for found in body["crossovers"])
        lines += ["", text_table(head, rows), "", NOTE, *([EXACT_NOTE] if exact else [])]
    return "\n".join([*lines, f"report: {body['report']}"])


NOTE = (
    "loss: MDM's is an upper bound (NELBO), AR's exact (NLL). Where the bound overtakes, MDM is better for certain;\n"
    "where it does not, nothing follows."
)


EXACT_NOTE = "exact/ORDER/K: exact on both sides, AR's NLL and MDM's when it writes K tokens a step in that order."


def setting(found: MetricsRow) -> str:
    """Return the settings of a comparison in words: those of both, then what each has alone."""
    ar, mdm = (json.loads(found[k]) for k in ("ar", "mdm"))
    both = [f"{k}={v}" for k, v in ar.items() if k in mdm]
    own = [f"{name} {k}={v}" for name, d, o in (("AR", ar, mdm), ("MDM", mdm, ar)) for k, v in d.items() if k not in o]
    return ", ".join([*both, *own])


def where(found: MetricsRow) -> str:
    """Return a crossover in words: passes and tokens, or that there is none."""
    if found["status"] == "crosses":
        return f"pass {found['tokens_passes']:.1f} ({round_count(found['tokens'])} tokens)"
    if found["status"] == "ahead":
        return "the first evaluation, or before"
    passes = found["budget"] / found["unique_tokens"]
    return f"not within the budget of {passes:.4g} pass{'' if passes == 1 else 'es'}"


def interval(found: MetricsRow) -> str:
    """Return the interval of a crossover in passes, and the share of resamples that cross where not all do."""
    if len(found["units"]) == 1:
        return "none from one pair"
    crossing = "" if found["share"] in (0, 1) else f"{100 * found['share']:.1f} % of resamples cross"
    if found["status"] == "none":
        return crossing or "no resample crosses"
    ends = " to ".join(_end(found[f"{side}_passes"]) for side in ("low", "high"))
    return f"{ends}; {crossing}" if crossing else ends


def _end(passes: float) -> str:
    return f"{passes:.1f}" if math.isfinite(passes) else "beyond" if passes > 0 else "the first evaluation"


def ratio_interval(found: dict[str, Any]) -> str:
    """Return the interval of a data-potential ratio in words."""
    low, high = found["low"], found["high"]
    if low == high == found["ratio"]:
        return "none from one draw"
    ends = ["below the budgets" if x == 0 else "beyond them" if math.isinf(x) else f"{x:.2f}" for x in (low, high)]
    return ends[0] if low == high else " to ".join(ends)
