"""The tokenizer that a model's data was made with, and what its ids are worth in bytes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import RequestError
from ...tokenize.tokenizer import Tokenizer, load_tokenizer
from ..checkpoint import ModelCard


def tokenizer_for(card: ModelCard, path: str | None = None) -> Tokenizer:
    """Return the tokenizer that a model's data was made with: `path`, or what its card names; see `tokenizer_of`."""
    return tokenizer_of(card.tokenizer, path)


def tokenizer_of(stated: dict[str, Any], path: str | None = None) -> Tokenizer:
    """Return the tokenizer at `path`, or the one that `stated` (a manifest's record) names.

    Raises:
        RequestError: when it cannot be found or is another one.
    """
    try:
        found = load_tokenizer(path or str(stated.get("name")))
    except RequestError as error:
        hint = "" if path else ": give it with --tokenizer PATH"
        raise RequestError(f"{error}{hint}") from None
    if found.info.fingerprint != stated.get("fingerprint"):
        name = path or stated.get("name")
        raise RequestError(f"tokenizer '{name}' is not the one the model was trained with: give it with --tokenizer")
    ids = {k: stated[k] for k in ("vocab_size", "eod", "pad", "mask")}
    return Tokenizer(found.info.model_copy(update=ids), found.spec)


def byte_lengths(tokenizer: Tokenizer) -> NDArray[np.int64] | None:
    """Return the UTF-8 bytes of each id, int64 (vocab_size,); None unless the tokenizer is a byte-level BPE."""
    decoder = tokenizer.spec.get("decoder") or {}
    vocab = tokenizer.spec["model"].get("vocab")
    if decoder.get("type") != "ByteLevel" or not isinstance(vocab, dict):
        return None
    lengths = np.zeros(tokenizer.info.vocab_size, np.int64)
    for text, i in vocab.items():
        lengths[i] = len(text)  # a byte-level vocabulary spells each byte as one character
    lengths[[tokenizer.info.eod, tokenizer.info.pad, tokenizer.info.mask]] = 0
    return lengths
