"""Special tokens out of a text's reach: EOD, PAD and MASK come from the build, never from what a document says.

A tokenizer can make a token of its spelling in two ways: as an added token, which is looked for before anything else,
and as an entry of its model's vocabulary. `encode_special_tokens` of Hugging Face `tokenizers` closes the first, and
only for tokens marked special. So ids are made by a changed description in which such a token has a name that no text
can hold, under its old number; merges that lead to it are left out. Every other text has the ids that it had before.
"""

import re
from collections.abc import Collection
from typing import Any

from ..common.errors import RequestError

Spec = dict[str, Any]
"""A parsed tokenizer.json."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def byte_to_char() -> dict[int, str]:
    """Return GPT-2's printable stand-in for each byte: itself where printable Latin-1, else U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    return {b: chr(b) for b in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}


def model_kind(spec: Spec) -> str:
    """Return the type of the tokenizer's model; old files do not name it."""
    model = spec["model"]
    if isinstance(model.get("type"), str):
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"


def model_vocabulary(spec: Spec) -> dict[str, int]:
    """Return token -> id of the model alone."""
    vocab = spec["model"]["vocab"]
    return vocab if isinstance(vocab, dict) else {entry[0]: i for i, entry in enumerate(vocab)}


def added_ids(spec: Spec) -> list[int]:
    """Return the ids that `tokenizers` gives the added tokens, in order: the model's, or the next free ones, whatever
    ids their entries state."""
    known, ids = dict(model_vocabulary(spec)), []
    size, last = len(spec["model"]["vocab"]), -1
    for token in spec.get("added_tokens") or []:
        new = known.get(token["content"])
        if new is None:
            new = last + 1 if last >= size else size
        known[token["content"]] = new
        last = max(last, new)
        ids.append(new)
    return ids


def steps(part: Any) -> list[dict[str, Any]]:
    """Return the steps of a normaliser or pre-tokenizer, those of sequences one after another."""
    if not part:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers")
    return [step for item in inner for step in steps(item)] if inner else [part]


def is_byte_level(spec: Spec) -> bool:
    """Return whether the model sees a stand-in for each byte instead of characters."""
    both = steps(spec.get("normalizer")) + steps(spec.get("pre_tokenizer"))
    return any(step.get("type") == "ByteLevel" for step in both)


def knows_all_text(spec: Spec) -> bool:
    """Return whether every character can be spelled, so that nothing becomes `unk_token` and nothing is dropped."""
    vocab = model_vocabulary(spec)
    kind = model_kind(spec)
    if kind == "BPE" and is_byte_level(spec) and all(char in vocab for char in byte_to_char().values()):
        return True
    fallback = kind in ("BPE", "Unigram") and spec["model"].get("byte_fallback")
    return bool(fallback) and all(f"<0x{byte:02X}>" in vocab for byte in range(256))


def unknown_id(spec: Spec) -> int | None:
    """Return the id that text without tokens of its own becomes, if there is one and such text."""
    if knows_all_text(spec):
        return None
    model = spec["model"]
    stated: int | None = model.get("unk_id")
    return stated if model_kind(spec) == "Unigram" else model_vocabulary(spec).get(model.get("unk_token"))


def without_special(spec: Spec, special: Collection[int], name: str) -> Spec:
    """Return the description of the tokenizer that gives texts their ids, of which none is in `special`.

    Args:
        name: of the tokenizer, for messages.

    Raises:
        RequestError: when text could not be encoded without one of them.
    """
    ids = added_ids(spec)
    vocab = model_vocabulary(spec)
    renamed = {token: f"\0{i}\0{token}" for token, i in vocab.items() if i in special}
    tokens = list(spec.get("added_tokens") or [])
    declared = {token["content"] for token in tokens}
    for token in renamed:
        _check_not_needed(spec, token, token in declared, name)
    unknown = unknown_id(spec)
    if unknown is not None and unknown in special:
        raise RequestError(
            f"tokenizer '{name}': text that it does not know would become its token {_token(vocab, unknown)!r}, which "
            "is EOD, PAD or MASK: name another one as tokenizer.eod, tokenizer.pad or tokenizer.mask"
        )
    for i, (token, its_id) in enumerate(zip(tokens, ids, strict=True)):
        if its_id in special:
            # Not `normalized`: a normaliser may take the NULs away. Special: not looked for.
            content = renamed.get(token["content"], f"\0{its_id}\0")
            tokens[i] = token | {"content": content, "special": True, "normalized": False}
    return spec | {"added_tokens": tokens, "model": _renamed(spec, renamed)}


def _check_not_needed(spec: Spec, token: str, declared: bool, name: str) -> None:
    """Raise RequestError when text that holds `token` could be spelled in no other way."""
    model = spec["model"]
    core = token.removeprefix(model.get("continuing_subword_prefix") or "")
    core = core.removesuffix(model.get("end_of_word_suffix") or "")
    letter = len(core) == 1 and not declared
    byte = (is_byte_level(spec) and token in byte_to_char().values()) or (
        bool(model.get("byte_fallback")) and bool(_BYTE.fullmatch(token))
    )
    if letter or byte:
        raise RequestError(
            f"tokenizer '{name}': text cannot be encoded without its token {token!r}, so it cannot be EOD, PAD or "
            "MASK: name another one"
        )


def _token(vocab: dict[str, int], number: int) -> str:
    return next(token for token, i in vocab.items() if i == number)


def _renamed(spec: Spec, names: dict[str, str]) -> dict[str, Any]:
    """Return the model with tokens called otherwise, which nothing leads to any more."""
    model = dict(spec["model"])
    if not names:
        return model
    if isinstance(model["vocab"], dict):
        vocab = dict(model["vocab"])
        renamed = {new: vocab.pop(token) for token, new in names.items()}
        model["vocab"] = vocab | renamed
    else:
        model["vocab"] = [[names.get(entry[0], entry[0]), *entry[1:]] for entry in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    prefix = len(model.get("continuing_subword_prefix") or "")
    if "merges" in model and (prefix or _may_lead_to(names, model["merges"])):
        pairs = ((merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
        model["merges"] = [
            merge for merge, (a, b) in pairs if not (a in names or b in names or a + b[prefix:] in names)
        ]
    return model


def _may_lead_to(names: Collection[str], merges: list[Any]) -> bool:
    """Return False where no merge takes or makes one of some tokens, as a look at all merges together shows."""
    if set(map(type, merges)) != {str}:
        return True
    together = "\n".join(merges).replace(" ", "")
    return any(name in together for name in names)
