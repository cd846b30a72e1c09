import pytest

from epochal.common.errors import RequestError
from epochal.train.run import first_difference
from epochal.train.trainer import train


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"layers": 1, "hidden": 32, "heads": 2, "ffn": 8, "vocab_size": 50257}}, "tokenized with 259 ids"),
        ({"max_seq_len": 2048}, "max_seq_len is 2048"),
        ({"device": "gpu"}, "torch sees no GPU"),
        ({"precision": "amp_bf16"}, "needs a GPU"),
        ({"parallelism_config": {"fsdp": {}}}, "needs GPUs"),
        ({"global_train_batch_size": 1000}, "larger than the whole run"),
        ({"max_duration": "3"}, "budget"),
        ({"callbacks": {"lr_monito": None}}, "known callbacks are"),
        ({"loggers": {"file": {"flename": "x"}}}, "unknown key 'flename'"),
        ({"train_loader": {"dataset": {"path": "/nowhere"}}}, "does not exist"),
    ],
)
def test_wrong_requests_are_one_line(run_config, changes: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        train(run_config(**changes))
    assert "\n" not in str(caught.value)


def test_the_difference_of_two_runs_is_named_by_its_path() -> None:
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) == ""
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b is 1 there and 2 here"
    assert first_difference({"a": {}}, {"a": {"c": 3}}) == "a.c is None there and 3 here"
