"""Which document each token of a sample is of, from the places of EOD, which ends documents.

A document-masked model (`model.document_mask`) attends within documents alone. What an autoregressive one reads,
[EOD] + x[:-1], has a document begin at each EOD, as every text that it reads later does; what a masked-diffusion one
reads, x, has each EOD end its document. Places are those of the clean text, so that noise does not move them: a
masked-diffusion model is told where documents end, whether their EOD is masked or not.
"""

import numpy as np
from numpy.typing import NDArray

DocumentIds = NDArray[np.int32]
"""int32 (rows, length): numbers of documents, which never fall along a row."""

TokenIds = NDArray[np.int64]

GIVEN_LENGTHS = "_given_lengths"
"""What names of losses end with that are of the text given where its documents end."""


def of_inputs(inputs: NDArray[np.int64], eod: int) -> DocumentIds:
    """Return the documents of [EOD] + x[:-1], int64 (rows, length): a document begins at each EOD."""
    return np.cumsum(inputs == eod, axis=1, dtype=np.int32)


def of_text(tokens: NDArray[np.int64], real: NDArray[np.bool_], eod: int) -> DocumentIds:
    """Return the documents of x, int64 (rows, length): each EOD ends its own; PAD is together, apart from all text.

    Args:
        real: bool (rows, length), False on PAD.
    """
    ends = tokens == eod
    ids = np.cumsum(ends, axis=1, dtype=np.int32) - ends
    return np.where(real, ids, np.int32(tokens.shape[1]))


def parts(row: TokenIds, eod: int) -> list[TokenIds]:
    """Return the documents, or parts of documents, of a text (n,), n >= 1: each but perhaps the last ends with EOD."""
    pieces = np.split(row, np.flatnonzero(row == eod) + 1)
    return [piece for piece in pieces if len(piece)]


def last(context: TokenIds, eod: int, causal: bool) -> TokenIds:
    """Return what a document-masked model sees of a context before it goes on: the document that is not over yet.

    An autoregressive model's begins with EOD; a masked-diffusion model's does not, and may be empty.
    """
    ends = np.flatnonzero(context == eod)
    if not len(ends):
        return context
    return context[ends[-1] + (0 if causal else 1) :]
