"""What of a text a tokenizer does not know: it becomes `unk_token`, or is dropped without a trace."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engines import hugging_face
from .special import Spec, knows_all_text, model_kind, model_vocabulary, unknown_id

UnknownCounter = Callable[[Sequence[str], Sequence[NDArray[Any]]], NDArray[np.int64]]
"""From some texts and their ids: how much of each is unknown, in tokens or, where there is no token, in characters."""


def unknown_counter(spec: Spec) -> UnknownCounter | None:
    """Return what counts the unknown in texts; None where every text can be spelled."""
    if knows_all_text(spec):
        return None
    unknown = unknown_id(spec)
    if unknown is None and model_kind(spec) == "BPE":  # of the others, none encodes what it does not know
        dropped = _dropped(spec)
        return lambda texts, _: np.array(list(map(dropped, texts)), np.int64)
    return lambda _, encoded: np.array([np.count_nonzero(ids == unknown) for ids in encoded], np.int64)


def _dropped(spec: Spec) -> Callable[[str], int]:
    """Return what counts the characters of a text that a BPE model without `unk_token` leaves out."""
    tokenizer = hugging_face(spec)
    normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    cut = tokenizer.pre_tokenizer.pre_tokenize_str if tokenizer.pre_tokenizer else lambda text: [(text, None)]
    prefix = spec["model"].get("continuing_subword_prefix") or ""
    suffix = spec["model"].get("end_of_word_suffix") or ""
    known = {token.removeprefix(prefix).removesuffix(suffix) for token in model_vocabulary(spec)}

    def count(text: str) -> int:
        return sum(char not in known for piece, _ in cut(normalise(text)) for char in piece)

    return count
