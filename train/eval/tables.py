"""What `epochal evaluate` prints: tables in which every likelihood says of which kind it is."""

from collections.abc import Sequence
from typing import Any

from ...common.cli import text_table
from ..exact.writing_order import WritingOrder


def describe(body: dict[str, list[dict[str, Any]]], out: str) -> str:
    """Return the tables of an evaluation."""
    parts = []
    if body["tasks"]:
        parts += [_accuracies(body["tasks"]), _contamination(body["tasks"]), _costs(body["tasks"])]
    if body["likelihoods"]:
        parts.append(_likelihoods(body["likelihoods"]))
    if body.get("lm_eval"):
        parts.append(_harness_table(body["lm_eval"]))
    return "\n\n".join([*(p for p in parts if p), f"results in {out}"])


KINDS = {"nll": "NLL, exact", "nelbo": "NELBO, upper bound"}


GIVEN_LENGTHS_NOTE = (
    "given lengths: the model was told where documents end (model.document_mask), and is not to be compared with one\n"
    "that was not"
)


def _noise(row: dict[str, Any]) -> str:
    given = ", given lengths" if row.get("given") else ""
    if row.get("order"):
        return f"{KINDS[row['kind']]}, {WritingOrder(row['order'], row['tokens_per_step']).words}{given}"
    return KINDS[row["kind"]] + (f", K={row['noise_samples']}" if row["noise_samples"] else "") + given


def _percent(row: dict[str, Any], name: str, signed: bool = False) -> str:
    if row.get(name) is None:
        return ""
    error = row.get(f"{name}_se")
    sign = "+" if signed else ""
    return f"{100 * row[name]:{sign}.2f}" + ("" if error is None else f" ± {100 * error:.2f}")


def _accuracies(rows: Sequence[dict[str, Any]]) -> str:
    head = ["model", "task", "items", "accuracy %", "lengths alone %", "difference", "ΔNLL", "likelihood"]
    body = []
    for r in rows:
        items = f"{r['items']:,}" + ("" if r["items"] == r["items_in_file"] else f" of {r['items_in_file']:,}")
        delta = "" if r.get("delta_nll") is None else f"{r['delta_nll']:+.4f}"
        counting, over = _percent(r, "counting"), _percent(r, "over_counting", signed=True)
        name = f"{r['task']}:{r['shots']}"
        body.append([r["model"], name, items, _percent(r, "accuracy"), counting, over, delta, _noise(r)])
    return f"{text_table(head, body)}\n{_explain_accuracies(rows[0]['norm'])}"


def _explain_accuracies(norm: str) -> str:
    unit = {"characters": "per character", "tokens": "per token", "none": "per answer"}[norm]
    return (
        f"answers compared by nats {unit}; ± is one standard error over items. `lengths alone`: what a model scores "
        f"that knows\nonly how many tokens and characters answers have. ΔNLL: wrong minus right answers, nats {unit}."
    )


def _contamination(rows: Sequence[dict[str, Any]]) -> str:
    lines = dict.fromkeys(f"{r['task']}:{r['shots']}: {r['leak_check']}" for r in rows)
    return "\n".join(["contamination check:", *(f"  {line}" for line in lines)])


def _costs(rows: Sequence[dict[str, Any]]) -> str:
    timed = [r for r in rows if r["scored_now"]]
    body = [
        [
            *(r["model"], f"{r['task']}:{r['shots']}", f"{r['scored_now']:,}", f"{r['items_per_s']:,.1f}"),
            *(f"{r['sequences_per_s']:,.1f}", f"{100 * r['padding_waste']:.1f} %", str(r["truncated"])),
        ]
        for r in timed
    ]
    head = ["model", "task", "scored now", "items/s", "sequences/s", "padding", "cut texts"]
    return text_table(head, body) if body else ""


def _likelihoods(rows: Sequence[dict[str, Any]]) -> str:
    head = ["model", "data", "kind", "nats/token", "bits/byte", "tokens", "noise seed"]
    body = []
    for r in rows:
        error = "" if not r["per_token_se"] else f" ± {r['per_token_se']:.4f}"
        byte = "unknown" if r["bits_per_byte"] is None else f"{r['bits_per_byte']:.4f}"
        seed = "" if r["seed"] is None else str(r["seed"])
        figures = [f"{r['per_token']:.4f}{error}", byte, f"{r['tokens']:,}", seed]
        body.append([r["name"], f"{r['source']} {r['data'][:8]}", _noise(r), *figures])
    note = f"\n{GIVEN_LENGTHS_NOTE}" if any(r.get("given") for r in rows) else ""
    return text_table(head, body) + note


def _harness_table(rows: Sequence[dict[str, Any]]) -> str:
    head = ["model", "lm-eval task", "metric", "value", "stderr", "likelihood"]
    body = [
        [
            *(r["model"], r["task"], r["metric"], f"{r['value']:.4f}"),
            *("" if r["stderr"] is None else f"{r['stderr']:.4f}", _noise(r)),
        ]
        for r in rows
    ]
    return text_table(head, body)
