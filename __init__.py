"""epochal: exact unique-token datasets, deterministic repetition, and the training that compares on them.

The names in `__all__` are the public ones; each is imported when it is first used, so `import epochal` costs nothing.
The examples below are one program, from text to a trained model. Every step is a command too (`epochal --help`).

`build` turns text into a pool, every unique token in canonical order, and a validation pool. Its first argument is a
YAML file, the name of a build that comes with the package, or a `datapipe.config.Build`; the second one holds the
settings to change, as on the command line:

    import epochal

    settings = ["sources.0.path=text", "sources.0.format=text", "name=mine", "seq_len=128", "validation_tokens=4k"]
    built = epochal.build("folder", settings, quiet=True)
    print(built.pool, built.validation)

`carve` cuts a subset of exactly so many unique tokens out of a pool, without copying them. The second draw
(`replicate=1`) shares no document with the first while the pool has enough:

    subset, _ = epochal.carve(built.pool, 20_000)
    other, _ = epochal.carve(built.pool, 10_000, replicate=1)

`verify` recomputes every hash and count of an artifact from its bytes and returns the problems, one line each:

    assert epochal.verify(subset) == []

`open_artifact` reads what an artifact is; no shard is opened:

    manifest = epochal.open_artifact(subset).manifest
    print(manifest.tokens, "tokens of", manifest.documents, "documents, tokenized with", manifest.tokenizer.name)

`export` writes a subset in a format that other trainers read (`wds`, `parquet`, `megatron`, `bin`, `hf`):

    folder, _ = epochal.export(subset, "parquet", "exported")

`Plan` is the order of a run that repeats one subset: which sample comes at which position, computed, never stored:

    plan = epochal.Plan.for_artifact(manifest, total_tokens=4 * manifest.tokens, seed=1)
    print(plan.positions, "positions; the first samples are", plan.ids(range(5)))

`Mixture` is the order of a run over several subsets, each repeated as often as it needs to be:

    from epochal.shards.order.mixing import Ingredient, by_tokens

    parts = [Ingredient("much", manifest), Ingredient("little", epochal.open_artifact(other).manifest)]
    mixture: epochal.Mixture = by_tokens([(parts[0], 40_000), (parts[1], 40_000)], window=16)
    print(mixture.positions, "positions over", mixture.samples, "samples")

`amend` leaves spans of positions out of a plan or mixture, which a run passes over; what comes after keeps its samples:

    amended = epochal.amend(plan, [[100, 140, "loss spike at step 12"]])
    print(amended.positions, "positions, the 100th reads sample", amended.ids([100])[0])

`RepeatedDataset` yields the samples of a plan or mixture, to any number of ranks and loader workers:

    dataset = epochal.RepeatedDataset(subset, plan, global_batch=8)
    batch = next(iter(dataset.loader()))
    print(batch["tokens"].shape, batch["position"], batch["sample_id"])

`train` trains an autoregressive or masked-diffusion model and returns what came of it. It takes a YAML file, the name
of a run that comes with the package, or a `train.config.TrainConfig`, and settings to change:

    data = [f"train_loader.dataset.path={subset}", f"eval_loader.dataset.path={built.validation}"]
    shape = ["model.layers=1", "model.hidden=16", "model.heads=2", "model.ffn=32", "max_duration=1ep"]
    result = epochal.train("tiny-ar", [*data, *shape, "save_folder=runs/mine", "progress_bar=false"])
    print(result["validation"], "receipt valid:", result["receipt"]["valid"])
"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .common.moved import answer_old_names

if TYPE_CHECKING:
    from .datapipe.build import BuildResult
    from .datapipe.config import Build
    from .shards.artifact import open_artifact
    from .shards.carve import carve
    from .shards.export import export
    from .shards.loader.dataset import RepeatedDataset
    from .shards.order.amendment.amend import amend
    from .shards.order.mixture import Mixture
    from .shards.order.plan import Plan
    from .shards.verify import verify
    from .train import train

__version__ = "0.2.0"

__all__ = [
    "Mixture",
    "Plan",
    "RepeatedDataset",
    "amend",
    "build",
    "carve",
    "export",
    "open_artifact",
    "train",
    "verify",
]

_HOMES = {
    "Mixture": "shards.order.mixture",
    "Plan": "shards.order.plan",
    "RepeatedDataset": "shards.loader.dataset",
    "amend": "shards.order.amendment.amend",
    "carve": "shards.carve",
    "export": "shards.export",
    "open_artifact": "shards.artifact",
    "verify": "shards.verify",
}
"""The modules that the public names are imported from; `train` is a subpackage that can be called."""


answer_old_names()


def build(config: "str | Build", overrides: Sequence[str] = (), quiet: bool = False) -> "BuildResult":
    """Build the pool and validation pool that `config` describes, or return them when they are there already.

    Args:
        config: a YAML file, the name of a shipped build (`folder`, `python`, ...) or a `Build`.
        overrides: `key=value` settings for a file or a shipped build.
        quiet: no progress on standard error.

    Raises:
        RequestError: for a wrong request.
        WorkError: when the work failed.
    """
    from .common.errors import RequestError
    from .datapipe.build import build as build_pools
    from .datapipe.config import load_build

    if isinstance(config, str):
        config = load_build(config, overrides)
    elif overrides:
        raise RequestError("overrides change a file or a shipped build: change the Build itself instead")
    return build_pools(config, quiet)


def __getattr__(name: str) -> Any:
    if name == "train":
        return importlib.import_module(".train", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'epochal' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
