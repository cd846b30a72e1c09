"""Megatron's index: its own GPTDataset then reads the plan's samples, position by position."""

import json
from pathlib import Path

import numpy as np
import pytest

from epochal.adapters.megatron import DESCRIPTION, index_arrays, replace_index
from epochal.common.errors import RequestError
from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.shards.order.plan import Plan
from epochal.tests.support.loading import plan_for, tokens_of
from epochal.tests.support.pools import EOD, PAD

SEQ_LEN = 16


def described(cache: Path, out: str, plan: Plan, **changes: object) -> Path:
    """Write a description as Megatron does."""
    cache.mkdir(exist_ok=True)
    body = {
        "class": "GPTDataset",
        "dataset_path": f"{out}/text_document",
        "num_samples": plan.positions,
        "index_split": "train",
        "random_seed": 1234,
        "sequence_length": SEQ_LEN,
        "split": "100,0,0",
        "split_matrix": [[0, 1.0], None, None],
    }
    path = cache / f"0123abcd{DESCRIPTION}"
    path.write_text(json.dumps(body | changes, indent=4))
    return path


def read(
    arrays: tuple[np.ndarray, ...], stream: np.ndarray, starts: np.ndarray, position: int, extra: int
) -> list[int]:
    """What GPTDataset gives at a position (`_query_document_sample_shuffle_indices` of megatron-core 0.16.1)."""
    documents, rows, shuffle = arrays
    at = int(shuffle[position])
    (first, offset), (last, end) = rows[at].tolist(), rows[at + 1].tolist()
    parts = []
    for i in range(first, last + 1):
        begin = starts[documents[i]] + (offset if i == first else 0)
        stop = starts[documents[i]] + end + extra if i == last else starts[documents[i] + 1]
        parts += stream[begin:stop].tolist()
    return parts + [PAD] * (SEQ_LEN + extra - len(parts))


@pytest.mark.parametrize("extra", [True, False])
@pytest.mark.parametrize(
    ("tokens", "replicate", "policy", "epochs"),
    [(901, 0, "reshuffle", 3.4), (896, 0, "fixed", 2), (1500, 1, "global", 2.5), (901, 0, "sequential", 0.3)],
)
def test_every_position_reads_the_plans_sample(
    make_pool, tmp_path: Path, tokens: int, replicate: int, policy: str, epochs: float, extra: bool
) -> None:
    subset = carve(str(make_pool(6000)), tokens, replicate)[0]
    out, _ = export(subset, "megatron", str(tmp_path / "out"))
    plan = plan_for(subset, epochs, 7, policy=policy)
    arrays = index_arrays(out, plan, extra)
    stream = np.fromfile(f"{out}/text_document.bin", "<u2").astype(np.int64)
    ends = np.flatnonzero(stream == EOD) + 1
    starts = np.unique(np.concatenate([[0], ends, [len(stream)]]))
    samples = tokens_of(subset)
    assert len(arrays[1]) - 1 >= plan.positions
    assert len(arrays[2]) == len(arrays[1]) - 1
    assert arrays[2][: plan.positions].tolist() == plan.ids(range(plan.positions)).tolist()
    for position, id_ in enumerate(plan.ids(range(plan.positions)).tolist()):
        found = read(arrays, stream, starts, position, extra)
        assert found[:SEQ_LEN] == samples[id_].tolist()
        if extra:
            assert found[SEQ_LEN] == (samples[id_ + 1][0] if id_ + 1 < plan.samples else PAD)


@pytest.fixture
def exported(make_pool, tmp_path: Path) -> tuple[str, Plan]:
    subset = carve(str(make_pool(3000)), 901)[0]
    return export(subset, "megatron", str(tmp_path / "out"))[0], plan_for(subset, 2.5)


def test_the_arrays_of_the_cache_are_replaced(exported, tmp_path: Path) -> None:
    out, plan = exported
    described(tmp_path / "cache", out, plan)
    paths = replace_index(str(tmp_path / "cache"), out, plan)
    assert [Path(path).name for path in paths] == [
        f"0123abcd-GPTDataset-train-{name}_index.npy" for name in ("document", "sample", "shuffle")
    ]
    for path, values in zip(paths, index_arrays(out, plan), strict=True):
        np.testing.assert_array_equal(np.load(path), values)
    assert [np.load(path).dtype for path in paths] == [np.int32, np.int32, np.uint32]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"sequence_length": 32}, "run it with --seq-length 16"),
        ({"num_samples": 10**6}, "run it with --train-samples"),
        ({"split_matrix": [[0, 0.9], [0.9, 1.0], None]}, "--split 100,0,0"),
        ({"dataset_path": "/elsewhere/text_document"}, "let Megatron make it first"),
    ],
)
def test_an_index_of_something_else_is_refused(exported, tmp_path: Path, changes: dict, line: str) -> None:
    out, plan = exported
    described(tmp_path / "cache", out, plan, **changes)
    with pytest.raises(RequestError, match=line):
        replace_index(str(tmp_path / "cache"), out, plan)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_other_exports_and_plans_are_refused(make_pool, exported, tmp_path: Path) -> None:
    out, _ = exported
    other = plan_for(carve(str(make_pool(2000, name="b")), 500)[0], 2)
    with pytest.raises(RequestError, match="the plan is of subset"):
        index_arrays(out, other)


def test_megatron_itself_reads_the_plan(exported, tmp_path: Path) -> None:
    """With the real GPTDataset: it makes its cache, the cache is replaced, and it reads the plan from it."""
    reason = "megatron-core is not installed: pip install megatron-core and put it on PYTHONPATH"
    gpt = pytest.importorskip("megatron.core.datasets.gpt_dataset", reason=reason)
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    out, plan = exported

    class Bytes:
        vocab_size, eod, pad = 259, EOD, PAD
        unique_identifiers = {"class": "Bytes"}

    config = gpt.GPTDatasetConfig(
        random_seed=1234,
        sequence_length=SEQ_LEN,
        blend=([f"{out}/text_document"], None),
        split="100,0,0",
        path_to_cache=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
    )

    def dataset():
        data = IndexedDataset(f"{out}/text_document")
        documents = np.arange(len(data.sequence_lengths), dtype=np.int32)
        return gpt.GPTDataset(data, f"{out}/text_document", documents, plan.positions, Split.train, config)

    dataset()
    replace_index(str(tmp_path / "cache"), out, plan)
    found = dataset()
    assert len(found) == plan.positions
    samples = tokens_of(str(tmp_path / "artifacts" / "subsets" / "toy-901"))
    for position, id_ in enumerate(plan.ids(range(plan.positions)).tolist()):
        expected = samples[id_]
        row = found[position]
        real = expected != PAD
        assert row["tokens"].numpy()[real].tolist() == expected[real].tolist()
        assert row["loss_mask"].numpy()[~real].sum() == 0
