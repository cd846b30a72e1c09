"""The small parts of training: optimizer groups, FLOPs, plots, the demonstration's tokenizer, named extras."""

import json
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from epochal.common.errors import RequestError
from epochal.examples import demo
from epochal.shards.order.plan import Plan
from epochal.tokenize.tokenizer import load_tokenizer
from epochal.train import callbacks, composer_registry
from epochal.train.config import OptimizerSection
from epochal.train.crossover.charts import line_plot
from epochal.train.model.composer import MeanLoss
from epochal.train.model.flops import training_flops_per_token
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.optimizer import build_optimizer
from epochal.train.run_folder import METRICS_NAME, read_metrics


def test_norms_and_embeddings_are_not_decayed() -> None:
    model = Transformer(
        ModelConfig(
            vocab_size=50, layers=2, hidden=32, heads=2, ffn=48, causal=True, qk_norm=True, tied_embeddings=False
        )
    )
    decayed, others = build_optimizer(model, OptimizerSection(lr=1e-3, weight_decay=0.3)).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].rpartition(".")[0].rpartition(".")[2] for p in others["params"]} == {
        *("embedding", "norm", "attention_norm", "mlp_norm", "q_norm", "k_norm")
    }
    assert all(names[id(p)].rpartition(".")[0].rpartition(".")[2] in LINEAR for p in decayed["params"])
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert len(decayed["params"]) + len(others["params"]) == len(names)


LINEAR = {"qkv", "out", "gate_up", "down", "head"}


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


def test_mean_loss_and_its_error() -> None:
    nats = torch.tensor([[1.0, 3.0], [5.0, 5.0]], dtype=torch.float64)
    loss, error = MeanLoss(), MeanLoss(error=True)
    for metric in (loss, error):
        metric.update(nats[:1], torch.tensor([2]))
        metric.update(nats[1:], torch.tensor([2]))
    assert float(loss.compute()) == pytest.approx((2 + 5) / 4)
    assert float(error.compute()) == pytest.approx((2 / 2) ** 0.5 / 4)


def test_a_plot_is_well_formed_and_has_every_point() -> None:
    svg = line_plot({"A <&> B": [(0, 1), (1, 2)], "C": [(0, 1)]}, "title", "x", "y")
    root = ElementTree.fromstring(svg)
    assert len(root.findall(".//{*}circle")) == 3
    assert "A <&> B" in [t.text for t in root.findall(".//{*}text")]


def test_the_demonstration_tokenizer_loses_no_text(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(demo.small_tokenizer(1024)))
    tokenizer = load_tokenizer(str(path))
    text = "def f(x):\n    return 'Grüße, 世界' + x\n"
    ids = tokenizer.encode([text])[0]
    assert tokenizer.decode(ids.tolist()) == text
    assert tokenizer.info.vocab_size == 1027
    assert max(ids) < 1024


def test_the_table_names_the_kind_of_every_loss() -> None:
    result = {"train": {"nll": 1.0}, "receipt": {"valid": True}}
    text = demo.table({"ar": result, "mdm": result}, {"ar": [(1, 3.0), (2, 4.0)], "mdm": [(1, 3.5)]})
    assert "NLL" in text.splitlines()[1]
    assert "NELBO (upper bound)" in text.splitlines()[2]


def test_unique_tokens_seen_are_counted_exactly() -> None:
    plan = Plan("0" * 32, samples=7, unique_tokens=101, seq_len=16, total_tokens=300)
    for position in (0, 3, 6, 7, 15):
        seen = set(plan.ids(range(position)).tolist())
        assert plan.unique_tokens_seen(position) == sum(plan.n_tokens(list(seen))) if seen else True


def test_metrics_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / METRICS_NAME
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"step": 4, "a"')
    logger = callbacks.JsonlLogger(str(path))
    logger.fit_start(SimpleNamespace(timestamp=SimpleNamespace(batch=2)), None)  # type: ignore[arg-type]
    logger.log_metrics({"a": 5, "time/batch": 1}, step=3)
    logger.fit_end(None, None)  # type: ignore[arg-type]
    assert read_metrics(str(tmp_path)) == [{"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 3, "a": 5.0}]


def test_extras_are_built_by_name_and_refused_by_name() -> None:
    assert type(composer_registry.build({"lr_monitor": None}, "callbacks")[0]).__name__ == "LRMonitor"
    with pytest.raises(RequestError, match="known loggers are file"):
        composer_registry.build({"wandbb": None}, "loggers")


def test_the_difference_of_two_runs_is_named_by_its_path() -> None:
    assert callbacks.difference({"a": {"b": 1}}, {"a": {"b": 1}}) == ""
    assert callbacks.difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b is 1 there and 2 here"
    assert callbacks.difference({"a": {}}, {"a": {"c": 3}}) == "a.c is None there and 3 here"


def test_the_demonstration_reports_both_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    result = {"train": {"loss": 1.0}, "receipt": {"valid": True}}
    curves = {"nll": [(1, 4.0), (2, 5.0)], "nelbo": [(1, 4.5), (2, 4.4)], "nelbo_se": [(1, 0.03), (2, 0.04)]}
    monkeypatch.setattr(demo, "make_data", lambda artifacts: (tmp_path, tmp_path))
    monkeypatch.setattr(demo, "run", lambda *args: result)
    monkeypatch.setattr(demo, "curve", lambda folder, metric: curves[metric])
    assert demo.main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "AR: validation loss has turned up (1.000 above its best" in printed
    assert "MDM: validation loss has not turned up" in printed
    assert (tmp_path / "loss.svg").exists()
