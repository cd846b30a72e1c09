import pytest

from epochal.common.errors import RequestError
from epochal.train import composer_registry


def test_extras_are_built_by_name_and_refused_by_name() -> None:
    assert type(composer_registry.build({"lr_monitor": None}, "callbacks")[0]).__name__ == "LRMonitor"
    with pytest.raises(RequestError, match="known loggers are file"):
        composer_registry.build({"wandbb": None}, "loggers")
