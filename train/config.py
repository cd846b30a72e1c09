"""The configuration of a training run: typed, in llm-foundry's YAML shape, unknown keys refused."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..common.config import Configuration, Section, file_or_shipped, load_yaml, shipped, validate
from ..common.errors import RequestError
from ..shards.order.mixture_config import MixtureSettings
from .durations import with_unit
from .exact.settings import ExactSection
from .model.presets import YAMLS, model_section, preset_file
from .model.transformer import ModelConfig

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0, lt=2**63)]
Size = Annotated[int, Field(gt=0, le=2**20)]
"""Of a part of a model: beyond this nothing can hold it."""

Workers = Annotated[int, Field(ge=0, le=1024)]
Span = str | int
Interval = Annotated[str | int, BeforeValidator(with_unit)]
"""A span with its unit: of a bare number, one cannot know whether it counts steps or tokens."""


class ModelSection(Section):
    """Shape of the model; see `ModelConfig`.

    Attributes:
        preset: a shipped shape that the other keys change.
        vocab_size: taken from the data when not given, and refused when it is not the data's.
        init_device: `meta` builds large FSDP models without holding them whole in memory first.
    """

    preset: str | None = None
    vocab_size: Positive | None = None
    layers: Annotated[int, Field(gt=0, le=10_000)]
    hidden: Size
    heads: Size
    ffn: Size
    kv_heads: Size | None = None
    head_size: Size | None = None
    qk_norm: bool = False
    tied_embeddings: bool = True
    rope_base: float = Field(10000.0, gt=0)
    norm_eps: float = Field(1e-6, gt=0)
    init_std: float = Field(0.02, gt=0)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    init_device: Literal["cpu", "meta"] = "cpu"

    @model_validator(mode="after")
    def _shape_is_possible(self) -> "ModelSection":
        self.shape(causal=True, vocab_size=1)
        return self

    def shape(self, causal: bool, vocab_size: int) -> ModelConfig:
        """Return the model's shape for one of the two types."""
        keys = self.model_dump(exclude={"preset", "init_device", "vocab_size"})
        return ModelConfig(causal=causal, vocab_size=vocab_size, **keys)


class ARSection(Section):
    """Next-token prediction.

    Attributes:
        input_masking: share of input tokens replaced by MASK (the paper's ablation).
    """

    name: Literal["ar"]
    input_masking: float = Field(0.0, ge=0.0, le=0.9)


class MDMSection(Section):
    """Masked diffusion; see `MaskedDiffusion` for what the keys mean."""

    name: Literal["mdm"]
    weighting: Literal["inverse_t", "exact_count"] = "inverse_t"
    eps: float = Field(1e-3, gt=0.0, lt=1.0)
    sampling: Literal["uniform", "stratified"] = "stratified"
    random_length: Share = 0.0


class TrainDataSection(Section):
    """The subset to train on, and how it is repeated; or a mixture of several, each with a repetition of its own.

    Attributes:
        path: subset or pool, folder or URL.
        mixture: see `MixtureSettings`; instead of path, policy and seed.
        cache: folder for the downloads of a remote one.
        cache_limit: its bytes.
        verify: check shards against their hashes when first opened.
        policy: how passes are shuffled.
        seed: of the order; the run's seed when not given.
    """

    path: str = ""
    mixture: MixtureSettings | None = None
    cache: str | None = None
    cache_limit: Positive | None = None
    verify: bool = True
    policy: Literal["reshuffle", "fixed", "global", "sequential"] = "reshuffle"
    seed: int | None = None

    @model_validator(mode="after")
    def _one_subset_or_several(self) -> "TrainDataSection":
        if bool(self.path) == (self.mixture is not None):
            raise ValueError("give the path of a subset, or a mixture of several")
        if self.mixture is not None and not {"policy", "seed"}.isdisjoint(self.model_fields_set):
            raise ValueError("policy and seed of a mixture are those of each of its sources")
        return self

    @property
    def where(self) -> str:
        """Name the data in messages."""
        return self.path or "the mixture"


class TrainLoaderSection(Section):
    """The training data and its loader.

    Attributes:
        num_workers: loader processes per rank.
    """

    dataset: TrainDataSection
    num_workers: Workers = 0
    prefetch_factor: Positive | None = None
    pin_memory: bool | None = None


class EvalDataSection(Section):
    """The pool to validate on.

    Attributes:
        samples: how many of its first samples to use, all when not given.
    """

    path: str
    samples: Positive | None = None


class EvalLoaderSection(Section):
    """Validation.

    Attributes:
        noise_samples: of the masked-diffusion bound, the same noise at every evaluation.
        noise_seed: of the masked-diffusion bound, the same noise at every evaluation.
        exact: measure the exact likelihood under an order of writing too.
    """

    dataset: EvalDataSection
    num_workers: Workers = 0
    noise_samples: Positive = 4
    noise_seed: int = 0
    exact: ExactSection | None = None


class EvalTasksSection(Section):
    """Multiple choice, scored with every validation.

    `continuation` asks which of four pieces of the validation pool's text continues a context from it; it needs no
    benchmark and fits any tokenizer.

    Attributes:
        tasks: benchmarks as in `mmlu:5`, or `continuation`.
        data: folder of the benchmarks' files, the hub when not given.
        limit: items per task.
        noise_samples: of masked diffusion, per answer.
        normalize: what an answer's nats are divided by.
    """

    tasks: list[str] = Field(min_length=1)
    data: str | None = None
    limit: Positive = 256
    noise_samples: Positive = 8
    normalize: Literal["characters", "tokens", "none"] = "characters"


class OptimizerSection(Section):
    """AdamW; norms and embeddings are not decayed."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(gt=0, le=1e30)
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)


class WSDSection(Section):
    """Warm-up, stable, decay.

    Attributes:
        t_decay: span of the tail.
        alpha_f: last rate over peak rate.
    """

    name: Literal["wsd"]
    t_warmup: Interval = "0.01dur"
    t_decay: Interval = "0.1dur"
    alpha_f: float = Field(0.1, gt=0.0, le=1.0)
    decay: Literal["exponential", "linear"] = "exponential"


class CosineSection(Section):
    """Warm-up, then half a cosine down to alpha_f times the peak rate."""

    name: Literal["cosine_with_warmup"]
    t_warmup: Interval = "0.01dur"
    alpha_f: Share = 0.1


class ConstantSection(Section):
    """Warm-up, then constant."""

    name: Literal["constant_with_warmup"]
    t_warmup: Interval = "0.01dur"


class ClippingSection(Section):
    """Clip the gradient's norm, over all ranks."""

    clipping_type: Literal["norm"] = "norm"
    clipping_threshold: float = Field(default=1.0, gt=0)


class AlgorithmsSection(Section):
    """What is done to the gradient."""

    gradient_clipping: ClippingSection | None = ClippingSection()


class ParallelismSection(Section):
    """Composer's parallelism_config; without it a run of several ranks uses DDP."""

    fsdp: dict[str, Any] | None = None
    tp: dict[str, Any] | None = None


class ServiceSection(Section):
    """The repetition-control service that the run reports to; `service: URL` is short for `service: {url: URL}`.

    Attributes:
        parent: the run whose model this one continues, and at which of its positions (default: the last it reported).
        parent_position: see `parent`.
        interval: seconds between reports.
    """

    url: str
    parent: str | None = None
    parent_position: int | None = Field(None, ge=0)
    interval: float = Field(10.0, ge=0)


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
    objective: Annotated[ARSection | MDMSection, Field(discriminator="name")]
    train_loader: TrainLoaderSection
    eval_loader: EvalLoaderSection | None = None
    eval_tasks: EvalTasksSection | None = None
    optimizer: OptimizerSection
    scheduler: Annotated[WSDSection | CosineSection | ConstantSection, Field(discriminator="name")]
    algorithms: AlgorithmsSection = AlgorithmsSection()
    max_duration: Span = ""
    global_train_batch_size: Positive
    device_train_microbatch_size: Positive | Literal["auto"] = "auto"
    device_eval_batch_size: Positive = 8
    eval_interval: Interval = "0.1dur"
    precision: Literal["fp32", "amp_bf16"] | None = None
    device: Literal["cpu", "gpu"] | None = None
    parallelism_config: ParallelismSection | None = None
    compile_config: dict[str, Any] | None = None
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
    def _can_score(self) -> "TrainConfig":
        if self.eval_tasks and self.eval_loader is None:
            raise ValueError("eval_tasks are scored with every validation: give an eval_loader")
        exact = self.eval_loader and self.eval_loader.exact
        if (self.eval_tasks or exact) and self.parallelism_config:
            what = "eval_tasks need" if self.eval_tasks else "eval_loader.exact needs"
            raise ValueError(f"{what} the whole model on each rank: leave parallelism_config out")
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
