"""A tokenizer as the rest of epochal sees it: ids of texts, texts of ids, special ids, and a fingerprint."""

import itertools
import json
import os
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common import storage
from ..common.errors import RequestError, one_line
from ..common.json_text import parse_json, strict_json
from ..shards.manifest import TokenizerInfo
from ..shards.tokenizer_file import tokenizer_fingerprint
from . import gpt2
from .engines import (
    Engine,
    FastEngine,
    TokenIds,
    fast_engine,
    hugging_face,
    mergeable_ranks,
    reference_engine,
    why_reference,
)
from .folders import StatedTokenizer, stated_tokenizer
from .merging import PieceEncoder
from .special import Spec, added_ids, model_vocabulary, unknown_id, without_special
from .unknown import UnknownCounter, unknown_counter

KNOWN_EOD = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "[SEP]")
KNOWN_PAD = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>")
KNOWN_MASK = ("<|mask|>", "<mask>", "[MASK]", "<|mdm_mask|>")


PROVED = frozenset({"c33cd66689b1261c517974d71dd1dd90"})
"""Fingerprints of tokenizers for which `why_reference` need not go through the vocabulary, which takes a quarter of a
second: GPT-2's. A test does."""


class Tokenizer:
    """A loaded tokenizer.

    Attributes:
        info: goes into manifests.
        spec: the parsed tokenizer.json.
        fast: whether an engine other than the reference may encode. Engines are made when they are needed, and left
            behind when the tokenizer is sent to another process.
    """

    def __init__(self, info: TokenizerInfo, spec: Spec, fast: bool = True) -> None:
        self.info, self.spec, self._allow_fast = info, spec, fast

    @cached_property
    def _text_spec(self) -> Spec:
        """The description by which texts are encoded: none becomes EOD, PAD or MASK."""
        return without_special(self.spec, self._special, self.info.name)

    @property
    def _special(self) -> set[int]:
        return {self.info.eod, self.info.pad, self.info.mask}

    @cached_property
    def why_reference(self) -> str | None:
        """Why texts are encoded by the reference, which is slow; None where gigatoken's ids are the same."""
        if not self._allow_fast:
            return "it is asked for"
        same = len(self._text_spec["model"].get("merges", ())) == len(self.spec["model"].get("merges", ()))
        return None if same and self.info.fingerprint in PROVED else why_reference(self._text_spec, self.ranks)

    @property
    def engine_name(self) -> str:
        """The engine that `encode` uses: `gigatoken`, checked against the reference, or `tokenizers`, which is it."""
        return "gigatoken" if self.why_reference is None else "tokenizers"

    @property
    def encode(self) -> Engine:
        """The function from texts to one uint32 array of ids each, without EOD; text never becomes a special id."""
        return self._fast.encode if self._fast else self.reference

    @property
    def encode_pieces(self) -> PieceEncoder | None:
        """The same for pieces, or None where the tokenizer does not split as GPT-2 does."""
        return self._fast.encode_pieces if self._fast else None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; EOD, PAD and MASK have none."""
        special = self._special
        return str(self._decoder.decode([i for i in ids if i not in special]))

    def decode_after(self, context: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text that `ids` add to that of `context`. The two are decoded together: many tokenizers spell a
        token otherwise at the beginning of a text, without its space for one."""
        before, whole = self.decode(context), self.decode([*context, *ids])
        differs = (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b)
        return whole[next(differs, len(before)) :]

    @cached_property
    def _fast(self) -> FastEngine | None:
        return fast_engine(self._text_spec) if self.why_reference is None else None

    @cached_property
    def _decoder(self) -> Any:
        return hugging_face(self.spec)

    @cached_property
    def reference(self) -> Engine:
        """The reference engine, which defines the ids."""
        return reference_engine(self._text_spec)

    def spell_bytes(self, ids: TokenIds) -> bool:
        """Return whether each of `ids` stands for some bytes, so that together they are those of one text."""
        return self._of_bytes is not None and bool(self._of_bytes[ids].all())

    @cached_property
    def ranks(self) -> dict[bytes, int] | None:
        """Bytes -> id of what a text may become, where that is byte-level BPE in the order of its merges, else None."""
        return mergeable_ranks(self._text_spec)

    @cached_property
    def _of_bytes(self) -> NDArray[np.bool_] | None:
        if self.ranks is None:
            return None
        spelled = np.zeros(self.info.vocab_size, np.bool_)
        spelled[list(self.ranks.values())] = True
        return spelled

    @cached_property
    def unknown_id(self) -> int | None:
        """The id that stands for text without tokens of its own, if there is one and such text."""
        return unknown_id(self.spec)

    @cached_property
    def count_unknown(self) -> UnknownCounter | None:
        """What counts how much of a text the tokenizer does not know; None where it knows every text."""
        return unknown_counter(self._text_spec)

    def on_reference(self) -> "Tokenizer":
        """Return the same tokenizer on the reference engine."""
        return Tokenizer(self.info, self.spec, fast=False)

    def first_difference(self, texts: Sequence[str], encoded: Sequence[TokenIds]) -> int | None:
        """Return the index of the first of `texts` whose ids in `encoded` are not the reference's, or None."""
        if not self._fast or not texts:
            return None
        pairs = zip(encoded, self.reference(texts), strict=True)
        return next((i for i, (a, b) in enumerate(pairs) if not np.array_equal(a, b)), None)

    def prepare(self) -> None:
        """Make the engines now rather than when they are needed."""
        if not self.encode_pieces:
            self.encode([""])
        self.reference  # noqa: B018

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.info, self.spec, self._allow_fast), {"why_reference": self.why_reference}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tokenizer":
        return self  # nothing in it changes


def load_tokenizer(
    name: str, eod: str | None = None, pad: str | None = None, mask: str | None = None, fast: bool = True
) -> Tokenizer:
    """Return the tokenizer `name`: `gpt2` (offline), the path of a tokenizer.json, the folder of an artifact, export or
    model, or a name on the hub.

    A folder of ours says which ids are special. Elsewhere, where the vocabulary has no MASK or PAD, they get the next
    ids after it, in that order.

    Args:
        eod: the special tokens' texts where they are not the usual ones.
        pad: the special tokens' texts where they are not the usual ones.
        mask: the special tokens' texts where they are not the usual ones.
        fast: as of Tokenizer.

    Raises:
        RequestError: when the tokenizer cannot be loaded or has no EOD.
        WorkError: when the folder, or the tokenizer.json in it, is damaged.
    """
    name = storage.local_path(name)
    if name == "gpt2":
        return _gpt2(eod, pad, mask, fast)
    stated = None if eod or pad or mask else stated_tokenizer(name)
    if stated is not None:
        return _tokenizer_of(stated, name, fast)
    return _checked(_with_special(_load_spec(name), name, eod, pad, mask, fast), name)


@lru_cache(maxsize=4)
def _gpt2(eod: str | None, pad: str | None, mask: str | None, fast: bool) -> Tokenizer:
    """Return GPT-2's tokenizer, made once in a process: it takes half a second with its engines, and nothing in it
    changes."""
    return _with_special(_load_spec("gpt2"), "gpt2", eod, pad, mask, fast)


def _with_special(spec: Spec, name: str, eod: str | None, pad: str | None, mask: str | None, fast: bool) -> Tokenizer:
    """Return a tokenizer whose file says nothing of PAD and MASK, with its special ids; see `load_tokenizer`."""
    vocab = _vocabulary(spec, name)
    next_id = max(vocab.values()) + 1
    eod_id = _special(vocab, eod, KNOWN_EOD, "eod", name)
    if eod_id is None:
        raise RequestError(f"tokenizer '{name}' has no end-of-document token: name one of its tokens as tokenizer.eod")
    mask_id = _special(vocab, mask, KNOWN_MASK, "mask", name)
    if mask_id is None:
        mask_id, next_id = next_id, next_id + 1
    pad_id = _special(vocab, pad, KNOWN_PAD, "pad", name)
    if pad_id is None:
        pad_id, next_id = next_id, next_id + 1
    if len({eod_id, pad_id, mask_id}) < 3:
        raise RequestError(f"tokenizer '{name}': eod, pad and mask must be three different tokens")
    info = TokenizerInfo(
        name=os.path.basename(name.rstrip("/")) if os.path.exists(name) else name,
        fingerprint=tokenizer_fingerprint(spec),
        vocab_size=next_id,
        eod=eod_id,
        pad=pad_id,
        mask=mask_id,
    )
    return Tokenizer(info, spec, fast)


def _checked(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """Return a tokenizer that was made from somebody's file, if it can encode, and always alike."""
    dropout = tokenizer.spec["model"].get("dropout")
    if dropout:
        raise RequestError(
            f"tokenizer '{name}' encodes at random (dropout {dropout}): set model.dropout to null in its tokenizer.json"
        )
    tokenizer.reference  # noqa: B018  (refused now rather than in a task)
    return tokenizer


def folder_tokenizer(folder: str, path: str | None = None) -> Tokenizer:
    """Return the tokenizer that made the ids of the artifact, export or model in `folder` (local or URL), with the
    special ids that the folder states.

    Args:
        path: a tokenizer.json to be read instead of what the folder carries; it must be the same tokenizer.

    Raises:
        RequestError: when it cannot be loaded, or is another one.
        WorkError: when the folder, or the tokenizer.json in it, is damaged.
    """
    stated = stated_tokenizer(folder)
    if stated is None:
        raise RequestError(f"{folder} is neither an artifact nor a model of epochal")
    if path is None:
        return _tokenizer_of(stated, folder)
    spec = _load_spec(path)
    if tokenizer_fingerprint(spec) != stated.info.fingerprint:
        raise RequestError(f"{path} is not the tokenizer that the ids of {folder} were made with ({stated.info.name})")
    return _checked(Tokenizer(stated.info, spec), path)


def _tokenizer_of(stated: StatedTokenizer, folder: str, fast: bool = True) -> Tokenizer:
    """Return the tokenizer that a folder carries or, where it carries none, the one of the name that it states."""
    if stated.file is not None:
        return _checked(Tokenizer(stated.info, parse_json(stated.file, f"{folder}'s tokenizer.json"), fast), folder)
    name = stated.info.name
    try:
        if name.startswith(("/", ".", "~")):
            raise RequestError("no build writes that name")
        spec = _load_spec(name)
        same = tokenizer_fingerprint(spec) == stated.info.fingerprint
    except RequestError:
        same = False
    if not same:
        raise RequestError(
            f"{folder} carries no tokenizer.json, and no tokenizer '{name}' that made its ids is at hand: "
            "name its file (--tokenizer PATH, in a build tokenizer.name=PATH)"
        )
    return _checked(Tokenizer(stated.info, spec, fast), folder)


def _load_spec(name: str) -> dict[str, Any]:
    if name == "gpt2":
        return gpt2.tokenizer_json()
    path = os.path.join(name, "tokenizer.json") if os.path.isdir(name) else name
    if path != name and not os.path.exists(path):
        raise RequestError(f"tokenizer {name} is a folder without a tokenizer.json: name the file itself")
    if os.path.exists(path):
        try:
            spec = strict_json(storage.read_bytes(path))
        except (ValueError, OSError) as error:
            raise RequestError(f"{path} is not a tokenizer.json: {one_line(error)}") from None
    elif name.endswith(".json") or name.startswith((".", "/", "~")):
        raise RequestError(f"tokenizer file {name} does not exist")
    else:
        spec = _from_hub(name)
    if not isinstance(spec, dict) or "model" not in spec:
        raise RequestError(f"{path} is not a tokenizer.json: it has no 'model'")
    return spec


def _from_hub(name: str) -> dict[str, Any]:
    from tokenizers import Tokenizer as HuggingFace

    try:
        return json.loads(HuggingFace.from_pretrained(name).to_str())
    except Exception as error:  # the library raises plain Exception for everything
        reason = one_line(error, 160)
        raise RequestError(
            f"tokenizer '{name}' is neither a file nor reachable on the hub: use gpt2 or a tokenizer.json ({reason})"
        ) from None


def _vocabulary(spec: dict[str, Any], name: str) -> dict[str, int]:
    """Return text -> id of the model's tokens and the added ones."""
    try:
        tokens = dict(model_vocabulary(spec))
        added = [token["content"] for token in spec.get("added_tokens") or []]
        tokens |= dict(zip(added, added_ids(spec), strict=True))
    except (TypeError, KeyError, IndexError, AttributeError):
        tokens = {}
    if not tokens or not all(isinstance(i, int) for i in tokens.values()):
        raise RequestError(f"tokenizer '{name}' cannot be read: its vocabulary has no known form")
    return tokens


def _special(vocab: dict[str, int], token: str | None, known: tuple[str, ...], role: str, name: str) -> int | None:
    if token is not None and token not in vocab:
        raise RequestError(f"tokenizer '{name}' has no token '{token}' to be tokenizer.{role}")
    candidates = (token,) if token is not None else known
    return next((vocab[text] for text in candidates if text in vocab), None)


def spell(ids: Sequence[int], names: dict[int, str], decode: Callable[[Sequence[int]], str]) -> str:
    """Return the text of `ids`, those that have `names` by these."""
    runs = itertools.groupby(ids, names.get)  # one after another with the same name, or without one
    return "".join(decode(list(run)) if name is None else name * len(list(run)) for name, run in runs)


Decoder = Callable[[NDArray[Any]], str | None]
"""The text of ids (n,), or None where they are no text."""


def decoder(tokenizer: Tokenizer) -> Decoder:
    """Return the function that decodes ids and answers None where they are not whole UTF-8.

    Byte-level BPE is decoded byte by byte, so that encoding a text and decoding it gives the text itself. For others
    the tokenizer's own decoder is used, which cannot bring back what its normaliser changed (spaces, capitals).
    """
    ranks = tokenizer.ranks
    if ranks is None:
        unknown = tokenizer.unknown_id  # it stands for text that is lost, and is none itself
        return lambda ids: tokenizer.decode(ids[ids != unknown].tolist())
    table = {id_: token for token, id_ in ranks.items()}
    table |= {t["id"]: t["content"].encode() for t in tokenizer.spec.get("added_tokens") or []}

    def decode(ids: NDArray[Any]) -> str | None:
        try:
            return b"".join([table.get(i, b"") for i in ids.tolist()]).decode()
        except UnicodeDecodeError:
            return None

    return decode
