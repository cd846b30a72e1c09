"""A crossover in words: its setting, its place, its interval, and the lines that `epochal crossover` ends with."""

import json
import math
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from ....common.cli import text_table
from ....common.html import count
from ....common.units import format_count, round_count
from ...exact.writing_order import EXACT
from ..curves import MetricsRow
from ..fits.intervals import Unit, independent
from ..keys import DEFAULT


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
    if body["waiting"]:
        lines.append(in_lines(waits(body["waiting"])))
    if rows:
        exact = any(found["metric"].startswith(EXACT) for found in body["crossovers"])
        lines += ["", text_table(head, rows), "", in_lines(NOTE), *([in_lines(EXACT_NOTE)] if exact else [])]
    if body["best"]:
        lines += ["", "Best against best", text_table(BEST_HEAD, [best_row(found) for found in body["best"]]), ""]
        lines += [in_lines(BEST_NOTE if body["best"][0]["held_out"] else SAME_NOTE)]
    if body["arms"]:
        lines += ["", "Arms", text_table(ARM_HEAD, list(map(arm_row, body["arms"]))), "", in_lines(ARM_NOTE)]
    if ensembles := body.get("ensembles"):
        rows = list(map(ensemble_row, ensembles["rows"]))
        lines += ["", "Ensembles", text_table(ENSEMBLE_HEAD, rows), "", in_lines(ENSEMBLE_NOTE)] if rows else []
        lines += [in_lines(unmeasured(ensembles["missing"]))] if ensembles["missing"] else []
    lines += [in_lines(left_out(found)) for found in body["left_out"]]
    return "\n".join([*lines, f"report: {body['report']}", f"tables: {body['summary']}"])


def in_lines(words: str) -> str:
    """Return a sentence in lines as wide as the terminal, 100 at most."""
    return textwrap.fill(words, min(100, shutil.get_terminal_size((100, 24)).columns))


def waits(runs: int) -> str:
    """Return what is said of runs whose own best length is not known yet."""
    return f"own decay: {count(runs, 'run')} must be finished first, their best lengths follow from their curves"


def unmeasured(ensembles: int) -> str:
    """Return what is said of ensembles that have no figures yet."""
    return f"ensembles: {ensembles} not measured yet, which the next call does for those whose runs are finished"


def left_out(found: MetricsRow) -> str:
    """Return what is said of evaluations that are no numbers."""
    return f"left out: {count(found['evaluations'], 'evaluation')} of {found['metric']} of {found['run']}, no number"


BEST_HEAD = (
    *("metric", "unique tokens", "AR arm", "AR loss", "at pass", "MDM arm", "MDM loss", "at pass"),
    *("MDM − AR, nats", "MDM below AR’s best from"),
)


def best_row(found: MetricsRow) -> list[str]:
    """Return the cells of `BEST_HEAD`."""
    words = setting({"ar": found["ar_settings"], "mdm": found["mdm_settings"]})
    n = format_count(found["unique_tokens"]) + (f", {words}" if words else "")
    return [found["metric"], n, *side(found, "ar"), *side(found, "mdm"), lead_words(found), checkpoint_words(found)]


def side(found: MetricsRow, which: str) -> list[str]:
    """Return a side's arm, its loss, and where it was stopped."""
    own = found[which]
    side = found[f"{which}_side"]
    arm = own["arm"] if side == DEFAULT else f"{own['arm']} ({side})"
    return [arm, f"{own['loss']:.3f}", f"{own['passes']:.1f}, {rate_words(own['decayed'], len(own['runs']))}"]


def rate_words(decayed: int, runs: int) -> str:
    """Return at how many of the runs' stops the learning rate had begun to fall."""
    return "decayed" if decayed == runs else f"{decayed} of {runs} decayed" if decayed else "at full rate"


def side_words(side: str) -> str:
    """Return which models of a type are meant: default arm, best arm, ensemble of 3."""
    return side if side.startswith(ENSEMBLE) else f"{side} arm"


def lead_words(found: MetricsRow) -> str:
    """Return MDM's loss minus AR's, with its interval."""
    return signed(-found["lead"]) + plus_minus(found["half_width"], replicates(found["units"]))


def signed(nats: float) -> str:
    """Return a difference with its sign."""
    return f"{nats:+.3f}".replace("-", "−")


def plus_minus(half_width: float, few: str) -> str:
    """Return the interval of a mean, or that there is none because there are so few replicates."""
    return f" (no interval: {few})" if math.isnan(half_width) else f" ± {half_width:.3f}"


def replicates(units: Sequence[Unit]) -> str:
    """Return what an interval over these pairs rests on: draws of data where a draw has several seeds."""
    n = independent(units)
    return count(n, "pair" if n == len(units) else "draw")


def checkpoint_words(found: MetricsRow) -> str:
    """Return where MDM's best falls below AR's for good, in passes, tokens and FLOPs, or that it does not."""
    over = found["checkpoints"]
    if over is None:
        return "no curve: measured once" if found["ar_side"].startswith(ENSEMBLE) else "no curves in common"
    here = over | {"unique_tokens": found["unique_tokens"], "units": found["units"]}
    flops = f", {over['flops']:.3g} FLOPs" if over["flops"] is not None else ""
    ends = "" if over["status"] == "none" else f"; {interval(here)}"
    return where(here, flops) + ends


ARM_HEAD = (
    *("metric", "unique tokens", "type", "arm", "best loss", "at pass", "best, gain over the default"),
    *("final loss", "final, gain over the default", "runs"),
)

ARM_NOTE = (
    "Gains are nats by which an arm is below the default arm, means over the seeds and draws that both were run on, "
    "above 0 where the arm is better; ± is a 95 % interval (Student's t over draws of data, or over the seeds where "
    "there is one draw)."
)


def arm_row(found: MetricsRow) -> list[str]:
    """Return the cells of `ARM_HEAD`."""
    words = setting({"ar": found["settings"], "mdm": found["settings"]})
    n = format_count(found["unique_tokens"]) + (f", {words}" if words else "")
    best, final = (_gain(found, which) for which in ("best", "final"))
    head = [found["metric"], n, found["objective"].upper(), found["arm"]]
    return [*head, best[0], f"{found['passes']:.1f}", best[1], *final, str(len(found["units"]))]


def _gain(found: MetricsRow, which: str) -> list[str]:
    own = found[which]
    loss = "not known" if math.isnan(own["loss"]) else f"{own['loss']:.3f}"
    if found["arm"] == DEFAULT or math.isnan(own["gain"]):
        return [loss, ""]
    return [loss, signed(own["gain"]) + plus_minus(own["half_width"], replicates(found["units"]))]


ENSEMBLE = "ensemble"
"""How the sides of ensembles begin."""

ENSEMBLE_HEAD = (
    *("unique tokens", "type", "arm", "models", "loss", "kind", "each alone", "gain of the ensemble"),
    *("stopped at pass", "draws"),
)

ENSEMBLE_NOTE = (
    "An ensemble is the mean of the probabilities of the best models of several seeds on one draw of data, and costs "
    "the training of all of them. Gain: nats by which its loss is below the mean loss of its models, a mean over "
    "draws; ± is a 95 % interval (Student's t over draws), noise the standard error that a bound's noise samples "
    "leave. MDM's loss is an upper bound (NELBO), of an ensemble as of one model. The models are those in best/, "
    "chosen by the loss on the whole validation pool, so they look a little better than stops that were chosen on one "
    "half."
)


def ensemble_row(found: MetricsRow) -> list[str]:
    """Return the cells of `ENSEMBLE_HEAD`."""
    words = setting({"ar": found["settings"], "mdm": found["settings"]})
    n = format_count(found["unique_tokens"]) + (f", {words}" if words else "")
    head = [n, found["objective"].upper(), found["arm"], str(found["members"])]
    draws, error = len(found["draws"]), f" ± {found['loss_se']:.3f} noise" if found["loss_se"] else ""
    gain = signed(found["gain"]) + plus_minus(found["half_width"], count(draws, "draw"))
    rate = rate_words(found["decayed"], draws * found["members"])
    losses = [f"{found['loss']:.3f}{error}", KINDS[found["kind"]], f"{found['alone']:.3f}"]
    return [*head, *losses, gain, f"{found['passes']:.1f}, {rate}", str(draws)]


KINDS = {"nll": "NLL", "nelbo": "NELBO, upper bound"}


NOTE = (
    "loss: MDM's is an upper bound (NELBO), AR's exact (NLL). Where the bound overtakes, MDM is better for certain; "
    "where it does not, nothing follows."
)


BEST_NOTE = (
    "Each type stopped at its best. Arms and stops are chosen by the loss on one half of the validation pool, "
    "figures are the loss on the other half; ± is a 95 % interval (Student's t over draws of data, or over the seeds "
    "where there is one draw)."
)

SAME_NOTE = (
    "Each type stopped at its best. These runs were made before halves of the validation pool were measured: "
    "best is chosen and measured on the same samples, so it looks better than it is. ± is a 95 % interval."
)


EXACT_NOTE = "exact/ORDER/K: exact on both sides, AR's NLL and MDM's when it writes K tokens a step in that order."


def setting(found: MetricsRow) -> str:
    """Return the settings of a comparison in words: those of both, then what each has alone, its arm always."""
    ar, mdm = (json.loads(found[k]) for k in ("ar", "mdm"))
    shared = (ar.keys() & mdm.keys()) - {"arm"}
    own = [f"{name} {k}={v}" for name, d in (("AR", ar), ("MDM", mdm)) for k, v in d.items() if k not in shared]
    return ", ".join([*(f"{k}={v}" for k, v in ar.items() if k in shared), *own])


def where(found: MetricsRow, more: str = "") -> str:
    """Return a crossover in words: passes and tokens (and `more`), or that there is none."""
    if found["status"] == "crosses":
        return f"pass {found['tokens_passes']:.1f} ({round_count(found['tokens'])} tokens{more})"
    if found["status"] == "ahead":
        return "the first evaluation, or before"
    passes = found["budget"] / found["unique_tokens"]
    return f"not within the budget of {passes:.4g} pass{'' if passes == 1 else 'es'}"


def interval(found: MetricsRow) -> str:
    """Return the 95 % interval of a crossover in passes, and how many pairs cross by themselves where not all do."""
    pairs, crossing = len(found["units"]), sum(own is not None for own in found["pairs"])
    some = "" if crossing in (0, pairs) else f"{crossing} of {count(pairs, 'pair')} cross"
    if math.isnan(found["low"]):
        return "; ".join(part for part in (f"no interval: {replicates(found['units'])}", some) if part)
    if found["low"] == found["high"] == math.inf:
        return some or "beyond the budget"
    ends = " to ".join(_end(found[f"{side}_passes"]) for side in ("low", "high"))
    return f"{ends}; {some}" if some else ends


def _end(passes: float) -> str:
    return f"{passes:.1f}" if math.isfinite(passes) else "beyond" if passes > 0 else "the first evaluation"


def ratio_interval(found: dict[str, Any]) -> str:
    """Return the interval of a data-potential ratio in words."""
    low, high = found["low"], found["high"]
    if math.isnan(low):
        return "no interval: too few draws"
    ends = ["below the budgets" if x == 0 else "beyond them" if math.isinf(x) else f"{x:.2f}" for x in (low, high)]
    return ends[0] if low == high else " to ".join(ends)


def ratio(found: dict[str, Any]) -> str:
    """Return a data-potential ratio in words."""
    sign = "" if found["sign"] == "=" else found["sign"] + " "
    return f"{sign}{found['ratio']:.2f} ×"
