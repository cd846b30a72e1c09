"""The tokenizer that a model's data was made with, and what its ids are worth in bytes."""

import itertools

import numpy as np
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import WorkError
from ...common.publish import FileInfo
from ...shards.tokenizer_file import TOKENIZER_NAME
from ...tokenize.special import (
    added_ids,
    is_byte_level,
    knows_all_text,
    model_kind,
    model_vocabulary,
    steps,
)
from ...tokenize.tokenizer import Tokenizer, folder_tokenizer
from ..checkpoint import Checkpoint
from ..saved import hashes


def tokenizer_for(checkpoint: Checkpoint, path: str | None = None) -> Tokenizer:
    """Return the tokenizer that a model's data was made with: the file at `path`, or the one that the model carries.

    Raises:
        RequestError: when it cannot be found or is another one.
        WorkError: when the one that the model carries is damaged.
    """
    if path is None:
        _check_file(checkpoint.folder)
    return folder_tokenizer(checkpoint.folder, path)


def _check_file(folder: str) -> None:
    """Hold a model's tokenizer.json against its hash: the fingerprint is of what decides ids, not of what decodes."""
    if TOKENIZER_NAME not in hashes.read(folder):
        return
    where = storage.join(folder, TOKENIZER_NAME)
    try:
        data = storage.read_bytes(where, hashes.wrong(folder, TOKENIZER_NAME))
    except FileNotFoundError:
        raise WorkError(f"{where} is missing, which {hashes.HASHES_NAME} names: restore it") from None
    hashes.check(folder, TOKENIZER_NAME, FileInfo.of(data))


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
    """Return the UTF-8 bytes of the text of each id, int64 (vocab_size,), EOD, PAD and MASK 0; None where ids do not
    say: unless the tokenizer is a byte-level BPE that knows every text and changes none."""
    spec, lengths = tokenizer.spec, np.zeros(tokenizer.info.vocab_size, np.int64)
    if model_kind(spec) != "BPE" or not is_byte_level(spec) or not knows_all_text(spec):
        return None
    harmless = {"NFC", "ByteLevel"}  # texts are in NFC when they are built into a pool
    if any(step.get("type") not in harmless for step in steps(spec.get("normalizer"))):
        return None
    for text, i in model_vocabulary(spec).items():
        lengths[i] = len(text)  # a byte-level vocabulary spells each byte as one character
    special = [tokenizer.info.eod, tokenizer.info.pad, tokenizer.info.mask]
    added = list(zip(spec.get("added_tokens") or [], added_ids(spec), strict=True))
    for token, i in added:
        lengths[i] = len(token["content"].encode())  # as text, in which a space is a space
    if any(token.get("lstrip") or token.get("rstrip") for token, i in added if i not in special):
        return None
    if any(step.get("add_prefix_space") for step in steps(spec.get("pre_tokenizer"))):
        return None
    lengths[special] = 0
    return lengths
