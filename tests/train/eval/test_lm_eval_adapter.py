"""lm-evaluation-harness: the same scores as its own Hugging Face path, and its tasks on both types."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from epochal.common.errors import RequestError
from epochal.tokenize.tokenizer import Tokenizer, load_tokenizer
from epochal.train.checkpoint import ModelCard, load_model, open_checkpoint, save_model
from epochal.train.model.hf_export import save_huggingface
from epochal.train.model.transformer import ModelConfig, Transformer

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
lm_eval = pytest.importorskip("lm_eval", reason="extra `eval` is not installed")
torch.set_num_threads(1)

SEQ_LEN = 64
PAIRS = [
    ("Roof shingle removal: A man is sitting on a roof. he", " starts pulling up roofing on a roof."),
    ("Roof shingle removal: A man is sitting on a roof. he", " is ripping level tiles off."),
    ("Question: What is 2 + 2?\nAnswer:", " 4"),
    ("Question: What is 2 + 2?\nAnswer: ", "five"),
    ("", "A text without a context"),
    ("A context that is much too long. " * 12, " The end."),
]


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return load_tokenizer("gpt2")


def checkpoint(folder: Path, tokenizer: Tokenizer, causal: bool, **shape: object) -> str:
    """Write a small random model for GPT-2's ids; return its folder."""
    torch.manual_seed(1)
    info = tokenizer.info
    keys = {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48, "init_std": 0.1} | shape
    config = ModelConfig(vocab_size=info.vocab_size, causal=causal, **keys)  # type: ignore[arg-type]
    card = ModelCard(config, {}, "nll" if causal else "nelbo", info.model_dump(), SEQ_LEN, {})
    save_model(str(folder), Transformer(config).state_dict(), card)
    return str(folder)


def instances(kind: str, arguments: list[tuple]) -> list:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, arg, i) for i, arg in enumerate(arguments)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [{}, {"qk_norm": True, "kv_heads": 1, "head_size": 24}, {"tied_embeddings": False}], ids=str
)
def test_ar_scores_equal_the_harness_own_path(tmp_path: Path, gpt2: Tokenizer, shape: dict) -> None:
    pytest.importorskip("accelerate", reason="the harness' Hugging Face path (extra `eval`) is not installed")
    from lm_eval.models.huggingface import HFLM

    from epochal.train.eval.lm_eval_adapter import EpochalLM

    folder = checkpoint(tmp_path / "ours", gpt2, causal=True, **shape)
    model, card = load_model(folder)
    save_huggingface(model, card, gpt2, str(tmp_path / "theirs"))
    theirs = HFLM(pretrained=str(tmp_path / "theirs"), device="cpu", dtype="float32", batch_size=2, add_bos_token=True)
    ours = EpochalLM(folder)
    pairs = PAIRS[:-1]  # a text that is too long is cut elsewhere: we keep EOD, they keep the tail only
    expected = theirs.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    found = ours.loglikelihood(instances("loglikelihood", pairs))
    assert [g for _, g in found] == [g for _, g in expected]
    np.testing.assert_allclose([v for v, _ in found], [v for v, _ in expected], atol=1e-4, rtol=0)
    whole = "A text of its own. " * 30
    rolling = ours.loglikelihood_rolling(instances("loglikelihood_rolling", [("A text without a context",), (whole,)]))
    assert rolling[0] == pytest.approx(found[4][0], abs=1e-4)
    assert rolling[1] < 10 * rolling[0]


def test_only_ar_models_can_be_written_for_transformers(tmp_path: Path, gpt2: Tokenizer) -> None:
    model, card = load_model(checkpoint(tmp_path / "mdm", gpt2, causal=False))
    with pytest.raises(RequestError, match="autoregressive"):
        save_huggingface(model, card, gpt2, str(tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
def test_a_task_of_the_harness_runs(tmp_path: Path, gpt2: Tokenizer, causal: bool) -> None:
    from epochal.train.eval.lm_eval_adapter import EpochalLM, run_tasks

    rows = [{"q": f"{a} plus one is", "choices": [str(a + 1), str(a)], "gold": 0} for a in range(6)]
    data = tmp_path / "toy.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = (
        f"task: toy_sums\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: q\ndoc_to_target: gold\ndoc_to_choice: choices\n"
    )
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "toy.yaml").write_text(task)
    opened = open_checkpoint(checkpoint(tmp_path / "model", gpt2, causal), "cpu")
    found = run_tasks(opened, ["toy_sums"], gpt2, 4, 0, 4096, include=str(tmp_path / "tasks"))
    assert {r["metric"] for r in found} >= {"acc"}
    assert {r["kind"] for r in found} == {"nll" if causal else "nelbo"}
    if causal:
        with pytest.raises(RequestError, match="knows no task 'toy_sumz'"):
            run_tasks(opened, ["toy_sumz"], gpt2, 4, 0, 4096)
    lm = EpochalLM(opened, noise_samples=4, tokenizer=gpt2)
    found_pairs = lm.loglikelihood(instances("loglikelihood", PAIRS))
    assert all(np.isfinite(v) and v < 0 for v, _ in found_pairs)
    assert lm.scorer.work.truncated == 1
    text = lm.generate_until(instances("generate_until", [("Once", {"until": ["\n\n"], "max_gen_toks": 6})]))
    assert len(text) == 1
    assert "\n\n" not in text[0]


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
def test_edge_cases_are_answered_alike(tmp_path: Path, gpt2: Tokenizer, causal: bool) -> None:
    from epochal.train.eval.lm_eval_adapter import EpochalLM

    lm = EpochalLM(checkpoint(tmp_path / "model", gpt2, causal), noise_samples=2, tokenizer=gpt2)
    empty = [("", ""), ("A context", ""), ("A context ", "")]
    assert lm.loglikelihood(instances("loglikelihood", empty)) == [(0.0, True)] * 3
    assert lm.loglikelihood([]) == []
    assert lm.loglikelihood_rolling(instances("loglikelihood_rolling", [("",)])) == [0.0]
    (long,) = lm.loglikelihood(instances("loglikelihood", [("So", " long" * SEQ_LEN)]))
    assert np.isfinite(long[0])
    assert lm.scorer.work.truncated == 1
    options = [
        {"max_gen_toks": 4} | more for more in ({}, {"until": ""}, {"until": [""]}, {"until": None}, {"until": []})
    ]
    texts = lm.generate_until(instances("generate_until", [("Once", o) for o in options]))
    assert len(set(texts)) == 1
    assert texts[0]
    assert lm.generate_until(instances("generate_until", [("Once", {"max_gen_toks": 4, "until": texts[0][0]})])) == [""]
    with pytest.raises(RequestError, match="smaller max_gen_toks"):
        lm.generate_until(instances("generate_until", [("Once", {"max_gen_toks": SEQ_LEN})]))
