"""The kernel of attention that a run asks for: whether it computes, what else may, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import attention as torchs
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

from epochal.common.errors import RequestError
from epochal.tests.support.training import interrupt, losses
from epochal.train.model.kernels import attention
from epochal.train.model.transformer import ModelConfig
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out
FLASH, MATH = "_scaled_dot_product_flash_attention_for_cpu", "_safe_softmax"
CPU = torch.device("cpu")


class Spy(TorchDispatchMode):
    """Notes which kernels of attention run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= {op.name().removeprefix("aten::")} & {FLASH, MATH}
        return op(*args, **(kwargs or {}))


def shape(**keys: Any) -> ModelConfig:
    return ModelConfig(70, **({"layers": 1, "hidden": 32, "heads": 4, "ffn": 48, "causal": False} | keys))


@pytest.fixture
def order() -> Iterator[list[Any]]:
    """Yield the kernels that torch may take now, and in which order, which must be so again at the end."""

    def now() -> list[Any]:
        return [set(torchs._cur_sdpa_kernel_backends()), torch._C._get_sdp_priority_order()]

    before = now()
    yield before
    assert now() == before


@pytest.mark.parametrize(("name", "kernel"), [(None, FLASH), ("flash", FLASH), ("math", MATH)])
def test_training_and_validation_run_the_kernel_that_was_asked_for(
    run_config, order: list[Any], name: str | None, kernel: str
) -> None:
    with Spy() as spy:
        train(run_config("mdm", max_duration="384", attention_backend=name))
    assert spy.seen == {kernel}


def test_the_others_are_tried_after_it(order: list[Any]) -> None:
    first = [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with attention.backend("cudnn"):
        assert set(torchs._cur_sdpa_kernel_backends()) == set(first)
        assert torch._C._get_sdp_priority_order()[:3] == [int(kernel) for kernel in first]


def test_a_run_that_fails_leaves_torch_as_it_was(run_config, order: list[Any]) -> None:
    with pytest.raises(RequestError, match="known callbacks"):
        train(run_config(attention_backend="math", callbacks={"lr_monito": None}))


def test_flash3_takes_the_place_of_flash_for_the_run_alone(monkeypatch: pytest.MonkeyPatch, order: list[Any]) -> None:
    done: list[str] = []
    monkeypatch.setattr(torchs, "activate_flash_attention_impl", done.append, raising=False)
    monkeypatch.setattr(torchs, "restore_flash_attention_impl", lambda: done.append("own"), raising=False)
    with attention.backend("flash3"):
        assert done == ["FA3"]
        assert SDPBackend.FLASH_ATTENTION in torchs._cur_sdpa_kernel_backends()
    assert done == ["FA3", "own"]
    assert attention.why_not("flash3", shape(), 16, False, CPU, torch.float32) is None  # torch's own computed here
    assert done == ["FA3", "own"] * 2


@pytest.mark.parametrize("masked", [False, True])
def test_a_cpu_has_two_and_flash_drops_no_weights(order: list[Any], masked: bool) -> None:
    assert attention.available(shape(), 16, masked, CPU, torch.float32) == ["flash", "math"]
    dropping = shape(dropout=0.1)
    assert attention.available(dropping, 16, masked, CPU, torch.float32) == ["math"]
    said = attention.why_not("flash", dropping, 16, masked, CPU, torch.float32)
    assert said == "Both fused kernels do not support non-zero dropout"


@pytest.mark.parametrize("name", ["cudnn", "efficient", "flash3"])
@pytest.mark.parametrize("objective", ["ar", "dual"])
def test_a_kernel_that_is_not_there_is_refused_in_one_line(run_config, name: str, objective: str) -> None:
    with pytest.raises(RequestError, match=rf"^attention_backend {name} does not work for .*on this CPU: ") as caught:
        train(run_config(objective, attention_backend=name))
    assert str(caught.value).endswith("; leave it out, or take flash or math")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_what_was_compiled_for_another_kernel_is_not_run(run_config, tmp_path: Path) -> None:
    found = []
    for number, kernel in enumerate([None, "math", None]):  # the kernel becomes a part of the graph
        keys = {"save_folder": str(tmp_path / str(number)), "compile_config": {"backend": "aot_eager"}}
        train(run_config("ar", max_duration="640", attention_backend=kernel, **keys))
        found.append(losses(keys["save_folder"]))
    left_to_torch, math, again = found
    assert again == left_to_torch
    assert math != left_to_torch
    assert math == pytest.approx(left_to_torch, rel=1e-4)


def test_a_run_may_go_on_with_another_kernel(run_config, tmp_path: Path) -> None:
    keys = {"save_folder": str(tmp_path / "run"), "save_interval": "2ba", "max_duration": "640"}
    interrupt(run_config("ar", **keys), 3)
    result = train(run_config("ar", **keys, autoresume=True, attention_backend="math"))
    assert result["receipt"]["valid"]
