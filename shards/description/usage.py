"""How to read an artifact or export with the tools that people have: a few lines of Python for each, which begin in its
folder. `tests/shards/description/test_usage.py` runs every one of them."""

from textwrap import dedent

from ..documents import DOCUMENTS
from ..manifest import Manifest
from ..tables.names import pattern_of
from .subject import Subject

Snippet = tuple[str, str]
"""The name of a tool, and Python for it."""


def snippets(s: Subject) -> list[Snippet]:
    """Return a program for each tool that reads what is described."""
    of_form = {
        "wds": _webdataset,
        "parquet": _parquet,
        "hf": _hugging_face,
        "megatron": _megatron,
        "bin": _flat,
    }.get(s.form, _shards)
    tools = of_form(s) + (_documents(s) if s.rows == "documents" else [])
    return [(tool, dedent(code).strip()) for tool, code in tools]


def _words(s: Subject) -> str:
    """Return numpy's name of the type that ids are stored in."""
    wide = "<i4" if s.form == "megatron" else "<u4"
    return "<u2" if s.manifest.dtype == "uint16" else wide


def _shards(s: Subject) -> list[Snippet]:
    return [
        (
            "epochal: batches of four passes, each in a new order; every rank and worker gets its own",
            """
            import epochal

            manifest = epochal.open_artifact(".").manifest
            plan = epochal.Plan.for_artifact(manifest, total_tokens=4 * manifest.tokens, seed=1)
            dataset = epochal.RepeatedDataset(".", plan, global_batch=4)
            batch = next(iter(dataset.loader()))
            tokens = batch["tokens"]
            """,
        ),
        (
            "mosaicml-streaming: samples by number",
            """
            from streaming import StreamingDataset

            dataset = StreamingDataset(local=".", batch_size=1, shuffle=False)
            tokens = dataset[0]["tokens"]
            """,
        ),
        (
            "numpy alone: samples of a shard, mapped from the disk",
            f"""
            import json

            import numpy

            entry = json.load(open("index.json"))["shards"][0]
            path = entry["raw_data"]["basename"]
            n, start = numpy.fromfile(path, "<u4", 2)
            samples = numpy.memmap(path, "{_words(s)}", "r", int(start)).reshape(n, {s.manifest.seq_len})
            tokens = samples[: entry["samples"]][0]
            """,
        ),
    ]


def _verify() -> Snippet:
    return (
        "epochal: every hash and every token checked",
        """
        import epochal

        problems = epochal.verify(".")
        """,
    )


def _webdataset(s: Subject) -> list[Snippet]:
    return [
        (
            "webdataset: samples one after the other",
            """
            from glob import glob

            import webdataset

            samples = webdataset.WebDataset(sorted(glob("shard-*.tar")), shardshuffle=False, empty_check=False).decode()
            tokens = next(iter(samples))["tokens.npy"]
            """,
        ),
        (
            "datasets",
            """
            import os

            from datasets import load_dataset

            samples = load_dataset(os.getcwd(), split="train")
            tokens = samples[0]["tokens.npy"]
            """,
        ),
        (
            "torch: batches of samples",
            """
            from glob import glob

            import torch
            import webdataset

            files = webdataset.WebDataset(sorted(glob("shard-*.tar")), shardshuffle=False, empty_check=False)
            loader = torch.utils.data.DataLoader(files.decode().to_tuple("tokens.npy"), batch_size=1)
            tokens = next(iter(loader))[0][0]
            """,
        ),
        (
            "numpy and tarfile alone",
            """
            import io
            import tarfile

            import numpy

            with tarfile.open("shard-000000.tar") as tar:
                tokens = numpy.load(io.BytesIO(tar.extractfile(tar.next()).read()))
            """,
        ),
        _verify(),
    ]


def _parquet(s: Subject) -> list[Snippet]:
    return [
        (
            "datasets",
            """
            import os

            from datasets import load_dataset

            samples = load_dataset(os.getcwd(), split="train")
            tokens = samples[0]["input_ids"]
            """,
        ),
        (
            "polars",
            """
            import polars

            samples = polars.read_parquet("data")
            tokens = samples["input_ids"][0]
            """,
        ),
        (
            "pyarrow",
            """
            import pyarrow.parquet

            samples = pyarrow.parquet.read_table("data")
            tokens = samples["input_ids"][0].values
            """,
        ),
        (
            "pandas",
            """
            import pandas

            samples = pandas.read_parquet("data")
            tokens = samples["input_ids"][0]
            """,
        ),
        _verify(),
    ]


def _hugging_face(s: Subject) -> list[Snippet]:
    return [
        (
            "datasets: mapped from the disk (`load_dataset` refers to this function)",
            """
            from datasets import load_from_disk

            samples = load_from_disk(".")
            tokens = samples[0]["input_ids"]
            """,
        ),
        (
            "pyarrow",
            """
            import json

            import pyarrow

            name = json.load(open("state.json"))["_data_files"][0]["filename"]
            samples = pyarrow.ipc.open_stream(pyarrow.memory_map(name)).read_all()
            tokens = samples["input_ids"][0].values
            """,
        ),
        (
            "polars",
            """
            from glob import glob

            import polars

            samples = polars.read_ipc_stream(sorted(glob("data-*.arrow"))[0])
            tokens = samples["input_ids"][0]
            """,
        ),
        (
            "torch: batches of samples",
            """
            import torch
            from datasets import load_from_disk

            loader = torch.utils.data.DataLoader(load_from_disk(".").with_format("torch"), batch_size=1)
            tokens = next(iter(loader))["input_ids"][0]
            """,
        ),
        _verify(),
    ]


def _megatron(s: Subject) -> list[Snippet]:
    return [
        (
            "Megatron-LM: `--data-path text_document`, or",
            """
            from megatron.core.datasets.indexed_dataset import IndexedDataset

            sequences = IndexedDataset("text_document")
            tokens = sequences[0]
            """,
        ),
        (
            "numpy alone",
            f"""
            import numpy

            index = numpy.memmap("text_document.idx", "u1", "r")
            n = int(numpy.frombuffer(index[18:26], "<u8")[0])
            lengths = numpy.frombuffer(index[34 : 34 + 4 * n], "<i4")
            tokens = numpy.memmap("text_document.bin", "{_words(s)}", "r")[: lengths[0]]
            """,
        ),
        _verify(),
    ]


def _flat(s: Subject) -> list[Snippet]:
    kind = "uint16" if s.manifest.dtype == "uint16" else "uint32"
    return [
        (
            "numpy, as nanoGPT does",
            f"""
            import numpy

            ids = numpy.memmap("train.bin", "{_words(s)}", "r")
            tokens = ids[:{s.manifest.seq_len}]
            """,
        ),
        (
            "torch: mapped from the disk",
            f"""
            import torch

            ids = torch.from_file("train.bin", size={s.manifest.tokens}, dtype=torch.{kind})
            tokens = ids[:{s.manifest.seq_len}]
            """,
        ),
        _verify(),
    ]


def _documents(s: Subject) -> list[Snippet]:
    """Return how to read the table of documents; a view's is part of its pool's."""
    path, chosen = pattern_of(s.files, DOCUMENTS), ""
    if s.window is not None:
        assert isinstance(s.manifest, Manifest)
        assert s.manifest.parent is not None, "only views have a window"
        path = f"{s.manifest.parent.path}/{s.of_pool}"
        start, stop = s.window
        chosen = f'.filter(polars.col("start").is_between({start}, {stop}, closed="left"))'
    return [
        (
            "polars: which document lies where",
            f"""
            import polars

            documents = polars.scan_parquet({path!r}){chosen}.collect()
            """,
        ),
        (
            "datasets: the same table",
            """
            import os

            from datasets import load_dataset

            documents = load_dataset(os.getcwd(), split="train")
            """,
        ),
    ]
