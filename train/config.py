"""The configuration of a training run: typed, in llm-foundry's YAML shape, unknown keys refused.

Its sections are in `settings/`.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ..common.config import Configuration, file_or_shipped, load_yaml, shipped, validate
from ..common.errors import RequestError
from ..common.storage import is_url
from .model.presets import YAMLS, model_section, preset_file
from .settings.data import EvalLoaderSection, EvalTasksSection, TrainLoaderSection
from .settings.model import ModelSection
from .settings.objective import ARSection, BlockSection, DualSection, MDMSection, ObjectiveSection
from .settings.optimization import (
    AlgorithmsSection,
    ConstantSection,
    CosineSection,
    CyclesSection,
    OptimizerSection,
    WSDSection,
)
from .settings.system import ParallelismSection, ServiceSection
from .settings.types import Interval, Positive, Span


class TrainConfig(Configuration):
    """A whole run. Spans (`Span`) are written 96B (tokens), 480ep (passes over the data), 1000ba (steps), 0.1dur.

    Attributes:
        variables: free values for interpolation.
        max_duration: tokens or passes; left out for a mixture that has a length of its own.
        global_train_batch_size: samples per step over all ranks.
        device_train_microbatch_size: samples whose activations are held at once on a rank; `auto` finds the largest
            that fits (GPU only).
        eval_interval: spans between checkpoints, evaluations.
        save_interval: spans between checkpoints, evaluations.
        precision: amp_bf16 on a GPU, fp32 on a CPU when not given; amp_fp8 also has products of the blocks in float8.
        attention_backend: the kernel that computes attention, where it can; left to torch when not given.
        compile_config: keywords of torch.compile, which is given one block at a time; nothing is compiled without it.
        activation_checkpointing: compute once more in the backward pass, instead of keeping, what norms return in each
            block (`norms`), the products of gate and up (`products`), or everything in it (`blocks`).
        init_from: folder of a saved model (as `runs/a/final`) whose weights the run starts with; the rest starts anew.
    """

    MEANT: ClassVar[dict[str, str]] = {
        "epochs": "max_duration=4ep",
        "passes": "max_duration=4ep",
        "steps": "max_duration=1000ba",
        "tokens": "max_duration=1B",
        "batch_size": "global_train_batch_size=64 (samples)",
        "learning_rate": "optimizer.lr=1e-3",
        "data": "train_loader.dataset.path=SUBSET",
        "path": "train_loader.dataset.path=SUBSET",
        "out": "save_folder=DIR",
    }
    """Keys that other tools have, and what they are here."""

    run_name: str | None = None
    seed: int = Field(17, ge=0, lt=2**32 - 1)
    variables: dict[str, Any] = {}
    max_seq_len: Positive | None = None
    model: ModelSection
    objective: ObjectiveSection
    train_loader: TrainLoaderSection
    eval_loader: EvalLoaderSection | None = None
    eval_tasks: EvalTasksSection | None = None
    optimizer: OptimizerSection
    scheduler: Annotated[WSDSection | CosineSection | CyclesSection | ConstantSection, Field(discriminator="name")]
    algorithms: AlgorithmsSection = AlgorithmsSection()
    max_duration: Span = ""
    global_train_batch_size: Positive
    device_train_microbatch_size: Positive | Literal["auto"] = "auto"
    device_eval_batch_size: Positive = 8
    eval_interval: Interval = "0.1dur"
    precision: Literal["fp32", "amp_bf16", "amp_fp8"] | None = None
    device: Literal["cpu", "gpu"] | None = None
    parallelism_config: ParallelismSection | None = None
    attention_backend: Literal["flash", "flash3", "cudnn", "efficient", "math"] | None = None
    compile_config: dict[str, Any] | None = None
    activation_checkpointing: Literal["norms", "products", "blocks"] | None = None
    callbacks: dict[str, dict[str, Any] | None] = {}
    loggers: dict[str, dict[str, Any] | None] = {}
    save_folder: str | None = None
    save_interval: Interval = "0.1dur"
    save_num_checkpoints_to_keep: int = Field(2, ge=-1)
    autoresume: bool = False
    load_path: str | None = None
    init_from: str | None = None
    service: ServiceSection | None = None
    deterministic: bool = False
    progress_bar: bool = True
    log_to_console: bool = False
    console_log_interval: Interval = "10ba"
    python_log_level: str | None = None
    dist_timeout: float = Field(600.0, gt=0)

    @field_validator("service", mode="before")
    @classmethod
    def _address_alone(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @field_validator("save_num_checkpoints_to_keep")
    @classmethod
    def _keeps_one(cls, value: int) -> int:
        if value == 0:
            raise ValueError("keep at least one checkpoint (-1 keeps all)")
        return value

    @model_validator(mode="after")
    def _has_a_length(self) -> "TrainConfig":
        mixture = self.train_loader.dataset.mixture
        if not self.max_duration and not (mixture and mixture.has_length):
            raise ValueError("'max_duration' must be given")
        if self.max_duration and mixture and mixture.has_length:
            raise ValueError("the mixture says how much is read of its sources: leave max_duration out")
        return self

    @model_validator(mode="after")
    def _can_take_weights(self) -> "TrainConfig":
        if self.init_from and self.model.init_device == "meta":
            raise ValueError("init_from needs model.init_device: cpu")
        return self

    @model_validator(mode="after")
    def _can_mask_documents(self) -> "TrainConfig":
        if not self.model.document_mask:
            return self
        if isinstance(self.objective, BlockSection):
            raise ValueError("objective block, whose blocks may lie in two documents, has no model.document_mask")
        ar = self.objective.ar if isinstance(self.objective, DualSection) else self.objective
        if isinstance(ar, ARSection) and ar.right_to_left:
            raise ValueError(
                "with model.document_mask only the first document of a sample would know that it is read from its "
                "end: leave right_to_left out"
            )
        return self

    @model_validator(mode="after")
    def _has_kernels(self) -> "TrainConfig":
        own = [key for key in ("document_mask", "dropout_attention") if getattr(self.model, key)]
        if self.attention_backend and own:
            raise ValueError(f"with model.{own[0]} attention has code of its own: leave attention_backend out")
        if self.precision != "amp_fp8":
            return self
        if self.parallelism_config:
            raise ValueError("precision amp_fp8 is not for parallelism_config: use amp_bf16 there")
        if self.eval_loader and self.eval_loader.exact:
            raise ValueError("eval_loader.exact is measured in float32, which no product is with precision amp_fp8")
        mdm = self.objective
        if isinstance(mdm, MDMSection) and mdm.random_length:
            raise ValueError("precision amp_fp8 has no rows of any length: leave objective.random_length out")
        return self

    @model_validator(mode="after")
    def _can_recompute(self) -> "TrainConfig":
        if self.activation_checkpointing == "blocks" and self.parallelism_config:
            raise ValueError(
                "with parallelism_config say parallelism_config.fsdp.activation_checkpointing: true, not "
                "activation_checkpointing: blocks"
            )
        return self

    @model_validator(mode="after")
    def _can_score(self) -> "TrainConfig":
        if self.eval_tasks and self.eval_loader is None:
            raise ValueError("eval_tasks are scored with every validation: give an eval_loader")
        exact = self.eval_loader and self.eval_loader.exact
        if (self.eval_tasks or exact) and self.parallelism_config:
            what = "eval_tasks need" if self.eval_tasks else "eval_loader.exact needs"
            raise ValueError(f"{what} the whole model on each rank: leave parallelism_config out")
        return self

    @model_validator(mode="after")
    def _has_whole_matrices(self) -> "TrainConfig":
        needs = {"optimizer.name: muon": self.optimizer.name == "muon", "algorithms.ema": self.algorithms.ema}
        for key, asked in (needs | {"algorithms.early_stop": self.algorithms.early_stop}).items():
            if asked and self.parallelism_config:
                raise ValueError(f"{key} needs the whole model on each rank: leave parallelism_config out")
        return self

    @model_validator(mode="after")
    def _can_stop_early(self) -> "TrainConfig":
        if self.algorithms.early_stop is None:
            return self
        lacking = [
            k for k, v in {"an eval_loader": self.eval_loader, "a save_folder": self.save_folder}.items() if not v
        ]
        if lacking:
            raise ValueError(f"algorithms.early_stop goes back to the best point: give {lacking[0]}")
        if is_url(self.save_folder or ""):
            raise ValueError("algorithms.early_stop needs a save_folder on this machine, not at a URL")
        if self.load_path:
            raise ValueError("algorithms.early_stop goes back to a checkpoint of its own folder: leave load_path out")
        data = self.train_loader.dataset
        if data.mixture or data.policy == "global":
            order = "a mixture" if data.mixture else "the policy global"
            raise ValueError(f"algorithms.early_stop needs an order that does not depend on its length, not {order}")
        if self.service:
            raise ValueError("algorithms.early_stop goes back to an earlier position, which a service's account cannot")
        return self

    @model_validator(mode="after")
    def _can_resume(self) -> "TrainConfig":
        if self.autoresume and not self.save_folder:
            raise ValueError("autoresume needs a save_folder to resume from")
        return self


def load_config(path: str, overrides: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """Return the run that the file at `path` (or a shipped one of that name) describes, `overrides` applied.

    Raises:
        RequestError: of one line for anything wrong.
    """
    if not Path(path).exists() and shipped(YAMLS, path) is None and (shape := preset_file(path)):
        raise RequestError(f"{path} is the shape of a model, not a run: train tiny-ar model.preset={shape.stem}, say")
    file = file_or_shipped(YAMLS, path)
    data = load_yaml(file, overrides, TrainConfig, path)
    if isinstance(data.get("model"), dict):
        data["model"] = model_section(data["model"], path)
    return validate(TrainConfig, data, path)
