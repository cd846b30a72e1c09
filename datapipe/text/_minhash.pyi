"""The compiled inner loops of signatures.py."""

from typing import Any

def sign(words: Any, starts: Any, ngram: int, factors: Any, summands: Any, signatures: Any) -> None:
    """Set the signatures of some texts, zeros for those that have no run of `ngram` words.

    words: uint64, text i's from starts[i] to starts[i + 1]. starts: int64 (n + 1,). factors, summands: uint64 (size,).
    signatures: uint32 (n, size), written to. ValueError: when they do not fit together.
    """

def fold(signatures: Any, values: Any) -> None:
    """Set one hash for each of as many values of a signature as follow each other.

    signatures: uint32 (n,). values: uint64 (m,), of which n is a multiple, written to. ValueError: when it is none.
    """
