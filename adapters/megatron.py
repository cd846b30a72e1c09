"""The order of a run in Megatron-LM: the index that its GPTDataset keeps in `--data-cache-path`, written for a plan.

GPTDataset reads three arrays from its cache, `<hash>-GPTDataset-train-{document,sample,shuffle}_index.npy`:

    document_index  int32 (d,)       the sequences of the .bin file, one after the other
    sample_index    int32 (s + 1, 2) where each sample begins: place in document_index, offset in that sequence
    shuffle_index   uint32 (s,)      the sample that is read at each position

Megatron makes them at random; here document_index is the subset's own order, sample_index cuts it where the subset
does, and shuffle_index is `plan.ids`. `len(dataset)` is the length of sample_index, so that is filled up to the length
of the run, with rows that nothing refers to. A sample ends where the subset's does: PAD follows, and the token after
it, which Megatron adds for the last label, is the first of the next sample, as always in Megatron.

The hash is of a description that Megatron writes beside the arrays (paths, sample count, seed, tokenizer), so Megatron
makes the cache first, with the arguments of the run, and its arrays are then replaced.
"""

import glob
import json
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common import storage
from ..common.errors import RequestError, WorkError
from ..shards.artifact import read_export
from ..shards.formats.megatron import HEADER_BYTES, PREFIX, read_index
from ..shards.loader.order_reader import check_not_packed
from ..shards.order.base import Repetition

DESCRIPTION = "-GPTDataset-train-description.txt"
NAMES = ("document_index", "sample_index", "shuffle_index")


def replace_index(cache: str, export: str, plan: Repetition, extra_token: bool = True) -> list[str]:
    """Replace the index that Megatron has cached for `export` by that of `plan`; return the three paths.

    Args:
        cache: the folder of `--data-cache-path`, in which Megatron has made an index for the export.
        export: what `epochal export SUBSET --format megatron` wrote, not in the order of a plan.
        plan: of that subset.
        extra_token: Megatron's `add_extra_token_to_sequence`, which is on unless it is switched off.

    Raises:
        RequestError: where Megatron has made no such index yet, or for another length or part of the data.
        WorkError: when the export is damaged.
    """
    description = _description(cache, export)
    _check(_described(description), plan)
    arrays = dict(zip(NAMES, index_arrays(export, plan, extra_token), strict=True))
    paths = []
    for name, values in arrays.items():
        path = f"{description.removesuffix('description.txt')}{name}.npy"
        with open(f"{path}.partial", "wb") as file:
            np.save(file, values)
        os.replace(f"{path}.partial", path)
        paths.append(path)
    return paths


def index_arrays(export: str, plan: Repetition, extra_token: bool = True) -> tuple[NDArray, NDArray, NDArray]:
    """Return document_index, sample_index and shuffle_index for `plan` over an export. Arguments as `replace_index`."""
    check_not_packed(plan, "Megatron's index cuts them once")
    manifest = read_export(export)
    if manifest.layout != "megatron" or manifest.plan is not None:
        raise RequestError(
            f"{export} is no export of a subset for Megatron in its own order: epochal export --format megatron"
        )
    if manifest.parent.fingerprint != plan.subset:
        raise RequestError(f"the plan is of subset {plan.subset}, {export} holds {manifest.parent.fingerprint}")
    lengths = _lengths(export)
    if int(lengths.sum()) != plan.unique_tokens:
        raise WorkError(f"{export} is damaged: its index counts {int(lengths.sum()):,} tokens: export again")
    shown = max(plan.positions, plan.samples)  # Megatron counts samples by rows, and every sample needs one
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    at = np.arange(plan.samples, dtype=np.int64) * plan.seq_len
    document = np.searchsorted(starts, at, side="right") - 1
    rows = np.empty((shown + 1, 2), np.int64)
    rows[: plan.samples, 0], rows[: plan.samples, 1] = document, at - starts[document]
    rows[plan.samples :] = len(lengths) - 1, int(lengths[-1]) - extra_token  # the stream's end, and rows to fill up
    order = plan.ids(range(shown))
    return np.arange(len(lengths), dtype=np.int32), _narrow(rows, np.int32), _narrow(order, np.uint32)


def _narrow(values: NDArray, dtype: type) -> NDArray:
    """Return integers in the type that Megatron uses while they fit into it, else as int64."""
    return values.astype(dtype if int(values.max()) < np.iinfo(dtype).max - 1 else np.int64)


def _lengths(export: str) -> NDArray[np.int32]:
    path = storage.join(export, f"{PREFIX}.idx")
    try:
        with storage.open_read(path) as file:
            header = read_index(file)
            file.seek(HEADER_BYTES)
            return np.frombuffer(file.read(4 * header.sequences), "<i4")
    except (OSError, ValueError) as error:
        raise WorkError(f"{path} cannot be read ({error}): export again") from None


def _description(cache: str, export: str) -> str:
    """Return the path of the description that Megatron wrote for the export."""
    prefix = os.path.realpath(os.path.join(storage.local_path(export), PREFIX))
    paths = sorted(glob.glob(os.path.join(glob.escape(cache), f"*{DESCRIPTION}")))
    found = [p for p in paths if os.path.realpath(str(_described(p).get("dataset_path"))) == prefix]
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(f"{cache} has {len(found)} indexes for {export}: use a cache folder for this run alone")
    raise RequestError(
        f"{cache} has no training index for {prefix}: let Megatron make it first, with the arguments of the run "
        "(--data-path, --data-cache-path, --split 100,0,0, --train-samples); it may be stopped after that"
    )


def _described(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _check(made_for: dict[str, Any], plan: Repetition) -> None:
    if made_for.get("sequence_length") != plan.seq_len:
        raise RequestError(
            f"Megatron's index is for sequences of {made_for.get('sequence_length')} tokens, the samples have "
            f"{plan.seq_len}: run it with --seq-length {plan.seq_len}"
        )
    asked = made_for.get("num_samples") or plan.samples  # none: of one pass
    if asked > plan.positions:
        raise RequestError(
            f"Megatron asks for {asked} samples, the plan has {plan.positions:,}: run it with --train-samples "
            f"{plan.positions} or fewer"
        )
    matrix = made_for.get("split_matrix")
    if matrix and list(matrix[0] or []) != [0, 1.0]:
        raise RequestError("Megatron's training split is only part of the data: run it with --split 100,0,0")
