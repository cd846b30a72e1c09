import pytest

from epochal.tests.tokenize.kinds import KINDS
from epochal.tests.tokenize.test_reference import load
from epochal.tests.tokenize.test_special import words

TEXTS = ["river stone", "river 漢 river 字字", ""]


@pytest.mark.parametrize("kind", ["gpt2", "Llama 2", "Unigram with bytes"])
def test_a_tokenizer_that_knows_all_bytes_knows_all_text(kind, tmp_path):
    assert load(KINDS[kind][0](), tmp_path).count_unknown is None


def test_unknown_tokens_are_counted(tmp_path):
    loaded = load(words(), tmp_path)
    assert loaded.count_unknown(TEXTS, loaded.encode(TEXTS)).tolist() == [0, 2, 0]


@pytest.mark.parametrize("suffix", ["", "</w>"])
def test_characters_that_are_dropped_are_counted(suffix, tmp_path):
    letters = set("riverstone")
    vocab = {token: i for i, token in enumerate(sorted({*letters, *(c + suffix for c in letters), "</s>"}))}
    model = {"type": "BPE", "vocab": vocab, "merges": [], "end_of_word_suffix": suffix}
    loaded = load({"model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}}, tmp_path)
    encoded = loaded.encode(TEXTS)
    assert [len(ids) for ids in encoded] == [10, 10, 0]
    assert loaded.count_unknown(TEXTS, encoded).tolist() == [0, 3, 0]
