"""Engines: functions from texts to ids. The reference is Hugging Face `tokenizers`; a faster engine must equal it.

tiktoken does for byte-level BPE whose ids grow with merge rank: it has the same pre-tokenization expression and the
same greedy merges. Where the tokenizer's description does not show that, there is no fast engine. Where the expression
is GPT-2's, the fast engine can also encode piece by piece, each distinct piece once (see pieces.py).
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.uint32]
Engine = Callable[[Sequence[str]], list[TokenIds]]
"""The ids of each of some texts."""

PieceEncoder = Callable[[bytes], Sequence[int]]
"""The ids of one piece (see pieces.py), given its UTF-8."""


@dataclass(frozen=True)
class FastEngine:
    """Attributes:
    encode: texts to ids.
    encode_piece: the same for one piece; None where the tokenizer does not split as GPT-2 does.
    """

    encode: Engine
    encode_piece: PieceEncoder | None


GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""GPT-2's pre-tokenization expression, with possessive quantifiers, which change no match but save backtracking."""


def reference_engine(spec: dict[str, Any]) -> Engine:
    """Return the engine that defines the ids: Hugging Face `tokenizers`, special tokens in a text read as text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.encode_special_tokens = True  # `<|endoftext|>` inside a document must not become EOD
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(texts: Sequence[str]) -> list[TokenIds]:
        encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(e.ids, np.uint32) for e in encodings]

    return encode


def fast_engine(spec: dict[str, Any]) -> FastEngine | None:
    """Return a tiktoken engine with the reference's ids, or None where equality cannot be shown."""
    pattern = _split_pattern(spec)
    ranks = mergeable_ranks(spec)
    if pattern is None or ranks is None:
        return None
    import tiktoken

    encoding = tiktoken.Encoding("epochal", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def encode(texts: Sequence[str]) -> list[TokenIds]:
        return [np.array(encoding.encode_ordinary(text), np.uint32) for text in texts]

    # The only way past tiktoken's regular expression, which costs more than merging does.
    merge = encoding._core_bpe.encode_single_piece

    def encode_piece(piece: bytes) -> Sequence[int]:
        if piece[:1] == b"'" and len(piece) > 2:  # perhaps a contraction and what is after it
            return encoding.encode_ordinary(piece.decode())
        return merge(piece)

    return FastEngine(encode, encode_piece if pattern == GPT2_PATTERN else None)


def _split_pattern(spec: dict[str, Any]) -> str | None:
    """Return the expression that splits text before merging, where the tokenizer is plain byte-level BPE."""
    if spec.get("normalizer") or any(not token["special"] for token in spec.get("added_tokens") or []):
        return None
    pre = spec.get("pre_tokenizer") or {}
    if pre.get("type") == "ByteLevel" and pre.get("use_regex", True) and not pre.get("add_prefix_space", True):
        return GPT2_PATTERN
    steps = pre.get("pretokenizers", []) if pre.get("type") == "Sequence" else []
    if [step.get("type") for step in steps] == ["Split", "ByteLevel"]:
        split, byte_level = steps
        plain = split.get("behavior") == "Isolated" and not split.get("invert")
        if plain and not byte_level.get("use_regex", True) and not byte_level.get("add_prefix_space", True):
            return split["pattern"].get("Regex")
    return None


def mergeable_ranks(spec: dict[str, Any]) -> dict[bytes, int] | None:
    """Return token bytes -> id, or None unless all 256 bytes have an id and ids grow with merge rank."""
    model = spec["model"]
    unusual = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if model.get("type") != "BPE" or any(model.get(key) for key in unusual):
        return None
    to_byte = {char: byte for byte, char in byte_to_char().items()}
    vocab: dict[str, int] = model["vocab"]
    if any(char not in vocab for char in to_byte):
        return None
    merges = [merge.replace(" ", "") if isinstance(merge, str) else "".join(merge) for merge in model["merges"]]
    merged = [vocab.get(token, -1) for token in merges]
    if any(b <= a for a, b in itertools.pairwise([255, *merged])):
        return None
    tokens = [*to_byte, *merges]
    # A character stands for a byte each, so the tokens are translated together and cut apart again.
    together = "".join(tokens).translate({ord(char): byte for char, byte in to_byte.items()}).encode("latin-1")
    ends = itertools.accumulate(map(len, tokens), initial=0)
    return {
        together[start:end]: vocab[token] for (start, end), token in zip(itertools.pairwise(ends), tokens, strict=True)
    }


def byte_to_char() -> dict[int, str]:
    """Return GPT-2's printable stand-in for each byte: itself where printable Latin-1, else U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    return {b: chr(b) for b in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}
