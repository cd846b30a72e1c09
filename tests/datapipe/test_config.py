import pytest

from epochal.common.config import shipped_names
from epochal.common.errors import RequestError
from epochal.datapipe.config import YAMLS, load_build


@pytest.mark.parametrize("name", shipped_names(YAMLS))
def test_every_shipped_configuration_is_valid(name):
    overrides = ["sources.0.path=x"] if name == "folder" else []
    assert load_build(name, overrides).name == name


def test_the_folder_configuration_asks_for_its_path():
    with pytest.raises(RequestError, match=r"sources\[?\.?0"):
        load_build("folder")


def test_overrides_reach_into_lists():
    build = load_build("folder", ["sources.0.path=s3://b/x", "validation_tokens=500k", "tasks=3"])
    assert (build.sources[0].path, build.validation_tokens, build.tasks) == ("s3://b/x", 500_000, 3)


def test_a_configuration_that_does_not_exist_is_one_line():
    with pytest.raises(RequestError, match=r"nowhere\.yaml is neither a file"):
        load_build("nowhere.yaml")


def test_a_name_that_no_folder_can_have_is_refused():
    with pytest.raises(RequestError, match="name: must have at most 200 characters"):
        load_build("folder", ["sources.0.path=x", f"name={'x' * 201}"])
