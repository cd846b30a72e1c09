"""The documents of an artifact, and the part of each by which a model's memory of it is measured.

A model reads samples, and a document may lie in several, which are not always fed equally often. So a document is
measured by its longest part in one sample: that part was read as a whole, as often as its sample was, and begins after
EOD in training too, be it that of the document before or the one that every sample begins with.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...common.hashing import derive_words, mix64
from ...shards.artifact import Artifact
from ...shards.documents import find_documents, iter_documents
from ...shards.loader.sample_reader import SampleReader
from ...shards.order.contents import documents_of

Ints = NDArray[np.int64]
Keys = NDArray[np.void]


@dataclass(frozen=True)
class Documents:
    """Documents with a token in an artifact, arrays of shape (n,).

    Attributes:
        keys: dtype V16.
        samples: that hold the part that is measured.
        begins: of the part, in its sample.
        tokens: of the part, int64.
        whole: all of the document lies in the artifact; where that cannot be known, False.
    """

    keys: Keys
    samples: Ints
    begins: Ints
    tokens: Ints
    whole: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.keys)

    def words(self, seed: int) -> NDArray[np.uint64]:
        """Return a random word of each document, uint64 (n,): a pure function of `seed` and its key."""
        low = np.ascontiguousarray(self.keys).view("<u8").reshape(-1, 2)
        first, second = derive_words("memorisation", seed, 0, 2)
        return mix64(mix64(low[:, 0] ^ first) ^ low[:, 1] ^ second)


def documents_in(artifact: Artifact, most_tokens: int) -> Documents:
    """Return the documents that have a token in `artifact`, in the order of the stream.

    Args:
        most_tokens: of a part; what is longer is measured by its first.

    Raises:
        RequestError: when the artifact has no table of documents.
        WorkError: when that is damaged.
    """
    documents_of(artifact)  # says what is wrong where there is no table
    found = find_documents(artifact.root, artifact.manifest)
    assert found is not None, "documents_of would have raised"
    root, files, first = found
    keys, starts, tokens = [], [], []
    for chunk in iter_documents(root, ["key", "start", "tokens"], files):
        low, high = first, first + artifact.manifest.tokens
        inside = (chunk["start"] < high) & (chunk["start"] + chunk["tokens"] > low)
        keys.append(np.frombuffer(b"".join(chunk["key"][inside]), "V16"))
        starts.append(chunk["start"][inside] - first)
        tokens.append(chunk["tokens"][inside])
    begin, length = np.concatenate(starts).astype(np.int64), np.concatenate(tokens).astype(np.int64)
    inside = np.maximum(begin, 0)
    of_it = np.minimum(begin + length, artifact.manifest.tokens) - inside
    at, of_part = longest_parts(inside, of_it, artifact.manifest.seq_len)
    return Documents(
        keys=np.concatenate(keys),
        samples=at // artifact.manifest.seq_len,
        begins=at % artifact.manifest.seq_len,
        tokens=np.minimum(of_part, most_tokens),
        whole=_whole(artifact, begin, length),
    )


def longest_parts(begins: Ints, tokens: Ints, seq_len: int) -> tuple[Ints, Ints]:
    """Return where the longest part in one sample of each document begins, and its tokens: the first of equal ones.

    Args:
        begins: int64 (n,), of documents, from the first token of the first sample.
        tokens: int64 (n,), of documents.
    """
    edge = (begins // seq_len + 1) * seq_len
    before = np.minimum(tokens, edge - begins)
    after = np.minimum(tokens - before, seq_len)  # of all parts that follow, the first is the longest
    later = after > before
    return np.where(later, edge, begins), np.where(later, after, before)


def _whole(artifact: Artifact, begins: Ints, tokens: Ints) -> NDArray[np.bool_]:
    """Return which documents have no token outside of the artifact.

    The table of a copy tells of its own tokens alone: there the first is doubted where the copy begins within its
    pool, and the last where it does not end with EOD. One that was carved without documents may hold only a part of
    any other that begins or ends where a sample does.
    """
    m = artifact.manifest
    whole = (begins >= 0) & (begins + tokens <= m.tokens)
    if m.without is not None:
        return whole & (begins % m.seq_len != 0) & ((begins + tokens) % m.seq_len != 0)
    if m.parent is not None and m.materialized:
        last = SampleReader.of(artifact).read([m.samples - 1])[0, m.tokens - 1 - (m.samples - 1) * m.seq_len]
        whole[0] &= m.parent.start_sample == 0
        whole[-1] &= last == m.tokenizer.eod
    return whole
