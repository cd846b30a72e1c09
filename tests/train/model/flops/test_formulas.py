"""FLOPs: the paper's ratios, and the formulas against what torch executes."""

import pytest
import torch

from epochal.train.model.flops.formulas import (
    LENGTHS,
    autoregressive,
    masked_diffusion,
    masked_diffusion_cached,
    matrix_parameters,
    ratio,
    report,
    training,
    training_flops_per_token,
)
from epochal.train.model.flops.measured import measure
from epochal.train.model.presets import model_section
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.settings.model import ModelSection

GPT2 = 50259


def preset(name: str, causal: bool = True) -> ModelConfig:
    return ModelSection.model_validate(model_section({"preset": name}, "test")).shape(causal, GPT2)


def test_the_papers_ratios() -> None:
    paper = dict(zip(LENGTHS, (16.0, 64.2, 259, 1067, 2213, 4708), strict=True))
    config = preset("paper-1b")
    for n, expected in paper.items():
        assert ratio(config, n) == pytest.approx(expected, rel=0.01)
        assert report(config, 2048)["inference_ratio"][str(n)] == ratio(config, n)


def test_formulas_on_a_shape_computed_by_hand() -> None:
    config = ModelConfig(64, 2, 8, 2, 16, causal=True)
    assert matrix_parameters(config) == 2 * (4 * 64 + 3 * 8 * 16) + 64 * 8 == 1792
    assert autoregressive(config, 2) == 2 * 2 * 1792 + 4 * 2 * 8 * (1 + 2)
    assert masked_diffusion(config, 2) == 2 * 2 * (2 * 1792 + 4 * 2 * 8 * 2)
    assert masked_diffusion(config, 4, steps=1) == 4 * (2 * 1792 + 4 * 2 * 8 * 4)
    # two blocks of two tokens, two steps each; the first is read once more to be cached
    cached = 3 * 2 * (2 * 1792 + 64 * 2) + 2 * 2 * (2 * 1792 + 64 * 4)
    assert masked_diffusion_cached(config, 4, block=2, steps=4) == cached
    assert masked_diffusion_cached(config, 4, block=4, steps=3) == masked_diffusion(config, 4, steps=3)
    figures = training(config, 16)
    assert figures["six_nd"] == 6 * 1792
    assert figures["with_attention_full"] - figures["six_nd"] == 12 * 2 * 8 * 16
    assert figures["with_attention_causal"] - figures["six_nd"] == 6 * 2 * 8 * 16
    assert figures["model"] == figures["with_attention_causal"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "125m", "paper-1b", "8b"])
def test_formulas_agree_with_what_torch_executes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epochal.train.model.flops.measured.MAX_TIMED_PARAMETERS", {"cpu": 0})  # count only
    counts = measure(preset(name), seq_len=512)
    for step in ("training_ar", "training_mdm", "decode_ar", "denoise_mdm"):
        assert counts[step]["counted_over_formula"] == pytest.approx(1.0, abs=0.03), step


def test_small_models_are_timed() -> None:
    dropped = {"dropout": 0.1, "dropout_attention": 0.1, "dropout_embedding": 0.1, "stochastic_depth": 0.2}
    counts = measure(ModelConfig(64, 1, 8, 2, 16, causal=True, **dropped), seq_len=8, repeats=1)
    assert counts["timed"]
    assert counts["decode_ar"]["flops_per_s"] > 0


def test_flops_of_the_paper_model() -> None:
    shape = {"layers": 26, "hidden": 1792, "heads": 14, "head_size": 128, "ffn": 4736, "vocab_size": 50269}
    full = training_flops_per_token(ModelConfig(causal=False, **shape), 2048)
    causal = training_flops_per_token(ModelConfig(causal=True, **shape), 2048)
    assert full == pytest.approx(6 * 1.086e9 + 12 * 26 * 1792 * 2048, rel=1e-3)
    assert full - causal == 6 * 26 * 1792 * 2048


def test_flops_agree_with_what_torch_counts() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = ModelConfig(vocab_size=64, layers=2, hidden=64, heads=2, ffn=96, causal=False)
    model, tokens = Transformer(config), torch.zeros(1, 128, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the CPU's own is not counted
        model(tokens)
    assert counter.get_total_flops() * 3 / 128 == pytest.approx(training_flops_per_token(config, 128), rel=0.03)
