"""Text is never a special token, and tokenizers with which it could not be otherwise are refused."""

import pytest

from epochal.common.errors import RequestError, WorkError
from epochal.tests.tokenize.kinds import EXPRESSIONS, byte_level, llama2
from epochal.tests.tokenize.test_reference import load
from epochal.tokenize import engines
from epochal.tokenize.special import added_ids
from epochal.tokenize.tokenizer import load_tokenizer

WORDS = {"[PAD]": 0, "[UNK]": 1, "</s>": 2, "river": 3, "stone": 4, ".": 5}


def words(**more):
    """A tokenizer of words."""
    model = {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"} | more
    return {"model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}}


@pytest.fixture(scope="module")
def bytes_():
    """A byte-level tokenizer.json."""
    return byte_level(None)


def test_a_special_token_that_merges_lead_to_is_spelled_with_others(bytes_, tmp_path):
    token = next(t for t in ("return", "Ġreturn", "Ġself", "Ġthe") if t in bytes_["model"]["vocab"])
    loaded = load(bytes_, tmp_path, eod=token)
    text = " return self. the return"
    (ids,) = loaded.encode([text])
    assert loaded.info.eod == bytes_["model"]["vocab"][token] not in ids
    assert loaded.decode(ids.tolist()) == text
    assert loaded.first_difference([text], [ids]) is None


@pytest.mark.parametrize(
    ("spec", "special", "message"),
    [
        (words(unk_token="</s>"), {}, "text that it does not know would become its token '</s>'"),
        (words(), {"mask": "[UNK]"}, r"its token '\[UNK\]', which is EOD, PAD or MASK"),
        (words(), {"eod": "."}, "cannot be encoded without its token '.'"),
        (words(vocab={"</s>": "b"}), {}, "its vocabulary has no known form"),
        (words(vocab={}), {}, "its vocabulary has no known form"),
        ({"model": {"type": "BPE", "vocab": {"</s>": 0}, "merges": ["a b"]}}, {}, "none that `tokenizers` reads"),
        ({"model": {"type": "Unigram", "vocab": 5}}, {}, "its vocabulary has no known form"),
        ({"model": {"type": "BPE", "dropout": 0.1, "vocab": {"</s>": 0}, "merges": []}}, {}, "encodes at random"),
    ],
)
def test_tokenizers_that_text_would_suffer_from_are_refused_in_one_line(spec, special, message, tmp_path):
    with pytest.raises(RequestError, match=message) as error:
        load(spec, tmp_path, **special)
    assert "\n" not in str(error.value)


def test_no_byte_can_be_a_special_token(bytes_, tmp_path):
    with pytest.raises(RequestError, match="cannot be encoded without its token 'Ċ'"):
        load(bytes_, tmp_path, eod="Ċ")
    with pytest.raises(RequestError, match="cannot be encoded without its token '<0x0A>'"):
        load(llama2(), tmp_path, eod="<0x0A>")


def test_the_unknown_token_may_be_a_special_one_where_nothing_is_unknown(tmp_path):
    loaded = load(llama2(), tmp_path, pad="<unk>")
    (ids,) = loaded.encode(["漢字 <unk> </s> \x01"])
    assert loaded.info.pad == 0
    assert not {0, loaded.info.eod} & set(ids.tolist())
    assert loaded.decode(ids.tolist()) == "漢字 <unk> </s> \x01"


def test_text_without_tokens_where_none_stands_for_the_unknown_is_refused(tmp_path):
    loaded = load(words(unk_token="[NONE]"), tmp_path)
    assert loaded.encode(["river stone"])[0].tolist() == [3, 4]
    with pytest.raises(WorkError, match="the tokenizer cannot encode a text"):
        loaded.encode(["bridge"])


def test_added_tokens_have_the_ids_that_the_library_gives_them():
    stated = [{"content": text, "id": i} for text, i in (("<x>", 50), ("river", 3), ("<y>", 99), ("<x>", 50))]
    spec = words() | {"added_tokens": [token | dict.fromkeys(FLAGS, False) for token in stated]}
    tokenizer = engines.hugging_face(spec)
    assert added_ids(spec) == [tokenizer.token_to_id(token["content"]) for token in stated] == [6, 3, 7, 6]


FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@pytest.mark.slow
def test_gpt2_is_proved():
    loaded = load_tokenizer("gpt2")
    assert loaded.why_reference is None
    assert engines.why_reference(loaded._text_spec, loaded.ranks) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": {"type": "NFC"}}, None),
        ({"normalizer": {"type": "NFKC"}}, "its normaliser is another than NFC"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}},
            "another than NFC",
        ),
        ({"pre_tokenizer": None}, "its pre-tokenizer"),
        ({"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {}}] * 2}}, "its post-processor"),
        ({"added_tokens": [{"id": 9999, "content": "<x>"} | dict.fromkeys(FLAGS, False)]}, None),
        ({"added_tokens": [{"content": ""}]}, "one of its added tokens is empty"),
        ({"model": {"dropout": 0.5}}, "its model has dropout"),
        ({"model": {"new_option": None}}, "its model has new_option"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "its model has end_of_word_suffix"),
        ({"model": {"merges": "reversed"}}, "its ids are not in the order of its merges"),
        ({"model": {"vocab": "without"}}, "its vocabulary lacks some of the 256 bytes"),
        ({"model": {"merges": "without"}}, "cannot be made by its merges"),
        ({"model": {"ignore_merges": True}}, None),
        ({"model": {"ignore_merges": True, "vocab": "more"}}, "found as a whole"),
    ],
)
def test_why_the_reference_encodes(bytes_, change, reason):
    model = dict(bytes_["model"]) | change.get("model", {})
    merges, vocab = bytes_["model"]["merges"], bytes_["model"]["vocab"]
    if model["merges"] == "reversed":
        model["merges"] = merges[::-1]
    if model["merges"] == "without":  # what the second token of a later merge is made of
        needed = next(m for m in merges if any("".join(m) in later for later in merges))
        model["merges"] = [m for m in merges if m != needed]
    if model["vocab"] == "without":
        model["vocab"] = {token: i for token, i in vocab.items() if token != "Ċ"}
    if model["vocab"] == "more":
        model["vocab"] = vocab | {"returnreturn": len(vocab)}
    spec = bytes_ | change | {"model": model}
    why = engines.why_reference(spec, engines.mergeable_ranks(spec))
    assert why is None if reason is None else reason in why


def test_merges_to_one_token_in_two_ways_are_proved(bytes_):
    """Llama 3's file lists every way to make each token."""
    vocab, merges = bytes_["model"]["vocab"], []
    for token in dict.fromkeys("".join(merge) for merge in bytes_["model"]["merges"]):
        merges += [[token[:i], token[i:]] for i in range(1, len(token)) if token[:i] in vocab and token[i:] in vocab]
    assert len(merges) > len(bytes_["model"]["merges"])
    spec = bytes_ | {"model": bytes_["model"] | {"merges": merges}}
    assert engines.why_reference(spec, engines.mergeable_ranks(spec)) is None


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: byte_level(EXPRESSIONS["cl100k"]), llama2])
def test_long_runs_get_the_librarys_ids(make, tmp_path):
    """A million blanks, which tiktoken cannot take; runs of one character, of which others make other ids."""
    loaded = load(make(), tmp_path)
    assert loaded.engine_name == "gigatoken"
    texts = ["a" + " " * 1_000_100 + "b", *(c * 10_001 for c in "aA0 .=-_\n\tä漢🙂▁"), "ab" * 50_000, "漢字" * 20_000]
    assert loaded.first_difference(texts, loaded.encode(texts)) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}},
            "NFC",
        ),
        ({"normalizer": {"type": "Prepend", "prepend": "▁"}}, "its normaliser is another than NFC"),
        ({"model": {"ignore_merges": True}}, "its model has ignore_merges"),
        ({"model": {"byte_fallback": False}}, "its vocabulary lacks some of the 256 bytes"),
        ({"model": {"merges": "reversed"}}, "its ids are not in the order of its merges"),
        ({"model": {"merges": "bytes"}}, "its merges take bytes"),
        ({"model": {"merges": "without"}}, "cannot be made by its merges"),
        ({}, None),
    ],
)
def test_why_the_reference_encodes_what_sentencepiece_trained(change, reason):
    spec = llama2()
    model = dict(spec["model"]) | change.get("model", {})
    merges = spec["model"]["merges"]
    if model["merges"] == "reversed":
        model["merges"] = merges[::-1]
    if model["merges"] == "bytes":
        model["merges"] = [*merges, ["<0xE2>", "<0x82>"]]
        model["vocab"] = model["vocab"] | {"<0xE2><0x82>": 2000}
    if model["merges"] == "without":
        needed = next(m for m in merges if any("".join(m) in later for later in merges))
        model["merges"] = [m for m in merges if m != needed]
    spec |= change | {"model": model}
    why = engines.why_reference(spec, engines.mergeable_ranks(spec))
    assert why is None if reason is None else reason in why
