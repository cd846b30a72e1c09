import os
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from epochal.common.config import load_yaml, validate
from epochal.common.errors import RequestError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(Strict):
    path: str
    weight: float = 1.0


class Cosine(Strict):
    name: Literal["cosine"]
    alpha: float = 0.1
    note: str | None = None


class Constant(Strict):
    name: Literal["constant"]
    warmup: int = 0
    note: Annotated[str | None, Field(max_length=99)] = None


class Config(Strict):
    sources: list[Source]
    schedule: Cosine | Constant = Field(default_factory=lambda: Cosine(name="cosine"), discriminator="name")
    out: str = "out"
    tasks: int = 1


TEXT = """
sources:
  - path: a.jsonl
  - path: b.jsonl
out: ${oc.env:EPOCHAL_TEST_OUT,here}/${tasks}
tasks: 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT)
    return path


def test_overrides_reach_into_lists_and_before_interpolation(file: Path) -> None:
    data = load_yaml(file, ["sources.1.path=c=d.jsonl", "tasks=7", "sources.0.weight=1e-3"])
    config = validate(Config, data, str(file))
    assert [s.path for s in config.sources] == ["a.jsonl", "c=d.jsonl"]
    assert config.sources[0].weight == 1e-3
    assert config.out == "here/7"


def test_an_override_replaces_a_section_whole(file: Path) -> None:
    data = load_yaml(file, ["schedule={name: constant, warmup: 3}", "sources=[{path: z}]"])
    assert validate(Config, data, "x").schedule == Constant(name="constant", warmup=3)
    assert len(data["sources"]) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tsks=3"], "unknown key 'tsks': did you mean 'tasks'"),
        (["sources.0.pth=3"], "unknown key 'sources.0.pth': did you mean 'sources.0.path'"),
        (["weight=3"], "unknown key 'weight': did you mean 'sources.weight'"),
        (["zzz=3"], "known here are out, schedule, sources, tasks"),
        (["schedule.name=cosine", "schedule.alfa=3"], "'schedule.alfa': did you mean 'schedule.alpha'"),
        (["schedule.name=cosin"], "schedule"),
        (["tasks=many"], "tasks: must be a whole number"),
        (["sources=[{weight: 2}]"], "'sources.0.path' must be given"),
        (["out=???"], "'out' must be given"),
        (["out=???", "source.0.path=x"], "unknown key 'source': did you mean 'sources'"),
        (["out=???", "sources.0.pth=x"], "unknown key 'sources.0.pth': did you mean 'sources.0.path'"),
        (["out=${nothing.here}"], "'out' cannot be resolved"),
        (["sources.2.path=x"], "the list there has 2 entries"),
        (["sources.x.path=x"], "the list there has 2 entries"),
        (["tasks"], "is not an override"),
        (["=3"], "is not an override"),
        (["tasks=[1"], "cannot be applied"),
        (["sources=[{path: 2024}]"], "sources.0.path: must be text: write it in quotes, '2024'"),
        (["sources=x"], "sources: must be a list, as in [a, b]"),
    ],
)
def test_wrong_requests_are_one_line(file: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        validate(Config, load_yaml(file, overrides, Config), str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["dump #3", "2024", "1e3", "on", "[a", "a: b", " a ", "~/x", "%20", "'", "a::b", "line\nend", "{x}", "*"]
)
@pytest.mark.parametrize("key", ["out", "sources.0.path", "schedule.note"])
def test_text_is_taken_to_the_letter(file: Path, key: str, path: str) -> None:
    data = load_yaml(file, [f"{key}={path}"], Config)
    for part in key.split("."):
        data = data[int(part) if part.isdecimal() else part]
    assert data == path


@pytest.mark.parametrize(("text", "value"), [("null", None), ("", None), ("'a b'", "a b"), ('"#1"', "#1"), ("x", "x")])
def test_null_and_quotes_are_yaml(file: Path, text: str, value: str | None) -> None:
    assert load_yaml(file, [f"schedule.note={text}"], Config)["schedule"]["note"] == value


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "a: 1\na: 2\n", "12", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=r"config\.yaml") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(RequestError, match="is a folder"):
        load_yaml(tmp_path)


def chain(first: str, form: str, n: int) -> str:
    """Return a configuration whose keys a1, a2, ... each mention the key before twice."""
    return first + "".join(form.format(i=i, j=i - 1) + "\n" for i in range(1, n))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (chain("a0: &a0 [x, x]\n", "a{i}: &a{i} [*a{j}, *a{j}]", 1900), "more than 10,000 values"),
        (chain("a0: &a0 {x: 1}\n", "a{i}: &a{i} {{<<: [*a{j}, *a{j}]}}", 60), "more than 10,000 values"),
        (chain("a0: xxxxxxxxxx\n", "a{i}: ${{a{j}}}${{a{j}}}", 60), "once its references are written out"),
        (chain("a0: [x]\n", "a{i}: ['${{a{j}}}', '${{a{j}}}']", 60), "once its references are written out"),
        (chain("b:\n a0: [x]\n", " a{i}: ['${{..a{j}}}', '${{b.a{j}}}']", 60), "once its references are written out"),
        (chain("a999: x\n", "b{j}: ${{b{i}}}", 300), "through too many others"),
        ("a: &a [*a]\n", "holds itself"),
        ("a: &a {b: {c: *a}}\n", "holds itself"),
        ("a: ${a}\n", "'a' cannot be resolved"),
        ("a: " + "[" * 50_000, "nested deeper than 64"),
        ("".join(" " * i + "a:\n" for i in range(400)), "nested deeper than 64"),
        ("a: [" + "x," * 20_000 + "x]", "more than 10,000 values"),
        ("a: " + "x" * 2_000_000, "at most 1024 kB"),
        ("a: " + "9" * 5000, "more than 100 digits"),
        ("a: 1" + ":1" * 5000, "more than 100 digits"),
        ("a: !!python/object/apply:os.system [x]", "not valid YAML"),
    ],
    ids=range(16),
)
def test_a_file_without_bounds_is_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(RequestError, match=r"config\.yaml") as caught:
        load_yaml(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["[" * 30_000, "{a: &a [x], b: &b [*a, *b]}", "9" * 5000, "[" + "x," * 20_000 + "]"])
def test_an_override_without_bounds_is_refused(file: Path, value: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_yaml(file, [f"tasks={value}"])
    assert len(str(caught.value)) < 300


def test_references_to_what_is_there_are_no_burden(file: Path) -> None:
    file.write_text("a: [1, 2, {b: x}]\nc: ${a.2.b}${a[0]}\nd: {e: '${..c}', f: '${.e}!'}\ng: ${d}\nh: ${oc.env:HOME}")
    data = load_yaml(file)
    assert (data["c"], data["g"]["f"]) == ("x1", "x1!")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_and_a_device_are_no_configuration(tmp_path: Path, make) -> None:
    make(tmp_path / "config.yaml")
    with pytest.raises(RequestError, match="no regular file"):
        load_yaml(tmp_path / "config.yaml")
