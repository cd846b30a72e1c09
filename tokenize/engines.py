"""Engines: functions from texts to ids. The reference is Hugging Face `tokenizers`; a faster engine must equal it.

gigatoken does for BPE of bytes, and as SentencePiece trains it, where the tokenizer's description shows it: see
`why_reference`. Where the expression is GPT-2's, the fast engine can also encode piece by piece, each distinct piece
once (see pieces.py).

Both are given descriptions in which nothing leads to EOD, PAD or MASK (see special.py).
"""

import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ..common.errors import RequestError, WorkError, one_line
from .merging import PieceEncoder, made_by, piece_encoder
from .special import Spec, byte_to_char, knows_all_text, model_kind, steps

TokenIds = NDArray[np.uint32]
Engine = Callable[[Sequence[str]], list[TokenIds]]
"""The ids of each of some texts."""


@dataclass(frozen=True)
class FastEngine:
    """Attributes:
    encode: texts to ids.
    encode_pieces: pieces to ids; None where the tokenizer does not split as GPT-2 does.
    """

    encode: Engine
    encode_pieces: PieceEncoder | None


_BYTE_LEVEL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD, _SUFFIX = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (
    rf"{_WORD}{_UPPER}*{_LOWER}+{_SUFFIX}|{_WORD}{_UPPER}+{_LOWER}*{_SUFFIX}|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KNOWN_PATTERNS = (_BYTE_LEVEL, _CL100K, _CL100K.replace("{1,3}", ""), _O200K)
"""Expressions of released tokenizers (GPT-2; cl100k and Llama 3; Qwen 2; o200k), letter by letter. `tokenizers` reads
them with Oniguruma, gigatoken has code for each, and no other expression is trusted; the tests compare these over all
of Unicode. None of them leaves a character out."""


def reference_engine(spec: Spec) -> Engine:
    """Return the engine that defines the ids: Hugging Face `tokenizers`, special tokens in a text read as text. It
    raises WorkError for what the tokenizer cannot encode.

    Raises:
        RequestError: when `tokenizers` cannot read `spec`.
    """
    tokenizer = hugging_face(spec)
    tokenizer.encode_special_tokens = True  # `<|endoftext|>` inside a document must not become EOD
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(texts: Sequence[str]) -> list[TokenIds]:
        try:
            encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises plain Exception: for a word without a token, say
            raise WorkError(f"the tokenizer cannot encode a text: {one_line(error, 160)}") from None
        return [np.array(e.ids, np.uint32) for e in encodings]

    return encode


def hugging_face(spec: Spec) -> Any:
    """Return the `tokenizers.Tokenizer` that `spec` describes.

    Raises:
        RequestError: when it describes none.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(_json(spec))
    except Exception as error:  # the library raises plain Exception for everything
        raise RequestError(f"this tokenizer.json is none that `tokenizers` reads: {one_line(error, 160)}") from None


def _json(spec: Spec) -> str:
    try:
        return orjson.dumps(spec).decode()
    except TypeError:  # a lone surrogate, a number of more than 64 bits
        return json.dumps(spec)


def fast_engine(spec: Spec) -> FastEngine:
    """Return an engine with the reference's ids. `why_reference` must have been None."""
    left = _left_to_reference(spec)
    reference, fast = (functools.cache(functools.partial(make, spec)) for make in (reference_engine, _gigatoken))

    def encode(texts: Sequence[str]) -> list[TokenIds]:
        return [reference()([text])[0] if left(text) else fast().encode(text) for text in texts]

    piecewise = _split_pattern(spec) == _BYTE_LEVEL and not spec.get("normalizer") and not _plain_tokens(spec)
    return FastEngine(encode, piece_encoder(spec) if piecewise else None)


def _gigatoken(spec: Spec) -> Any:
    """Return gigatoken's tokenizer for texts that are not left to the reference."""
    from gigatoken import Tokenizer

    bare = spec | {"added_tokens": [], "post_processor": None}
    if (pattern := _split_pattern(spec)) is not None:
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": pattern == _BYTE_LEVEL}
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        both = {"type": "Sequence", "pretokenizers": [split, byte_level]}
        bare |= {"normalizer": None, "pre_tokenizer": byte_level if pattern == _BYTE_LEVEL else both}
    return Tokenizer.from_json(_json(bare))


def _left_to_reference(spec: Spec) -> Callable[[str], bool]:
    """Return what says whether a text is left to the reference: one that holds an added token which is looked for in
    texts, that NFC changes, or that has a character which a version of Unicode may know and another not."""
    plain = _plain_tokens(spec)
    seeks = re.compile("|".join(map(re.escape, plain))) if plain else None
    composes = any(step.get("type") == "NFC" for step in steps(spec.get("normalizer")))

    def left(text: str) -> bool:
        if seeks and seeks.search(text):
            return True
        if text.isascii():
            return False
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        return not _assigned()[points].all() or (composes and not unicodedata.is_normalized("NFC", text))

    return left


@functools.cache
def _assigned() -> NDArray[np.bool_]:
    """Return which of all characters are assigned in Python's version of Unicode, which is older than those of the
    engines: what a character is, and what it is composed to, does not change in later versions."""
    return np.array([unicodedata.category(chr(point)) not in ("Cn", "Cs") for point in range(0x110000)])


def _plain_tokens(spec: Spec) -> list[str]:
    """Return the added tokens that are looked for in texts, as they are written and as NFC makes them."""
    plain = [token["content"] for token in spec.get("added_tokens") or [] if not token.get("special")]
    return list(dict.fromkeys([*plain, *(unicodedata.normalize("NFC", token) for token in plain)]))


def why_reference(spec: Spec, ranks: dict[bytes, int] | None) -> str | None:
    """Return why only the reference may encode, or None where gigatoken's ids are the same.

    Args:
        ranks: its `mergeable_ranks`.

    The proof. Neither changes a text that gigatoken is given, or finds added tokens in it (see `_left_to_reference`),
    but for Llama 2's blanks, for which both put marks. Both cut it at the same places, which is no proof, but tested
    over all of Unicode: the expression is a known one, or there is none. Both then merge, again and again, the two
    neighbours that come first: `tokenizers` in its list of merges, the other in the order of ids among all neighbours
    that together are a token. Two neighbours inside a piece have been made as if the bytes that they cover were the
    whole piece, which goes through one state of two parts at most. So if merging every token's own bytes gives that
    token, neighbours that make up a token are in the list, always the same two; and with a list in the order of ids,
    the two engines choose alike. Then also it does not matter who looks up whole pieces first.
    """
    if model_kind(spec) != "BPE":
        return f"its model is {model_kind(spec)}, not BPE"
    if "" in _plain_tokens(spec):
        return "one of its added tokens is empty"
    if not _one_sequence(spec.get("post_processor")):
        return "its post-processor is not a usual one"
    strange = sorted(spec["model"].keys() - {*_PLAIN_MODEL, *_HARMLESS})
    if unusual := strange + [key for key in _PLAIN_MODEL if spec["model"].get(key)]:
        return f"its model has {unusual[0]}"
    if why := _why_cut_otherwise(spec):
        return why
    if not knows_all_text(spec):
        return "its vocabulary lacks some of the 256 bytes"
    made = _made_in_order(made_by(spec["model"]["merges"]), spec["model"]["vocab"]) if ranks is None else ranks.values()
    return "its ids are not in the order of its merges" if made is None else _unreachable(spec, set(made))


def _why_cut_otherwise(spec: Spec) -> str | None:
    """Return why a text may be cut into pieces otherwise than gigatoken does, or None."""
    if steps(spec.get("normalizer")) == _LLAMA_2 and not spec.get("pre_tokenizer"):
        if spec["model"].get("ignore_merges"):
            return "its model has ignore_merges"
        return "its merges take bytes" if any("<0x" in token for token in made_by(spec["model"]["merges"])) else None
    if any(step.get("type") != "NFC" for step in steps(spec.get("normalizer"))):
        return "its normaliser is another than NFC"
    if (pattern := _split_pattern(spec)) is None:
        return "its pre-tokenizer is not that of byte-level BPE"
    if pattern not in KNOWN_PATTERNS:
        return "its expression is not one of GPT-2, cl100k (Llama 3), Qwen 2 and o200k, letter by letter"
    return "its model has byte_fallback" if spec["model"].get("byte_fallback") else None


_LLAMA_2 = [
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
]
"""The steps of Llama 2's normaliser, as of the tokenizers that SentencePiece trained with BPE."""

_PLAIN_MODEL = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
"""Options of a BPE model that must not be set."""

_HARMLESS = ("type", "vocab", "merges", "unk_token", "fuse_unk", "ignore_merges", "byte_fallback")
"""What else it may have: unknown text does not occur where all 256 bytes are known."""


def _one_sequence(post_processor: Any) -> bool:
    """Return whether a post-processor leaves the ids of a text as they are when it adds no special tokens."""
    if not post_processor:
        return True
    inner = post_processor.get("processors")
    if inner is not None:
        return all(map(_one_sequence, inner))
    if post_processor.get("type") == "TemplateProcessing":
        return sum("Sequence" in piece for piece in post_processor.get("single") or []) == 1
    return post_processor.get("type") in ("ByteLevel", "BertProcessing", "RobertaProcessing")


def _unreachable(spec: Spec, made: set[int]) -> str | None:
    """Return what is wrong when merging a token's own bytes does not give that token, or a whole piece may be a token
    that is not made by merging."""
    vocab = spec["model"]["vocab"]
    if spec["model"].get("ignore_merges"):
        others = [token for token, i in vocab.items() if i not in made and "\0" not in token]
        if others:
            return f"its token {others[0]!r} is not made by merges, but found as a whole (ignore_merges)"
    model = hugging_face(spec | {"model": spec["model"] | {"ignore_merges": False}}).model
    for token, i in vocab.items():
        if i in made and [part.id for part in model.tokenize(token)] != [i]:
            return f"its token {token!r} cannot be made by its merges"
    return None


def _split_pattern(spec: Spec) -> str | None:
    """Return the expression that cuts text into pieces before merging, where that is all the pre-tokenizer does."""
    parts = steps(spec.get("pre_tokenizer"))
    kinds = [part.get("type") for part in parts]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]) or parts[-1].get("add_prefix_space", True):
        return None
    if kinds == ["ByteLevel"]:
        return _BYTE_LEVEL if parts[0].get("use_regex", True) else None
    split, byte_level = parts
    # Two ways to say the same of an expression that leaves no character out.
    isolated = (split.get("behavior"), bool(split.get("invert"))) in (("Isolated", False), ("Removed", True))
    if not isolated or byte_level.get("use_regex", True) or not isinstance(split.get("pattern"), dict):
        return None
    pattern: str | None = split["pattern"].get("Regex")
    return pattern


def mergeable_ranks(spec: Spec) -> dict[bytes, int] | None:
    """Return token bytes -> id of byte-level BPE, or None unless all 256 bytes have an id and merges are in the order
    of the ids of what they make. Several merges may make one token."""
    model = spec["model"]
    if model_kind(spec) != "BPE" or any(model.get(key) for key in (*_PLAIN_MODEL, "byte_fallback")):
        return None
    to_byte = {char: byte for byte, char in byte_to_char().items()}
    vocab: dict[str, int] = model["vocab"]
    if any(char not in vocab for char in to_byte):
        return None
    merges = made_by(model["merges"])
    if _made_in_order(merges, vocab) is None or set("".join(merges)) - to_byte.keys():
        return None
    tokens = [*to_byte, *dict.fromkeys(merges)]
    # A character stands for a byte each, so the tokens are translated together and cut apart again.
    table = np.zeros(1 << 16, np.uint8)
    table[list(map(ord, to_byte))] = list(to_byte.values())
    together = table[np.frombuffer("".join(tokens).encode("utf-16-le"), "<u2")].tobytes()
    ends = list(itertools.accumulate(map(len, tokens), initial=0))
    spelled = map(together.__getitem__, map(slice, ends, ends[1:]))
    return dict(zip(spelled, map(vocab.__getitem__, tokens), strict=True))


def _made_in_order(merges: list[str], vocab: dict[str, int]) -> Iterable[int] | None:
    """Return the ids of the tokens that merges make, or None unless merges are in the order of these."""
    ids = np.fromiter(map(vocab.get, merges, itertools.repeat(-1)), np.int64, len(merges))
    return None if (np.diff(ids, prepend=0) < 0).any() else map(int, ids)
