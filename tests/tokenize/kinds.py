"""Tokenizers of every kind, trained here on local text, and texts made to trip them up."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from epochal.tests.support.corpora import real_documents
from epochal.tokenize.special import byte_to_char

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
EXPRESSIONS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}",
    "qwen2": rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}",
    "o200k": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTION}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{REST}"
    ),
}
"""As in the tokenizer.json of GPT-2, Llama 3 (and cl100k), Qwen 2 and o200k."""

TIKTOKENS_OWN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
"""What tiktoken has for cl100k; `tokenizers` reads `{1,3}+` otherwise."""

# Spellings of special tokens, also as normalisers make them; quotes and contractions, with letters that fold to s and
# k; white space and line ends of all kinds; digits, scripts, marks, emoji, controls, the edges of the surrogates.
SNIPPETS = [
    *("<|endoftext|>", "<|im_end|>", "</s>", "</S>", "＜/s＞", "<pad>", "[MASK]", "[mask]", "[SEP]", "<unk>"),
    *("[UNK]", "<s>"),
    *("<|endoftext", "|>", "<0x0A>", "##ing", "▁the", "Ġthe", "<tool>", " <tool> ", "[PAD]", "<mask>"),
    *("<|end_of_text|>",),
    *("'s", "'S", "'ſ", "'\u212a", "'re", "'VE", "'ll", "'lL", "'d", "’s", "''t", "'", '"', "`", "don't", "I'M", "'İ"),
    *("'ﬁ", "ß'ſt"),
    *(" ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", "\x0b", "\x0c", "\x1c", "\x1f", "\x85", "\xa0", " \n"),
    *("\n \n  ",),
    *("\u1680", "\u180e", "\u2003", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u200b", "\u2060", "\ufeff"),
    *("\u200d",),
    *("0", "7", "42", "123", "1234567", "٣٤٥", "४५", "１２", "½", "²", "Ⅻ", "①", "𝟙𝟚", "3.14", "1,000"),
    *("a", "the", " the", "The", "THE", "return", " self", "def ", "ing", "lower", "Upper", "camelCase", "XMLHttp"),
    *("é", "e\u0301", "\u0301", "a\u0300\u0316", "ñ", "Å", "ﬁ", "ǅ", "ʰ", "ª", "ſ", "\u212a", "ß", "ẞ", "İ", "ı", "Σς"),
    *("漢字", "かな", "カ\u3099", "한국어", "ไทย", "हिन्दी", "العربية", "\u0640", "עברית", "ქართ", "ⴓ", "ᏸ", "Ꮿ"),
    *("𐐀", "𞤀"),
    *("🙂", "👩‍👩‍👧", "🏳️‍🌈", "🇩🇪", "\ufe0f", "\u20e3", "☃", "€", "™", "∑", "…", "—", "_", "__", "/", "//"),
    *("\\", "{}", "();", "#", "@"),
    *("\x01", "\x07", "\x1b[0m", "\x7f", "\x80", "\xad", "\ud7ff", "\ue000", "\ufffd", "\ufffe", "\U0010ffff"),
    *("\U000e0001",),
]


def hostile_texts(n: int, seed: int) -> list[str]:
    """Return `n` short texts of random snippets."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 8, n)
    chosen = iter(rng.integers(0, len(SNIPPETS), int(lengths.sum())).tolist())
    return ["".join([SNIPPETS[next(chosen)] for _ in range(length)]) for length in lengths.tolist()]


def _corpus() -> list[str]:
    return [*real_documents(40, 1500), *hostile_texts(1500, seed=99)]


def byte_level(expression: str | None, special: str = "<|endoftext|>", **model: Any) -> dict[str, Any]:
    """Return a byte-level BPE tokenizer.json: split by an expression, or as GPT-2 is."""
    tokenizer = Tokenizer(models.BPE(**model))
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=expression is None)
    if expression is not None:
        split = pre_tokenizers.Split(Regex(expression), "isolated", False)
        whole = pre_tokenizers.Sequence([split, whole])
    tokenizer.pre_tokenizer, tokenizer.decoder = whole, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(_corpus(), trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([special])
    return json.loads(tokenizer.to_str())


def all_pairs(expression: str) -> dict[str, Any]:
    """Return a byte-level BPE tokenizer.json in which any two bytes side by side in a piece are a token, so that ids
    show where an expression cuts."""
    stand_in = list(byte_to_char().values())
    pairs = [[a, b] for a in stand_in for b in stand_in]
    vocab = {token: i for i, token in enumerate([*stand_in, *map("".join, pairs), "<|endoftext|>"])}
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "added_tokens": [],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "model": {"type": "BPE", "vocab": vocab, "merges": pairs},
    }


def _with_added(spec: dict[str, Any], *tokens: AddedToken) -> dict[str, Any]:
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.add_tokens(list(tokens))
    return json.loads(tokenizer.to_str())


def cl100k_removed() -> dict[str, Any]:
    """As others write it: what does not match removed, which is nothing; whole words looked up first."""
    spec = byte_level(EXPRESSIONS["cl100k"], ignore_merges=True)
    spec["pre_tokenizer"]["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
    return spec


def qwen2_nfc() -> dict[str, Any]:
    """As released: NFC first, and tokens that are not special; its EOD is one of them here."""
    spec = byte_level(EXPRESSIONS["qwen2"], special="<|im_start|>") | {"normalizer": {"type": "NFC"}}
    end = AddedToken("<|endoftext|>", special=False, lstrip=True, rstrip=True, normalized=True)
    return _with_added(spec, end, AddedToken("<tool>", special=False, normalized=False))


def llama2() -> dict[str, Any]:
    """BPE as SentencePiece makes it, bytes for what it does not know."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    names = [*special, *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer.train_from_iterator(
        real_documents(40, 1500), trainers.BpeTrainer(vocab_size=1000, special_tokens=names, max_token_length=12)
    )
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in special]
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    spec["decoder"] = json.loads(tokenizer.to_str())["decoder"]
    return spec | {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}


def unigram(byte_fallback: bool = False) -> dict[str, Any]:
    """As T5's; with bytes for what it does not know, as Gemma's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(_corpus()[::4], trainer)
    spec = json.loads(tokenizer.to_str())
    if byte_fallback:
        spec["model"]["vocab"] += [[f"<0x{i:02X}>", -20.0] for i in range(256)]
        spec["model"]["byte_fallback"] = True
    return spec


def wordpiece(lower: bool = True) -> dict[str, Any]:
    """As BERT's; else on white space alone, so that special tokens are whole words of text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    if lower:
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer() if lower else pre_tokenizers.WhitespaceSplit()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(_corpus(), trainers.WordPieceTrainer(vocab_size=800, special_tokens=special))
    return json.loads(tokenizer.to_str())


def wordlevel() -> dict[str, Any]:
    """A token a word; its special tokens are no added ones."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["[PAD]", "[UNK]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(_corpus(), trainers.WordLevelTrainer(special_tokens=special))
    return json.loads(tokenizer.to_str()) | {"added_tokens": []}


def bpe_of_words() -> dict[str, Any]:
    """BPE of characters that drops those it does not know, with marks at word ends, and whole words looked up first."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["</s>", "<pad>"], end_of_word_suffix="</w>")
    tokenizer.train_from_iterator(real_documents(40, 1500), trainer)
    return json.loads(tokenizer.to_str())


KINDS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "gpt2": (lambda: byte_level(None), "gigatoken"),
    "gpt2, as an expression": (lambda: byte_level(EXPRESSIONS["gpt2"]), "gigatoken"),
    "cl100k, Llama 3": (lambda: byte_level(EXPRESSIONS["cl100k"], special="<|end_of_text|>"), "gigatoken"),
    "cl100k, the rest removed": (cl100k_removed, "gigatoken"),
    "qwen2": (lambda: byte_level(EXPRESSIONS["qwen2"]), "gigatoken"),
    "qwen2, NFC": (qwen2_nfc, "gigatoken"),
    "o200k": (lambda: byte_level(EXPRESSIONS["o200k"]), "gigatoken"),
    "cl100k, tiktoken's own": (lambda: byte_level(TIKTOKENS_OWN), "tokenizers"),
    "Llama 2": (llama2, "gigatoken"),
    "Unigram": (unigram, "tokenizers"),
    "Unigram with bytes": (lambda: unigram(byte_fallback=True), "tokenizers"),
    "WordPiece": (wordpiece, "tokenizers"),
    "WordPiece of words": (lambda: wordpiece(lower=False), "tokenizers"),
    "WordLevel": (wordlevel, "tokenizers"),
    "BPE of words": (bpe_of_words, "tokenizers"),
}
"""By name: what makes the tokenizer.json, and the engine that is to encode with it."""
