"""The tokenizer that a model's data was made with, and what its ids are worth in bytes."""

import itertools

import numpy as np
from numpy.typing import NDArray

from ...common import storage
from ...shards.tokenizer_file import TOKENIZER_NAME
from ...tokenize.special import model_vocabulary
from ...tokenize.tokenizer import Tokenizer, folder_tokenizer
from ..checkpoint import Checkpoint


def tokenizer_for(checkpoint: Checkpoint, path: str | None = None) -> Tokenizer:
    """Return the tokenizer that a model's data was made with: the file at `path`, or the one that the model carries.

    Raises:
        RequestError: when it cannot be found or is another one.
        WorkError: when the one that the model carries is damaged.
    """
    return folder_tokenizer(checkpoint.folder, path)


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Return whether `tokenizer_for` needs no path and no network."""
    carried = storage.exists(storage.join(checkpoint.folder, TOKENIZER_NAME))
    return carried or checkpoint.card.tokenizer.get("name") == "gpt2"


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return how the vocabulary spells the id `token`, which it holds."""
    added = (t["content"] for t in tokenizer.spec.get("added_tokens") or [] if t["id"] == token)
    entries = model_vocabulary(tokenizer.spec).items()
    return str(next(itertools.chain(added, (text for text, id_ in entries if id_ == token))))


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
