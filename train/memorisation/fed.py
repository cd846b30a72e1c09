"""What a run was fed, from its folder alone: its receipt and plan, its data, and how often each document came."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import RequestError
from ...common.json_text import parse_json
from ...shards.artifact import Artifact, open_artifact
from ...shards.loader.cache import default_cache, in_cache
from ...shards.loader.order_reader import check_not_packed
from ...shards.order.base import Order
from ..config import TrainConfig, load_config
from ..run_folder import CONFIG_NAME, RUN_NAME
from ..run_state.receipt import read_receipt
from .documents import Documents, documents_in

VALIDATION = "validation"


@dataclass(frozen=True)
class Source:
    """Documents that can be asked about.

    Attributes:
        name: of the component in a mixture, empty for a plan; `VALIDATION`.
        held_out: the validation pool, of which the run was fed nothing.
        exposures: how often the run was fed the part that each document is measured by, int64 (n,).
        repeated: documents that lie in the data more than once, so that their exposures are not those of one part.
    """

    name: str
    held_out: bool
    artifact: Artifact
    documents: Documents
    exposures: NDArray[np.int64]
    repeated: NDArray[np.bool_]


@dataclass(frozen=True)
class Fed:
    """What a run was fed.

    Attributes:
        order: plan or mixture.
        positions: how many of its first positions were trained on: all, by a receipt that was checked.
        sources: those of training first.
        init_from: the model that the run started with, whose own training is not counted; None: none.
    """

    order: Order
    positions: int
    digest: str
    sources: tuple[Source, ...]
    init_from: str | None


def read_run(folder: str, most_tokens: int, subsets: Sequence[str] = (), validation: str | None = None) -> Fed:
    """Return what the run in `folder` was fed.

    Args:
        most_tokens: of the part by which a document is measured.
        subsets: where the training data lies now: a path, or of a mixture NAME=PATH for each source that moved.
        validation: where the validation pool lies now.

    Raises:
        RequestError: when the folder is no finished run's, or its data is not found.
        WorkError: when receipt or data are damaged.
    """
    receipt = read_receipt(folder)
    config = load_config(os.path.join(folder, CONFIG_NAME))
    order, positions = receipt.plan, receipt.count
    check_not_packed(order, "no part of a document is always fed as a whole, to measure it by")
    artifacts = _training_data(order, config, subsets)
    counts = order.counts(positions)
    tables = [documents_in(artifact, most_tokens) for artifact in artifacts.values()]
    seen = [
        plan.exposures(count, documents.samples)
        for plan, count, documents in zip(order.components().values(), counts, tables, strict=True)
    ]
    held_out = _validation(folder, config, validation)
    if held_out is not None:
        artifacts = artifacts | {VALIDATION: held_out}
        tables.append(documents_in(held_out, most_tokens))
        seen.append(np.zeros(len(tables[-1]), np.int64))
    repeated = _repeated(tables)
    names = list(order.components())
    sources = [
        Source(name, i == len(names), artifact, tables[i], seen[i], repeated[i])
        for i, (name, artifact) in enumerate(artifacts.items())
    ]
    return Fed(order, positions, receipt.digest, tuple(sources), config.init_from)


def _training_data(order: Order, config: TrainConfig, subsets: Sequence[str]) -> dict[str, Artifact]:
    """Return the artifact of each component of `order`, by its name."""
    data, plans = config.train_loader.dataset, order.components()
    paths = {"": data.path} if data.mixture is None else {n: s.path for n, s in data.mixture.sources.items()}
    paths |= _moved(subsets, list(plans))
    found = {}
    for name, plan in plans.items():
        option = f"--subset {name}=PATH" if name else "--subset PATH"
        found[name] = _open(paths.get(name, ""), option, plan.subset)
    return found


def _moved(subsets: Sequence[str], names: Sequence[str]) -> Mapping[str, str]:
    """Return the paths that `--subset` gives, by the component's name."""
    if names == [""]:
        if len(subsets) > 1:
            raise RequestError("the run has one subset: give --subset once")
        return dict.fromkeys(names, subsets[0]) if subsets else {}
    pairs = dict(subset.partition("=")[::2] for subset in subsets)
    unknown = next((name for name in pairs if name not in names), None)
    if unknown is not None:
        raise RequestError(f"--subset {unknown}: the run is of a mixture of {', '.join(names)}: write NAME=PATH")
    return pairs


def _open(path: str, option: str, fingerprint: str | None) -> Artifact:
    try:
        artifact = open_artifact(path)
    except RequestError as error:
        raise RequestError(f"{error} (if it was moved: {option})") from None
    if fingerprint not in (None, artifact.manifest.fingerprint):
        raise RequestError(f"{path} is not what the run used (fingerprint {fingerprint}): give {option}")
    return in_cache(artifact, default_cache())


def _validation(folder: str, config: TrainConfig, path: str | None) -> Artifact | None:
    """Return the run's validation pool, or for a run without one that at `path`, if any."""
    stated = config.eval_loader.dataset.path if config.eval_loader else None
    if not (path or stated):
        return None
    begun: Any = parse_json(storage.read_bytes(os.path.join(folder, RUN_NAME)), RUN_NAME)
    fingerprint = ((begun.get("eval_loader") or {}).get("dataset") or {}).get("fingerprint")
    return _open(path or stated or "", "--validation PATH", fingerprint)


def _repeated(tables: Sequence[Documents]) -> list[NDArray[np.bool_]]:
    """Return for each table which of its documents have a key that comes again, in it or in another."""
    _, back, counts = np.unique(
        np.concatenate([table.keys for table in tables]), return_inverse=True, return_counts=True
    )
    again = counts[back.ravel()] > 1
    return np.split(again, np.cumsum([len(table) for table in tables])[:-1])
