import pytest

from epochal.common.config import shipped_names, validate
from epochal.common.errors import RequestError
from epochal.datapipe.config import YAMLS, Build, load_build


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


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (["url", "meta.date"], [("url", None), ("meta.date", None)]),
        ({"url": None, "q": "float"}, [("url", None), ("q", "float")]),
        ([{"name": "url", "type": "text"}], [("url", "text")]),  # as a manifest has it
    ],
)
def test_kept_fields_are_named_or_typed(written: object, kept: list[tuple[str, str | None]]) -> None:
    build = validate(Build, {"name": "p", "sources": [{"path": "x"}], "keep": written}, "test")
    assert [(field.name, field.type) for field in build.keep] == kept
    recorded = build.record()["keep"]
    assert validate(Build, {"name": "p", "sources": [{"path": "x"}], "keep": recorded}, "test").keep == build.keep


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"keep": "url"}, r"^test: keep: must be a list of fields, as in \[url, date\]"),
        ({"keep": ["key"]}, r"^test: keep: documents.parquet has a column 'key' of its own"),
        ({"keep": ["text"]}, r"^test: keep: 'text' is the text itself"),
        ({"keep": ["url", "url"]}, r"^test: keep: 'url' stands there twice"),
        ({"keep": {"q": "number"}}, r"^test: keep.0.type: must be 'text', 'int'"),
        (
            {"sources": [{"path": "x", "language": False}]},
            r"sources.0.language: must be text: write it in quotes, 'no'",
        ),
        ({"sources": [{"path": "x", "language": []}]}, r"sources.0.language: must be text, or a list of it"),
        ({"sources": [{"path": "x", "licence": "MIT"}]}, r"did you mean 'sources.0.license'"),
        ({"samples_per_shard": 0}, r"^test: samples_per_shard: must be 1 to \d+,\d+, of which a shard holds 4 GB"),
        ({"samples_per_shard": -1}, r"^test: samples_per_shard: must be 1 to "),
        ({"samples_per_shard": 10**6}, r"^test: samples_per_shard: must be 1 to "),
        ({"sources": [{"path": "x", "format": "mds", "where": "a > 1"}]}, r"token ids have none: leave it out"),
    ],
)
def test_wrong_fields_are_refused_in_a_line(more: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        validate(Build, {"name": "p", "sources": [{"path": "x"}]} | more, "test")
    assert "\n" not in str(caught.value)


def test_what_is_not_set_is_not_recorded_and_facts_change_no_identity() -> None:
    plain = validate(Build, {"name": "p", "sources": [{"name": "s", "path": "x"}]}, "test")
    assert "keep" not in plain.record()
    assert set(plain.record()["sources"][0]) == {  # type: ignore[index]
        "name", "format", "path", "text_key", "id_key", "limit", "fraction", "max_bytes"
    }  # fmt: skip
    source = {"name": "s", "path": "x", "license": "MIT", "collected": 2024, "language": "en"}
    said = validate(Build, {"name": "p", "sources": [source]}, "test")
    assert said.identity() == plain.identity()
    assert said.same(plain.record())
    assert plain.same(said.record())
    assert said.record()["sources"][0]["collected"] == "2024"  # type: ignore[index]
