import functools
import itertools
import re
from pathlib import Path

import pytest
import yaml

from epochal.common.config import shipped
from epochal.common.errors import RequestError
from epochal.train import durations
from epochal.train.config import load_config
from epochal.train.model.presets import YAMLS, preset_file, presets
from epochal.train.model.transformer import Transformer, count_parameters
from epochal.train.optimization import schedules
from epochal.train.run_state.often_changed import OFTEN_CHANGED

DATA = ["train_loader.dataset.path=x", "eval_loader.dataset.path=y"]
RUNS = ["tiny-ar", "tiny-mdm", "125m-ar", "125m-mdm", "paper-1b-ar", "paper-1b-mdm"]


@pytest.mark.parametrize("name", RUNS)
def test_shipped_runs_are_valid_and_complete_but_for_their_data(name: str) -> None:
    config = load_config(name, DATA)
    assert config.objective.name == name.rpartition("-")[2]
    assert config.run_name == name


@pytest.mark.parametrize("name", [name for name in RUNS if name.endswith("-ar")])
def test_both_types_of_a_preset_differ_in_the_objective_alone(name: str) -> None:
    ar, mdm = (load_config(n, [*DATA, "run_name=x"]) for n in (name, name.removesuffix("ar") + "mdm"))
    assert ar.model_copy(update={"objective": None}) == mdm.model_copy(update={"objective": None})


def test_the_settings_of_the_help_are_keys_and_its_values_the_shipped_ones() -> None:
    plain = load_config("tiny-ar", DATA)
    shown = [word for word in OFTEN_CHANGED.split() if re.match(r"[a-z_.]+=", word)]
    config = load_config("tiny-ar", [*DATA, *shown])
    assert config != plain
    for key, value_shown in re.findall(r"^  ([a-z_.]+)=.*\(([\w.-]+)[^()=]*\)$", OFTEN_CHANGED, re.M):
        value = functools.reduce(getattr, key.split("."), plain)
        assert key in ("device", "save_folder", "service") or str(value) == value_shown or value == float(value_shown)


def test_the_paper_run_has_the_paper_settings() -> None:
    config = load_config("paper-1b-mdm", DATA)
    shape = config.model.shape(causal=False, vocab_size=50269)
    assert (shape.layers, shape.hidden, shape.heads, shape.head_size, shape.ffn) == (26, 1792, 14, 128, 4736)
    assert (shape.qk_norm, shape.tied_embeddings, shape.padded_vocab) == (True, True, 50304)
    assert config.global_train_batch_size * 2048 == 524_288
    steps = -(-durations.total_tokens(config.max_duration, 10**9) // 524_288)
    rate = [config.optimizer.lr * schedules.warmup_stable_decay(s, steps, 1000, steps // 10, 0.1) for s in range(steps)]
    assert steps == 183_106  # 183,105 whole steps and a short one
    assert rate[1000] == rate[steps // 2] == 2e-4
    assert rate[-1] == pytest.approx(2e-5)


@pytest.mark.parametrize(("name", "millions"), [("30m", 30), ("125m", 124), ("paper-1b", 1086), ("1.7b", 1630)])
def test_presets_have_the_size_of_their_name(name: str, millions: float) -> None:
    import torch

    section = load_config("125m-ar", [*DATA, f"model={{preset: {name}}}"]).model
    with torch.device("meta"):
        model = Transformer(section.shape(causal=True, vocab_size=50259))
    assert count_parameters(model) / 1e6 == pytest.approx(millions, rel=0.02)


def test_all_model_presets_are_known_by_name() -> None:
    assert presets() == sorted(["tiny", "30m", "125m", "paper-1b", "1.7b", "4b", "8b"])
    assert preset_file("8b") == preset_file("model-8b") is not None  # the second is its former name
    assert load_config("125m-ar", [*DATA, "model={preset: model-tiny}"]).model.preset == "model-tiny"
    assert shipped(YAMLS, "../config") is None


@pytest.mark.parametrize("name", ["model-tiny", "30m"])
def test_the_shape_of_a_model_is_no_run(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} is the shape of a model, not a run"):
        load_config(name)
    with pytest.raises(RequestError, match=r"shipped configuration \(125m-ar, 125m-mdm, paper-1b-ar"):
        load_config("nowhere")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", "did you mean 'optimizer.lr'"),
        ("lr=1", "did you mean 'optimizer.lr'"),
        ("eval_interval=500", "it has no unit: write 500ba for"),
        ("save_interval=0.5", "it has no unit: write 0.5dur for a share of the run"),
        ("objective.wieghting=exact_count", "did you mean 'objective.weighting'"),
        ("train_loader.dataset.sed=1", "did you mean 'train_loader.dataset.seed'"),
        ("model.preset=huge", "must be one of 1.7b, 125m, 30m, 4b, 8b, paper-1b, tiny"),
        ("model.kv_heads=5", "heads (12) must be a multiple of kv_heads (5)"),
        ("precision=fp16", "precision"),
        ("device_train_microbatch_size=0", "device_train_microbatch_size"),
        ("objective.name=gan", "objective"),
        ("save_folder=null", "autoresume needs a save_folder"),
        ("objective.eps=0", "objective.eps"),
        ("objective={name: mdm, fixed_ratio: 0.15, noise_schedule: cosine}", "leave noise_schedule out"),
        ("objective={name: mdm, t_range: [0.5, 0.5]}", "for one share of masks give fixed_ratio"),
        ("objective={name: mdm, t_range: [0.1, 0.5], eps: 0.01}", "leave eps out"),
        ("objective={name: ar, random_replacement: 0.95}", "objective.random_replacement: must be at most 0.9"),
        ("model.stochastic_depth=1", "model.stochastic_depth"),
        ("optimizer.momentum=0.9", "for Muon say name: muon"),
        ("scheduler={name: cosine_cycles}", "cycles"),
        ("algorithms.ema={half_life: 500}", "it has no unit: write 500ba for steps"),
        ("algorithms={early_stop: {}, ema: {halflife: 5ba}}", "did you mean"),
        ("parallelism_config={fsdp: {}} optimizer.name=muon", "optimizer.name: muon needs the whole model"),
        (
            "parallelism_config={fsdp: {shardng_strategy: FULL_SHARD}}",
            "did you mean 'parallelism_config.fsdp.sharding_",
        ),
        ("parallelism_config={fsdp: {sharding_strategy: FULL}}", "parallelism_config.fsdp.sharding_strategy"),
        ("parallelism_config={tp: {tensor_parallel_degree: 2}}", "use parallelism_config.fsdp"),
        ("parallelism_config={fsdp: {}} activation_checkpointing=blocks", "fsdp.activation_checkpointing: true"),
        (
            "attention_backend=cudnn model.document_mask=true",
            "code of its own: leave attention_backend out",
        ),
        ("attention_backend=flash model.dropout_attention=0.1", "with model.dropout_attention attention has code"),
        ("attention_backend=xformers", "attention_backend"),
        ("precision=amp_fp8 parallelism_config={fsdp: {}}", "use amp_bf16 there"),
        ("precision=amp_fp8 eval_loader.exact={}", "eval_loader.exact is measured in float32"),
        ("precision=amp_fp8 objective={name: mdm, random_length: 0.1}", "leave objective.random_length out"),
        ("algorithms.early_stop={} eval_loader=null eval_tasks=null", "give an eval_loader"),
        ("algorithms.early_stop={} save_folder=s3://bucket/run", "not at a URL"),
        ("algorithms.early_stop={} train_loader.dataset.policy=global", "not the policy global"),
        ("algorithms.early_stop={} load_path=elsewhere/ba8-rank0.pt", "leave load_path out"),
        ("algorithms.early_stop={} service=http://localhost:1", "a service's account cannot"),
        ("objective={name: dual, mdm: {eps: 0}}", "objective.mdm.eps: must be more than 0"),
        ("objective={name: dual, mdm: {wieghting: x}}", "did you mean 'objective.mdm.weighting'"),
        ("objective={name: dual, mdm: {z_loss: 0.1}}", "mdm.z_loss is of the whole loss: write it beside ar_share"),
        ("model.rope=restart", "rope is continue, or restart with document_mask: true; got restart"),
        ("model.rope=anew", "model.rope"),
        ("objective={name: block, block_size: 8} model.document_mask=true", "whose blocks may lie in two documents"),
        ("objective={name: ar, right_to_left: 0.5} model.document_mask=true", "leave right_to_left out"),
        ("objective={name: dual, ar: {right_to_left: 0.5}} model.document_mask=true", "leave right_to_left out"),
        ("objective={name: block, block_size: 0}", "objective.block_size: must be more than 0"),
    ],
)
def test_wrong_configurations_are_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_config("125m-mdm", [*DATA, *re.split(r" (?=[\w.]+=)", override)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_its_data_says_what_to_add() -> None:
    with pytest.raises(RequestError, match=r"add train_loader\.dataset\.path=VALUE"):
        load_config("125m-mdm")


def test_a_file_of_ones_own_may_use_a_preset_and_change_it(tmp_path: Path) -> None:
    data = yaml.safe_load(str(shipped(YAMLS, "tiny-ar").read_text()))  # type: ignore[union-attr]
    data["model"] = {"preset": "30M", "layers": 3}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    section = load_config(str(tmp_path / "mine.yaml"), ["variables.artifacts=elsewhere"]).model
    assert (section.layers, section.hidden) == (3, 384)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("96B", 96 * 10**9), (1000, 1000), ("1000tok", 1000), ("3.37ep", 3_370), ("2ep", 2_000), ("1.5M tok", 1_500_000)],
)
def test_total_tokens(text: str | int, tokens: int) -> None:
    assert durations.total_tokens(text, unique_tokens=1000) == tokens


@pytest.mark.parametrize("text", ["0", "-1", "0ep", "10ba", "0.5dur", "lots", "1.5", "nanep", "", "1e3ep ep"])
def test_total_tokens_refuses_what_is_no_budget(text: str) -> None:
    with pytest.raises(RequestError):
        durations.total_tokens(text, unique_tokens=1000)


@pytest.mark.parametrize(("text", "steps"), [("7ba", 7), ("0.25dur", 50), ("2ep", 20), ("300", 3), ("1tok", 1)])
def test_steps(text: str, steps: int) -> None:
    assert durations.steps(text, total_steps=200, batch_tokens=100, unique_tokens=1000, what="x") == steps


def test_wsd_is_flat_between_warm_up_and_an_exponential_tail() -> None:
    rate = [schedules.warmup_stable_decay(s, 100, 10, 20, 0.1) for s in range(100)]
    assert rate[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert set(rate[9:80]) == {1.0}
    tail = [b / a for a, b in itertools.pairwise(rate[80:])]
    assert tail == pytest.approx([tail[0]] * 19)
    assert rate[-1] == pytest.approx(0.1)


def test_cosine_ends_at_its_final_rate() -> None:
    rate = [schedules.cosine(s, 50, 5, 0.2) for s in range(50)]
    assert rate[5] == 1.0
    assert rate[-1] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(rate[5:]))


@pytest.mark.parametrize(("total", "warm", "decay"), [(1, 1, 1), (2, 5, 1), (3, 0, 3), (1, 0, 0)])
def test_schedules_of_very_short_runs_stay_within_bounds(total: int, warm: int, decay: int) -> None:
    for step in range(total):
        for rate in (
            schedules.warmup_stable_decay(step, total, warm, decay, 0.1),
            schedules.cosine(step, total, warm, 0.1),
        ):
            assert 0 < rate <= 1


@pytest.mark.parametrize("value", ["1e999999999", ".inf", "-.inf", ".nan", "1e400"])
@pytest.mark.parametrize(
    "key",
    ["optimizer.eps", "optimizer.lr", "optimizer.weight_decay", "model.rope_base", "model.init_std", "dist_timeout"],
)
def test_a_number_that_is_none_is_refused(key: str, value: str) -> None:
    with pytest.raises(RequestError, match=key):
        load_config("tiny-ar", ["train_loader.dataset.path=x", "eval_loader=null", f"{key}={value}"])


@pytest.mark.parametrize("value", ["1e12", "9223372036854775808", "1" + "0" * 30])
@pytest.mark.parametrize(
    "key", ["model.hidden", "model.layers", "model.ffn", "model.heads", "train_loader.num_workers", "seed"]
)
def test_a_size_that_nothing_holds_is_refused(key: str, value: str) -> None:
    with pytest.raises(RequestError, match=key):
        load_config("tiny-ar", ["train_loader.dataset.path=x", "eval_loader=null", f"{key}={value}"])
