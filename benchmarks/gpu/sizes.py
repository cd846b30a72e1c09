"""How large everything is: on a GPU, and in a dry run on a CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Sizes of all stages.

    Attributes:
        gpu: whether a GPU computes.
        matmul: sides of the square matrices that are multiplied.
        copied: bytes of the tensor that is copied.
        checked: training keys of the model whose gradients are compared and that is killed and resumed, and `shape`.
        models: training keys by model, in place of those of `benchmarks.train`.
        steps: of a timed run, the first few not timed.
        profiled: steps in the profile.
        arms: keys of kernels with their values, each measured alone.
        compiled: keywords of torch.compile.
        base: configuration of `epochal train` that the crossover's runs share.
        crossover: training keys of its runs.
        functions: that its pool is made of, the first of the standard library; None for all.
        unique_tokens: of its data.
        ar_passes: of its autoregressive runs, each with its own decay.
        most_passes: of its masked-diffusion run, if time allows.
        items: of multiple choice that are scored.
        draws: noise samples of masked diffusion.
        scored: presets that score them.
    """

    gpu: bool
    matmul: tuple[int, ...]
    copied: int
    checked: dict[str, Any]
    models: dict[str, dict[str, Any]]
    steps: int
    profiled: int
    arms: tuple[tuple[str, str], ...]
    compiled: dict[str, Any]
    base: str
    crossover: dict[str, Any]
    functions: int | None
    unique_tokens: int
    ar_passes: tuple[int, ...]
    most_passes: int
    items: int
    draws: int
    batch_tokens: int
    scored: tuple[str, ...]
    vocab: int = 50269


@dataclass(frozen=True)
class Place:
    """Where a case works, and how long it may.

    Attributes:
        folder: new and empty, thrown away afterwards.
        kept: the stage's own, the same in a later try.
        seconds: that are left.
    """

    folder: Path
    kept: Path
    seconds: float


FULL = Sizes(
    gpu=True,
    matmul=(4096, 8192, 16384),
    copied=4 * 2**30,
    checked={
        "model": {"layers": 6, "hidden": 512, "heads": 8, "ffn": 1408, "qk_norm": True},
        "shape": (1024, 8003),
        "global_train_batch_size": 8,
        "device_train_microbatch_size": 4,
    },
    models={"125m": {}, "paper-1b": {}},
    steps=14,
    profiled=3,
    arms=(
        ("attention_backend", "cudnn"),
        ("precision", "amp_fp8"),
        ("attention_backend", "flash3"),
        ("attention_backend", "flash"),
    ),
    compiled={},
    base="125m-ar",
    crossover={
        "max_seq_len": 256,
        "model": {"preset": "30m"},
        "optimizer.lr": 1.5e-3,
        "global_train_batch_size": 64,
        "device_train_microbatch_size": 64,
        "device_eval_batch_size": 64,
        "compile_config": None,  # compiling short runs costs more than it saves
        "eval_interval": "0.05dur",
        "save_interval": "0.25dur",
        "save_num_checkpoints_to_keep": 1,
        "eval_loader": {"dataset": {"samples": 234}, "noise_samples": 4},
    },
    functions=None,
    unique_tokens=1_000_000,
    ar_passes=(4, 8, 16),
    most_passes=500,
    items=512,
    draws=128,
    batch_tokens=65536,
    scored=("125m", "paper-1b"),
)
"""For one H100 or H200."""

TOY = Sizes(
    gpu=False,
    matmul=(128,),
    copied=2**22,
    checked={
        "model": {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48, "qk_norm": True},
        "shape": (32, 103),
        "global_train_batch_size": 4,
        "device_train_microbatch_size": 2,
    },
    models={"tiny": {"shape": (32, 103), "global_train_batch_size": 4, "device_train_microbatch_size": 2}},
    steps=8,
    profiled=1,
    arms=(("attention_backend", "math"), ("attention_backend", "cudnn"), ("precision", "amp_fp8")),
    compiled={"backend": "eager"},  # traced, and no compiler needed
    base="tiny-ar",
    crossover={
        "model": {"layers": 1, "hidden": 32, "heads": 2, "ffn": 48},
        "global_train_batch_size": 8,
        "device_train_microbatch_size": 8,
        "device_eval_batch_size": 16,
        "eval_interval": "0.5dur",
        "save_interval": "0.5dur",
        "save_num_checkpoints_to_keep": 1,
        "eval_loader": {"dataset": {"samples": 8}, "noise_samples": 2},
    },
    functions=1000,
    unique_tokens=8192,
    ar_passes=(1, 2),
    most_passes=3,
    items=8,
    draws=4,
    batch_tokens=1024,
    scored=("tiny",),
    vocab=1027,
)
"""For a CPU: every stage, no figure that means anything."""
