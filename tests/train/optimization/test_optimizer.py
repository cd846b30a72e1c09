import pytest

from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.optimization.optimizer import build_optimizer
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


def test_embeddings_are_decayed_by_a_share_of_their_own_when_it_is_given() -> None:
    model = Transformer(ModelConfig(vocab_size=50, layers=1, hidden=32, heads=2, ffn=48, causal=True))
    section = OptimizerSection(lr=1e-3, weight_decay=0.3, embedding_weight_decay=0.1)
    groups = build_optimizer(model, section).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0, 0.1]
    assert groups[2]["params"] == [model.embedding.weight]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"momentum": 0.9}, "momentum is Muon's"),
        ({"weight_decay_final": 2.0}, "needs weight_decay_schedule"),
    ],
)
def test_keys_without_a_use_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerSection(lr=1e-3, **keys)
