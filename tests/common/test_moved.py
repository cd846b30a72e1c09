import importlib
import importlib.util
import pickle
import subprocess
import sys

import pytest

from epochal.common.moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_stands_for_a_module_that_is_there_and_hides_none(old: str, new: str) -> None:
    assert importlib.util.find_spec(f"epochal.{new}") is not None
    package = importlib.import_module(f"epochal.{old.rpartition('.')[0]}")
    assert all(not importlib.machinery.PathFinder.find_spec(f"epochal.{old}", [path]) for path in package.__path__)


def test_an_old_name_is_the_new_module_itself_and_says_so() -> None:
    import epochal.common.text as text

    sys.modules.pop("epochal.shards.content", None)
    with pytest.warns(FutureWarning, match=r"epochal\.shards\.content is epochal\.common\.text now"):
        old = importlib.import_module("epochal.shards.content")
    assert old is text
    assert text.__spec__ is not None
    assert text.__spec__.name == text.__name__ == "epochal.common.text"


def test_a_pickle_that_names_an_old_module_is_read() -> None:
    data = pickle.dumps(importlib.import_module("epochal.datapipe.stages.parts").Part, 0)
    old = data.replace(b"epochal.datapipe.stages.parts", b"epochal.tokenize.parts")
    assert old != data
    code = f"import pickle, epochal; print(pickle.loads({old!r}).__module__)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "epochal.datapipe.stages.parts", done.stderr
