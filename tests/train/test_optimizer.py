from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.optimizer import build_optimizer
from epochal.train.settings.optimization import OptimizerSection

LINEAR = {"qkv", "out", "gate_up", "down", "head"}


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
