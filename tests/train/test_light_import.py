"""What is left out of Composer's import is neither there nor installed until that is done, and as ever afterwards."""

import importlib.metadata
import importlib.util
import sys

import pytest

from epochal.train.light_import import _hidden, _put_off


def test_a_hidden_package_is_not_there_until_all_is_imported() -> None:
    assert "idlelib.zoomheight" not in sys.modules
    with _hidden(["idlelib.zoomheight", "ruff"]):
        with pytest.raises(ImportError):
            importlib.import_module("idlelib.zoomheight")
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("ruff")
        assert importlib.util.find_spec("ruff") is None
        assert importlib.metadata.version("pytest")
    assert importlib.metadata.version("ruff")
    assert importlib.import_module("idlelib.zoomheight")
    assert "ruff" not in sys.modules


def test_a_package_that_was_put_off_is_imported_when_it_is_used() -> None:
    assert "idlelib.zzdummy" not in sys.modules
    with _put_off("idlelib.zzdummy"):
        stands_for_it = sys.modules["idlelib.zzdummy"]
        assert importlib.import_module("idlelib.zzdummy") is stands_for_it
        assert not hasattr(stands_for_it, "__file__")
    assert "idlelib.zzdummy" not in sys.modules
    assert stands_for_it.ZzDummy is importlib.import_module("idlelib.zzdummy").ZzDummy
    with pytest.raises(AttributeError):
        stands_for_it.no_such_thing  # noqa: B018
