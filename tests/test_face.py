"""The public face: what `import epochal` costs, what it hands out, and that its guide runs as it stands."""

import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import epochal

BLOCK = re.compile(r"^(?:    .*\n|\n(?=    ))+", re.MULTILINE)


def python(code: str, cwd: Path | None = None) -> str:
    """Return what a fresh interpreter prints for `code`."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_nothing_of_weight():
    code = "import sys; before = set(sys.modules); import epochal; print(*sorted(set(sys.modules) - before))"
    loaded = python(code).split()
    assert [name for name in loaded if name.startswith("epochal")] == [
        "epochal",
        "epochal.common",
        "epochal.common.moved",
    ]
    assert not {"torch", "numpy", "pyarrow", "pydantic", "streaming", "composer"} & set(loaded)


def test_every_public_name_is_there_and_listed():
    assert set(epochal.__all__) <= set(dir(epochal))
    for name in epochal.__all__:
        assert callable(getattr(epochal, name)), name
    with pytest.raises(AttributeError, match="no attribute 'carv'"):
        epochal.carv  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import epochal.train.durations", "from epochal import train", "epochal.train"])
def test_train_is_a_function_and_a_package_whichever_came_first(first: str):
    code = f"""
        import inspect, epochal
        {first}
        import epochal.train.durations
        from epochal.train import durations
        assert epochal.train.durations is durations
        print(*inspect.signature(epochal.train).parameters)
    """
    assert python(textwrap.dedent(code)) == "config overrides\n"


def test_overrides_of_an_object_are_refused():
    from epochal.common.errors import RequestError
    from epochal.datapipe.config import load_build
    from epochal.train.config import load_config

    with pytest.raises(RequestError, match="change the Build itself"):
        epochal.build(load_build("python"), ["seed=3"])
    with pytest.raises(RequestError, match="change the TrainConfig itself"):
        epochal.train(load_config("tiny-ar"), ["seed=3"])


@pytest.mark.processes
def test_the_guide_runs_as_it_stands(tmp_path: Path):
    blocks = [textwrap.dedent(block) for block in BLOCK.findall(epochal.__doc__)]
    code = "\n".join(blocks)
    for name in epochal.__all__:
        assert f"epochal.{name}" in code, f"the guide has no example of {name}"
    (tmp_path / "text").mkdir()
    for path in sorted(Path(inspect.__file__).parent.glob("[a-d]*.py")):
        shutil.copy(path, tmp_path / "text" / f"{path.stem}.txt")
    shown = python(code, tmp_path)
    assert "receipt valid: True" in shown
    assert (tmp_path / "artifacts" / "pools" / "mine" / "manifest.json").exists()
    assert (tmp_path / "runs" / "mine" / "result.json").exists()
