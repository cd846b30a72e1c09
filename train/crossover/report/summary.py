"""The report's tables without the page: as Markdown, and as CSV for other programs."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from ....common.html import count
from ....common.units import format_count
from . import wording
from .fair_tables import multiple_owner
from .law_tables import constant_words
from .wording import BEST_HEAD, best_row, interval, ratio, ratio_interval, setting, where

SUMMARY_NAME, CSV_NAME = "summary.md", "summary.csv"


def markdown(body: dict[str, Any]) -> str:
    """Return all that was found, as Markdown.

    Args:
        body: of `render.publish`.
    """
    receipts = count(body["receipts_valid"], "receipt")
    head = f"{body['finished']} of {count(body['runs'], 'run')} finished, {receipts} valid."
    parts = [f"# Crossover {body['grid']}", head]
    parts += [f"{wording.waits(body['waiting']).capitalize()}."] if body["waiting"] else []
    parts += [
        "## Where diffusion overtakes",
        markdown_table(CROSSOVER_HEAD, [_crossover(f) for f in body["crossovers"]]),
    ]
    parts += [wording.NOTE]
    if body["best"]:
        note = wording.BEST_NOTE if body["best"][0]["held_out"] else wording.SAME_NOTE
        parts += ["## Best against best", note, markdown_table(BEST_HEAD, [best_row(f) for f in body["best"]])]
    if body["arms"]:
        parts += [
            "## Arms",
            wording.ARM_NOTE,
            markdown_table(wording.ARM_HEAD, [wording.arm_row(f) for f in body["arms"]]),
        ]
    if ensembles := body.get("ensembles"):
        rows = list(map(wording.ensemble_row, ensembles["rows"]))
        parts += ["## Ensembles"]
        parts += [wording.ENSEMBLE_NOTE, markdown_table(wording.ENSEMBLE_HEAD, rows)] if rows else []
        parts += [f"{wording.unmeasured(ensembles['missing']).capitalize()}."] if ensembles["missing"] else []
    if body["multiples"]:
        parts += ["## What a budget is worth", markdown_table(MULTIPLE_HEAD, [_multiple(f) for f in body["multiples"]])]
    if body["fits"]:
        parts += ["## Laws", markdown_table(LAW_HEAD, [_law(f) for f in body["fits"]])]
        parts += ["\\* unidentified: the data do not settle it."]
    parts += [f"- {wording.left_out(f)}" for f in body["left_out"]]
    return "\n\n".join(parts) + "\n"


CROSSOVER_HEAD = ("metric", "unique tokens", "setting", "MDM overtakes at", "95 % interval, passes", "pairs")
MULTIPLE_HEAD = ("metric", "unique tokens", "whose", "setting", "baseline", "worth", "95 % interval")
LAW_HEAD = ("type", "setting", "law", "evaluations", "constants", "RMS", "budgets left out", "last third")


def _crossover(f: dict[str, Any]) -> list[str]:
    return [f["metric"], format_count(f["unique_tokens"]), setting(f), where(f), interval(f), str(len(f["units"]))]


def _multiple(f: dict[str, Any]) -> list[str]:
    baseline = f"{f['baseline']}, {wording.side_words(f['baseline_side'])}"
    words = setting({"ar": f["settings"], "mdm": f["settings"]})
    n = format_count(f["unique_tokens"])
    return [f["metric"], n, multiple_owner(f), words, baseline, ratio(f), ratio_interval(f)]


def _law(f: dict[str, Any]) -> list[str]:
    head = [f["objective"], f["settings"], f["form"], str(f["points"])]
    if f["why_not"]:
        return [*head, f["why_not"], "", "", ""]
    constants = ", ".join(constant_words(name, value, f) for name, value in f["constants"].items())
    left = ", ".join(f"{format_count(int(n))}: {100 * e:.1f} %" for n, e in f["left_out"].items())
    late = "" if f["late"] is None else f"{100 * f['late']:.1f} %"
    return [*head, constants, f"{100 * f['rms']:.1f} %", left, late]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of plain cells."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


COLUMNS = (
    *("table", "metric", "unique_tokens", "ar_arm", "mdm_arm", "baseline", "baseline_side"),
    *("value", "low", "high", "status", "pairs", "ar_loss", "mdm_loss", "ar_tokens", "mdm_tokens", "ar_decayed"),
    *("mdm_decayed", "settings"),
)


def table_csv(body: dict[str, Any]) -> str:
    """Return crossovers (tokens), leads of best over best (nats), where MDM's best falls below AR's (tokens),
    gains of arms over the default (nats) and multiples as one table, a row a figure; `COLUMNS`. Of a grid with
    `members` also what ensembles gain over their models (nats), and a column `side` of what a row is of."""
    rows = [*_crossover_rows(body), *_best_rows(body), *_arm_rows(body), *_ensemble_rows(body), *_multiple_rows(body)]
    columns = [*COLUMNS, "side"] if "ensembles" in body else COLUMNS
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row if "ensembles" in body else {k: v for k, v in row.items() if k != "side"} for row in rows)
    return text.getvalue()


def _crossover_rows(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **{k: f[k] for k in ("metric", "unique_tokens", "low", "high", "status")},
            "table": "crossover",
            "value": f["tokens"],
            "pairs": len(f["units"]),
            "settings": setting(f),
        }
        for f in body["crossovers"]
    ]


def _best_rows(body: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for f in body["best"]:
        both = {"metric": f["metric"], "unique_tokens": f["unique_tokens"], "pairs": len(f["units"])}
        both |= {"settings": setting({"ar": f["ar_settings"], "mdm": f["mdm_settings"]})}
        for kind in ("ar", "mdm"):
            both |= {f"{kind}_{k}": f[kind][k] for k in ("arm", "loss", "tokens", "decayed")}
        both |= {"side": f["ar_side"] if f["ar_side"] == f["mdm_side"] else f"AR {f['ar_side']}, MDM {f['mdm_side']}"}
        ends = {"low": f["lead"] - f["half_width"], "high": f["lead"] + f["half_width"]}
        rows.append({"table": "best lead", "value": f["lead"]} | ends | both)
        if f["checkpoints"]:
            over = {k: f["checkpoints"][k] for k in ("low", "high", "status")}
            rows.append({"table": "best below from", "value": f["checkpoints"]["tokens"]} | over | both)
    return rows


def _arm_rows(body: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for f in body["arms"]:
        head = {"metric": f["metric"], "unique_tokens": f["unique_tokens"], "pairs": len(f["units"])}
        head |= {f"{f['objective']}_arm": f["arm"], "settings": setting({"ar": f["settings"], "mdm": f["settings"]})}
        for which in ("best", "final"):
            own = f[which]
            ends = {"low": own["gain"] - own["half_width"], "high": own["gain"] + own["half_width"]}
            loss = {f"{f['objective']}_loss": own["loss"]}
            rows.append({"table": f"arm {which} gain", "value": own["gain"]} | ends | head | loss)
    return rows


def _ensemble_rows(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **{k: f[k] for k in ("metric", "unique_tokens")},
            "table": "ensemble gain",
            "side": f"{wording.ENSEMBLE} of {f['members']}",
            "value": f["gain"],
            "low": f["gain"] - f["half_width"],
            "high": f["gain"] + f["half_width"],
            "pairs": len(f["draws"]),
            f"{f['objective']}_arm": f["arm"],
            f"{f['objective']}_loss": f["loss"],
            f"{f['objective']}_decayed": f["decayed"],
            "settings": setting({"ar": f["settings"], "mdm": f["settings"]}),
        }
        for f in body.get("ensembles", {"rows": []})["rows"]
    ]


def _multiple_rows(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **{k: f[k] for k in ("metric", "unique_tokens", "low", "high", "baseline", "baseline_side")},
            "table": "multiple",
            "value": f["ratio"],
            "status": f["sign"],
            "side": f["side"],
            f"{f['objective']}_arm": f["arm"],
            "settings": setting({"ar": f["settings"], "mdm": f["settings"]}),
        }
        for f in body["multiples"]
        if f["objective"] in ("ar", "mdm")
    ]
