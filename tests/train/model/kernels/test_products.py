"""Products in float8, multiplied in float32 here: as good as they can be, and nothing else of a run is touched."""

import importlib.machinery
from pathlib import Path
from typing import Any

import pytest
import torch

from epochal.common.errors import RequestError
from epochal.tests.support.training import LENGTH, ROWS, interrupt, losses, micro_batches, step
from epochal.train import run as runs
from epochal.train.checkpoint import load_model
from epochal.train.config import TrainConfig
from epochal.train.model.compiled import compile_model, meet_pad
from epochal.train.model.composer import LanguageModel, build
from epochal.train.model.kernels import products
from epochal.train.model.transformer import ModelConfig
from epochal.train.run_state import device
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out
HERE = torch.device("cuda", 0)


def shape(causal: bool, **keys: Any) -> ModelConfig:
    return ModelConfig(70, layers=3, hidden=32, heads=2, ffn=48, causal=causal, qk_norm=True, **keys)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao", reason="the package torchao is missing (extra 'fp8')")
    monkeypatch.setattr(products, "EMULATED", True)


def models(causal: bool, *precisions: str, **keys: Any) -> list[LanguageModel]:
    found = [build(shape(causal, **keys), "loss", 0) for _ in precisions]
    for model, precision in zip(found, precisions, strict=True):
        products.arrange(model.transformer, precision, parallel=False, ranks=1)
    return found


def norm(of: Any) -> float:
    return float(torch.cat([x.flatten() for x in of]).norm())


@pytest.mark.slow
@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("causal", [True, False])
def test_losses_and_gradients_are_near_those_of_bfloat16(causal: bool) -> None:
    narrow, low = models(causal, "amp_bf16", "amp_fp8", tied_embeddings=False)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        for batch in micro_batches(causal, 4):
            assert step(low, batch) == pytest.approx(step(narrow, batch), rel=1e-3)
    pairs = list(zip(low.named_parameters(), narrow.parameters(), strict=True))
    for (name, weight), other in pairs:
        assert weight.grad.dtype == weight.dtype == torch.float32
        assert weight.grad.isfinite().all()
        missed = norm([weight.grad - other.grad]) / norm([other.grad])
        assert missed < 0.3, name
        assert missed > 0, name
    whole = norm(w.grad - o.grad for (_, w), o in pairs) / norm(o.grad for _, o in pairs)
    assert 0.005 < whole < 0.1  # e5m2 keeps 2 bits of a gradient, but for the head's, which is not narrowed to it


@pytest.mark.slow
@pytest.mark.usefixtures("emulated")
def test_products_of_blocks_alone_are_in_float8_and_all_weights_keep_their_names() -> None:
    from torchao.float8.float8_linear import Float8Linear

    narrow, low = models(True, "amp_bf16", "amp_fp8", tied_embeddings=False)
    converted = {name for name, part in low.transformer.named_modules() if isinstance(part, Float8Linear)}
    parts = ("attention.qkv", "attention.out", "mlp.gate_up", "mlp.down")
    assert converted == {f"blocks.{layer}.{part}" for layer in range(3) for part in parts}
    assert type(low.transformer.head) is torch.nn.Linear
    mine, theirs = low.state_dict(), narrow.state_dict()
    assert list(mine) == list(theirs)
    assert all(type(mine[name]) is torch.Tensor and torch.equal(mine[name], theirs[name]) for name in mine)
    low.load_state_dict({name: value + 1 for name, value in theirs.items()})
    narrow.load_state_dict(low.state_dict())


@pytest.mark.slow
@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("causal", [True, False])
def test_no_graph_breaks_and_none_is_compiled_again(graphs: list[int], causal: bool) -> None:
    compiled, plain = models(causal, "amp_fp8", "amp_fp8")
    compile_model(compiled.transformer, {"backend": "counted"})
    found = []
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        if not causal:
            meet_pad(shape(causal), {"backend": "counted"}, ROWS, LENGTH, torch.device("cpu"), float8=True)
        for batch in micro_batches(causal, 6):
            assert step(compiled, batch) == step(plain, batch)
            found.append(len(graphs))
    assert found == [3 if causal else 4] * 6  # a block, the last norm and the loss; the block with a mask
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.fixture
def as_on_a_gpu(emulated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run have the precision on a CPU, in float32 but for the products."""
    monkeypatch.setattr(runs, "device_of", lambda config: "cpu")
    monkeypatch.setattr(products, "why_not", lambda *_: None)
    monkeypatch.setattr(products, "autocast", lambda precision: "fp32")


@pytest.mark.slow
@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("objective", ["ar", "mdm"])
def test_a_run_trains_stops_goes_on_and_leaves_a_model_as_any_other(run_config, tmp_path: Path, objective: str) -> None:
    def config(name: str, precision: str, **keys: Any) -> TrainConfig:
        folder = {"save_folder": str(tmp_path / name), "save_interval": "4ba", "max_duration": "1152"}
        return run_config(objective, precision=precision, **folder, **keys)

    results = {p: train(config(p, p)) for p in ("amp_bf16", "amp_fp8")}
    low, narrow = losses(tmp_path / "amp_fp8"), losses(tmp_path / "amp_bf16")
    assert low != narrow
    assert low == pytest.approx(narrow, rel=0.02)
    assert results["amp_fp8"]["receipt"] == results["amp_bf16"]["receipt"]
    interrupt(config("stopped", "amp_fp8"), 6)
    with pytest.raises(RequestError, match="precision is amp_fp8 there and amp_bf16 here"):
        train(config("stopped", "amp_bf16", autoresume=True))
    train(config("stopped", "amp_fp8", autoresume=True))
    of = [load_model(str(tmp_path / name / "final"))[0].state_dict() for name in ("stopped", "amp_fp8", "amp_bf16")]
    assert all(torch.equal(value, of[1][name]) for name, value in of[0].items())
    assert list(of[0]) == list(of[2])


@pytest.mark.parametrize(
    ("installed", "capability", "keys", "said"),
    [
        (False, (9, 0), {}, "needs torchao: pip install 'epochal[fp8]'"),
        (True, (8, 0), {}, "needs a GPU of compute capability 8.9 or more, this one has 8.0: use precision=amp_bf16"),
        (True, (9, 0), {"hidden": 40}, "needs model.hidden (40) to be a multiple of 16: use precision=amp_bf16"),
        (True, (9, 0), {"kv_heads": 1, "heads": 4}, "needs kv_heads * head_size (8) to be a multiple of 16"),
        (True, (8, 9), {}, None),
    ],
)
def test_what_a_machine_or_a_model_cannot_have_is_said(
    monkeypatch: pytest.MonkeyPatch, installed: bool, capability: tuple[int, int], keys: dict, said: str | None
) -> None:
    spec = importlib.machinery.ModuleSpec("torchao", None) if installed else None
    monkeypatch.setattr(products, "find_spec", lambda name: spec)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    of = ModelConfig(70, **({"layers": 1, "hidden": 32, "heads": 2, "ffn": 48, "causal": True} | keys))
    found = products.why_not(of, 64, HERE)
    assert found is None if said is None else str(found).startswith(said)


def test_rows_that_are_read_count_whole_ones_of_block_diffusion(run_config, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(products, "why_not", lambda shape, length, at: asked.append(length) or "is not here")
    config = run_config("ar").model_copy(update={"precision": "amp_fp8"})
    of = {"layers": 1, "hidden": 32, "heads": 2, "ffn": 48}
    for block in (None, 5, 16):
        with pytest.raises(RequestError, match=r"^precision amp_fp8 is not here$"):
            device.check_kernels(config, ModelConfig(70, causal=block is None, block_size=block, **of), 16, "cpu")
    assert asked == [16, 31, 16]  # the last block of 16 tokens in fives is of one


def test_a_cpu_has_none(run_config) -> None:
    with pytest.raises(RequestError, match=r"^precision amp_fp8 needs a GPU: use precision=fp32 on a CPU$"):
        train(run_config(precision="amp_fp8"))
