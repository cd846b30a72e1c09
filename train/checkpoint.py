"""Models on disk without Composer: `model.safetensors`, `config.json` and `tokenizer.json` in one folder.

config.json holds the shape, the objective, the tokenizer's ids and what the model was trained on; nothing else is
needed to evaluate it. hashes.json vouches for both and is asked whenever one is read. Neither kind of file holds code.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from ..common import storage
from ..common.cli import say
from ..common.errors import RequestError, WorkError, one_line
from ..common.hashing import digest
from ..common.json_text import strict_json
from ..common.publish import FileInfo
from ..shards.tokenizer_file import TOKENIZER_NAME
from .model.transformer import ModelConfig, Transformer, config_dict
from .saved import hashes

FORMAT_VERSION = 1
"""Raised when a reader of the old version would misread what the new one writes."""

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class ModelCard:
    """What config.json says.

    Attributes:
        shape: of the transformer.
        objective: name and settings.
        kind: `nll` or `nelbo`, what the model's loss is; `dual` of a model of both types, which has both.
        tokenizer: the manifest's record (name, fingerprint, vocab_size, eod, pad, mask).
        seq_len: it was trained on.
        training: plan, seed, steps, tokens and validation loss with its kind at the time of saving.
    """

    shape: ModelConfig
    objective: dict[str, Any]
    kind: str
    tokenizer: dict[str, Any]
    seq_len: int
    training: dict[str, Any]

    def to_json(self) -> str:
        """Return the text of config.json."""
        body = {
            "format": "epochal-model",
            "format_version": FORMAT_VERSION,
            "model": config_dict(self.shape),
            "objective": self.objective,
            "kind": self.kind,
            "tokenizer": self.tokenizer,
            "seq_len": self.seq_len,
            "training": self.training,
        }
        return json.dumps(body, indent=2) + "\n"


def save_model(folder: str, weights: dict[str, Tensor], card: ModelCard, tokenizer: bytes | None = None) -> None:
    """Write a model to `folder`, replacing one that is there; each file appears whole or not at all.

    Args:
        weights: state dict of a `Transformer`.
        tokenizer: the tokenizer.json of the model's ids.

    Raises:
        WorkError: when the disk is full.
    """
    os.makedirs(folder, exist_ok=True)
    target, partial = os.path.join(folder, WEIGHTS_NAME), os.path.join(folder, f".{WEIGHTS_NAME}.partial")
    text = card.to_json().encode()
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, partial)
        files = {CONFIG_NAME: FileInfo.of(text), WEIGHTS_NAME: FileInfo.at(partial)}
        storage.remove(os.path.join(folder, hashes.HASHES_NAME))  # a kill between the files leaves none that is wrong
        os.replace(partial, target)
        if tokenizer is not None:
            files[TOKENIZER_NAME] = FileInfo.of(tokenizer)
            storage.write_atomic(os.path.join(folder, TOKENIZER_NAME), tokenizer)
        storage.write_atomic(os.path.join(folder, CONFIG_NAME), text)
        hashes.write(folder, files)
    except (OSError, SafetensorError) as error:
        raise WorkError(f"cannot write the model to {folder}: {error}") from None
    finally:
        Path(partial).unlink(missing_ok=True)


def load_card(folder: str) -> ModelCard:
    """Return what config.json in `folder` (local or URL) says.

    Raises:
        RequestError: when it is not a model of ours.
        WorkError: when it is damaged.
    """
    path = storage.join(folder, CONFIG_NAME)
    try:
        data = storage.read_bytes(path, hashes.wrong(folder, CONFIG_NAME))
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"{folder} holds no model: there is no {CONFIG_NAME}") from None
    try:
        body = strict_json(data)
    except (ValueError, RecursionError) as error:
        raise WorkError(f"{path} is damaged: {error}") from None
    if not isinstance(body, dict) or body.get("format") != "epochal-model":
        raise RequestError(f"{path} is not a model of epochal")
    if body.get("format_version") != FORMAT_VERSION:
        raise RequestError(f"{path} is of format {body.get('format_version')}, this epochal reads {FORMAT_VERSION}")
    hashes.check(folder, CONFIG_NAME, FileInfo.of(data))
    try:
        keys = ("objective", "kind", "tokenizer", "seq_len", "training")
        return ModelCard(shape=ModelConfig(**body["model"]), **{k: body[k] for k in keys})
    except (KeyError, TypeError, ValueError) as error:
        raise WorkError(f"{path} is damaged: {error}") from None


def load_model(
    folder: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Transformer, ModelCard]:
    """Return the model in `folder` (local or URL), in evaluation mode, and its card; RequestError, WorkError."""
    card = load_card(folder)
    path = storage.join(folder, WEIGHTS_NAME)
    with torch.device("meta"):
        model = Transformer(card.shape)
    try:
        data = storage.read_bytes(path, hashes.wrong(folder, WEIGHTS_NAME))  # safetensors would map the file
        if not hashes.check(folder, WEIGHTS_NAME, FileInfo.of(data)):
            hashes.say_unchecked(path)
        model.load_state_dict({name: tensor.to(device) for name, tensor in load(data).items()}, assign=True)
        del data
    except FileNotFoundError:
        raise RequestError(f"{folder} holds no model: there is no {WEIGHTS_NAME}") from None
    except (SafetensorError, RuntimeError) as error:
        raise WorkError(f"{path} is damaged or does not fit {CONFIG_NAME}: {one_line(error)}") from None
    return _in_dtype(model, dtype).eval(), card


def _in_dtype(model: Transformer, dtype: torch.dtype) -> Transformer:
    """Return `model` with the weights of its products in `dtype`, and of its norms in float32 at least: what it then
    computes in bfloat16 is, to the bit, what training computes under autocast."""
    model.to(dtype=torch.promote_types(dtype, torch.float32))
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.to(dtype=dtype)
    return model


@dataclass(frozen=True)
class Checkpoint:
    """A model to evaluate.

    Attributes:
        name: for people.
        fingerprint: of weights and shape.
        folder: where it lies, local or URL.
    """

    name: str
    model: Transformer
    card: ModelCard
    fingerprint: str
    folder: str


def open_checkpoint(path: str, device: str, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Return the exported model at `path` (folder or URL), or at `path/final` of a run; RequestError, WorkError."""
    folder = model_folder(path)
    model, card = load_model(folder, check_device(device), dtype)
    name = os.path.basename(os.path.abspath(path))
    if name in ("final", "best"):
        name = f"{os.path.basename(os.path.dirname(os.path.abspath(path)))}/{name}"
    return Checkpoint(name, model, card, model_fingerprint(folder, card), folder)


CAUSAL = {"ar": True, "mdm": False}
"""The types of model, and whether each is causal."""


def as_type(model: Transformer, name: str) -> Transformer:
    """Return a transformer of the type `name` that holds the very weights of `model`, for use without gradients."""
    with torch.device("meta"):
        other = Transformer(replace(model.config, causal=CAUSAL[name]))
    other.load_state_dict(model.state_dict(), assign=True)
    return other.train(model.training)


def types_of(checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """Return the models that one of both types is, by type, each named for it; a model of one type under an empty name.

    They have one fingerprint: the weights are the same.
    """
    if checkpoint.card.objective.get("name") != "dual":
        return {"": checkpoint}
    return {
        name: replace(checkpoint, name=f"{checkpoint.name} as {name.upper()}", model=as_type(checkpoint.model, name))
        for name in CAUSAL
    }


def model_folder(path: str) -> str:
    """Return `path/final` where `path` is the folder of a run that has ended, else `path`."""
    inner = storage.join(path, "final")
    return inner if storage.exists(storage.join(inner, WEIGHTS_NAME)) else path


def check_device(device: str) -> str:
    """Return `device`, or what `auto` means here: a GPU of CUDA where there is one, else the CPU.

    Raises:
        RequestError: when this machine has no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"--device {device}: {one_line(error, 120)}") from None
    return device


def chosen_place(device: str, dtype: str = "auto") -> tuple[str, torch.dtype]:
    """Return the device and the type of products that a user asked for; say what was chosen where it is a GPU.

    Args:
        device: as for `check_device`.
        dtype: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU of CUDA, float32 elsewhere.

    Raises:
        RequestError: when this machine has no such device.
    """
    found = check_device(device)
    name = dtype
    if dtype == "auto":
        name = "bfloat16" if torch.device(found).type == "cuda" else "float32"
    if device == "auto" and found != "cpu":
        say(f"computing on {found}, in {name}; --device and --dtype choose another")
    return found, {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def model_fingerprint(folder: str, card: ModelCard) -> str:
    """Return a digest of the weights' bytes, the shape and the ids: equal for equal scores."""
    state, path = xxhash.xxh3_128(), storage.join(folder, WEIGHTS_NAME)
    if storage.is_url(folder):  # which may send something else each time
        data = storage.read_bytes(path, hashes.wrong(folder, WEIGHTS_NAME))
        hashes.check(folder, WEIGHTS_NAME, FileInfo.of(data))
        state.update(data)
    else:
        with storage.open_read(path) as f:
            while block := f.read(1 << 24):
                state.update(block)
    return digest([state.hexdigest(), config_dict(card.shape), card.tokenizer, card.seq_len])
