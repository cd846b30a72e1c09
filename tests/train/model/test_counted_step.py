"""What the compiled step costs, counted on the kernels that inductor writes for a GPU (none is needed)."""

import dataclasses
import functools
from typing import Any

import pytest
import torch
from packaging.version import Version

from epochal.benchmarks.counted_step import Step, count_loss, count_step
from epochal.train.model.presets import model_section
from epochal.train.model.transformer import ModelConfig
from epochal.train.settings.model import ModelSection

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.version.cuda is None, reason="torch without CUDA writes no kernels for it"),
]
ROWS, LENGTH = 8, 2048


def paper(causal: bool) -> ModelConfig:
    section = ModelSection.model_validate(model_section({"preset": "paper-1b"}, "test"))
    return section.shape(causal, 50259)


@functools.cache
def counted(causal: bool, **how: Any) -> Step:
    """Return the counts of the paper's model: each kind of step takes seconds, and several tests look at it."""
    return count_step(paper(causal), ROWS, LENGTH, **how)


@pytest.mark.parametrize(("causal", "pad"), [(True, False), (False, False), (False, True)])
def test_a_layer_reads_and_writes_no_more_than_it_did(causal: bool, pad: bool) -> None:
    step = counted(causal, pad=True) if pad else counted(causal)
    assert step.graphs == 4  # a block and the last norm, forward and backward; one graph each, so without a break
    assert step.wide == 0
    assert step.kernels_of_layer <= 19
    assert step.traffic_of_layer <= 3.61e9
    assert step.traffic <= 94.1e9
    assert step.saved <= 25.7 * 2**30


def test_products_made_again_are_not_kept() -> None:
    kept, again = counted(True), counted(True, recompute="products")
    product = ROWS * LENGTH * paper(True).ffn * 2
    assert kept.saved_of_layer - again.saved_of_layer == product
    assert again.saved <= 22 * 2**30


FUSES_NORMS = Version(torch.__version__) < Version("2.8")
"""Whether inductor makes a norm again in the kernel of its gradients: 2.7 does, 2.15 does not."""


def test_norms_made_again_take_no_kernel_of_their_own_where_inductor_joins_them() -> None:
    """The kernel of their gradients then writes them too, as it reads what they are of."""
    kept, again = counted(True), counted(True, recompute="norms")
    norms = ROWS * LENGTH * paper(True).hidden * 2 * 2
    assert again.traffic_of_layer - kept.traffic_of_layer == pytest.approx(norms * (1 if FUSES_NORMS else 2), rel=0.01)
    assert kept.saved_of_layer - again.saved_of_layer >= norms
    assert again.kernels_of_layer == kept.kernels_of_layer + (0 if FUSES_NORMS else 1)
    assert again.traffic <= (96e9 if FUSES_NORMS else 100.2e9)
    assert again.saved <= 22.8 * 2**30


def test_cudnn_has_what_attention_returned_copied_and_nothing_else() -> None:
    """By what torch says of how it lies; in torch 2.15 it lies as flash has it."""
    flash, cudnn = counted(False, kernel="flash"), counted(False, kernel="cudnn")
    assert (cudnn.graphs, cudnn.wide) == (flash.graphs, 0)
    output = ROWS * LENGTH * paper(False).attention_width * 2
    more = cudnn.traffic_of_layer - flash.traffic_of_layer
    assert more in (0, 2 * output)
    assert cudnn.kernels_of_layer - flash.kernels_of_layer == (1 if more else 0)


def test_products_in_float8_are_one_graph_and_keep_less() -> None:
    pytest.importorskip("torchao", reason="the package torchao is missing (extra 'fp8')")
    narrow, low = counted(True), counted(True, precision="amp_fp8")
    assert low.graphs == 4
    assert low.saved_of_layer < 0.8 * narrow.saved_of_layer
    assert 2 * narrow.traffic_of_layer < low.traffic_of_layer <= 8.95e9


def test_layers_are_counted_as_often_as_there_are() -> None:
    one, all_of_them = count_step(dataclasses.replace(paper(True), layers=1), ROWS, LENGTH), counted(True)
    assert one.traffic_of_layer == all_of_them.traffic_of_layer
    assert all_of_them.traffic - one.traffic == (paper(True).layers - 1) * one.traffic_of_layer


def test_a_compiled_loss_goes_through_its_logits_twice() -> None:
    """They are read once and their gradient is written once, both in bfloat16; the rest is of the size of weights."""
    targets, of = ROWS * LENGTH, paper(True)
    logits, head = 2 * targets * of.padded_vocab, of.padded_vocab * of.hidden
    compiled, eager = (count_loss(of, targets, c) for c in (True, False))
    assert 2 * logits < compiled < 2 * logits + 42 * head
    assert eager > 7 * compiled
