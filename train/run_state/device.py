"""Where a run computes, and whether it can compute there what it asks for."""

import torch
from composer.utils import dist
from packaging.version import Version

from ...common import storage
from ...common.errors import RequestError
from ..config import TrainConfig
from ..model.kernels import attention, products
from ..model.transformer import ModelConfig
from ..settings.objective import BlockSection, DualSection


def device_of(config: TrainConfig) -> str:
    """Return `cpu` or `gpu`, as Composer names them.

    Raises:
        RequestError: where a key asks for what is not there.
    """
    device = config.device or ("gpu" if torch.cuda.is_available() else "cpu")
    if device == "gpu" and not torch.cuda.is_available():
        raise RequestError("device is gpu, but torch sees no GPU here: use device=cpu precision=fp32")
    if device == "cpu" and config.precision not in (None, "fp32"):
        raise RequestError(f"precision {config.precision} needs a GPU: use precision=fp32 on a CPU")
    if device == "cpu" and config.parallelism_config is not None:
        raise RequestError("parallelism_config (FSDP) needs GPUs: use parallelism_config=null on a CPU")
    _check_auto(config, device)
    fsdp = config.parallelism_config and config.parallelism_config.fsdp
    if fsdp and fsdp.state_dict_type == "sharded" and storage.is_url(config.save_folder or ""):
        raise RequestError("a save_folder at a URL needs whole checkpoints, not sharded ones")
    return device


def _check_auto(config: TrainConfig, device: str) -> None:
    if config.device_train_microbatch_size != "auto" or device == "cpu" or config.parallelism_config is None:
        return
    if Version(torch.__version__) >= Version("2.7.1"):  # Composer 0.32.1 patches torch for older versions only
        raise RequestError(
            f"device_train_microbatch_size auto does not work with parallelism_config on torch {torch.__version__}: "
            "give an integer"
        )


def check_kernels(config: TrainConfig, shape: ModelConfig, seq_len: int, device: str) -> None:
    """Raise RequestError where this machine cannot compute the model by the kernels that `config` asks for."""
    here = torch.device("cuda", dist.get_local_rank()) if device == "gpu" else torch.device("cpu")
    length = seq_len
    if shape.block_size is not None:  # the clean text is read too, but for its last block
        length += seq_len - (seq_len % shape.block_size or shape.block_size)
    if config.precision == products.FLOAT8 and (reason := products.why_not(shape, length, here)):
        raise RequestError(f"precision {config.precision} {reason}")
    if config.attention_backend:
        _check_attention(config, shape, length, here)


def _check_attention(config: TrainConfig, shape: ModelConfig, length: int, device: torch.device) -> None:
    masked = isinstance(config.objective, DualSection | BlockSection)
    wide = device.type == "cpu" or config.precision == "fp32"
    of = shape, length, masked, device, torch.float32 if wide else torch.bfloat16
    reason = attention.why_not(str(config.attention_backend), *of)
    if reason:
        here = f"with torch {torch.__version__} on this {'CPU' if device.type == 'cpu' else 'GPU'}"
        raise RequestError(
            f"attention_backend {config.attention_backend} does not work for this run {here}: {reason}; leave it out, "
            f"or take {' or '.join(attention.available(*of))}"
        )
