"""The source archive, and the wheel from it where no checkout is: it works and says what it was built from."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from epochal import __version__
from epochal.service.client.client import Client
from epochal.setup import manylinux
from epochal.tests.support.servers import free_port, wait_for

ROOT = Path(__file__).parents[2]


def run(*words: str | Path, cwd: Path) -> str:
    """Run a command that must succeed; return what it prints."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def commit(folder: Path) -> str:
    """Make a repository of a folder, with all its files in one commit; return that one's name."""
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "all"]):
        run(*git, *words, cwd=folder)
    return run(*git, "rev-parse", "HEAD", cwd=folder).strip()


def install(tmp_path: Path) -> tuple[Path, str]:
    """Build the source archive from a copy of the checkout and the wheel from the archive; install the wheel.

    Returns:
        The `bin` of the new environment that it was installed into, and the commit of the copy.

    What it depends on is taken from this environment, which is put behind the new one's own packages.
    """
    names = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in (name for name in names if (ROOT / name).is_file()):
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "copy" / name)
    uv = [sys.executable, "-m", "uv"]
    offline = ("--no-build-isolation", "--offline", "--python", sys.executable)
    head = commit(tmp_path / "copy")
    run(*uv, "build", "--quiet", *offline, "--out-dir", tmp_path, tmp_path / "copy", cwd=tmp_path)
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    (wheel,) = tmp_path.glob("*.whl")
    run(*uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel, cwd=tmp_path)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.rmtree(tmp_path / "copy")
    return python.parent, head


def data_files() -> set[str]:
    """Return the files beside the code that the package reads when it runs, as they are named in a wheel."""
    folders = ("datapipe/yamls", "train/yamls", "train/crossover/grids")
    names = {str(p.relative_to(ROOT)) for folder in folders for p in (ROOT / folder).glob("*.yaml")}
    names |= {f"service/page/page.{kind}" for kind in ("html", "css", "js")}
    return {f"epochal/{n}" for n in names | {"py.typed", "service/migrations/script.py.mako"}}


def check_platform(wheel: str, compiled: Path) -> None:
    """Hold a wheel's name against what binutils says of its compiled part."""
    assert "-cp311-abi3-" in wheel
    if platform.system() != "Linux" or platform.machine() != "x86_64" or not shutil.which("readelf"):
        return
    said = run("readelf", "--wide", "--dynamic", "--version-info", compiled, cwd=compiled.parent)
    newest = max(int(minor) for minor in re.findall(r"GLIBC_2\.(\d+)", said))
    assert re.findall(r"\(NEEDED\).*\[(.*)\]", said) == ["libc.so.6"]
    assert wheel.endswith(f"-manylinux_2_{max(17, newest)}_x86_64.whl")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\0libc.so.6\0GLIBC_2.2.5\0GLIBC_2.14\0", "manylinux_2_17_x86_64"),
        (b"\0libc.so.6\0libm.so.6\0GLIBC_2.38\0GLIBC_2.4\0", "manylinux_2_38_x86_64"),
        (b"\0libstdc++.so.6\0libc.so.6\0GLIBC_2.14\0", None),
        (b"\0libc.so.6\0GLIBC_3.0\0", None),
    ],
)
def test_a_wheel_names_the_linux_that_its_compiled_part_needs(tmp_path: Path, content: bytes, expected: str | None):
    (tmp_path / "a.so").write_bytes(content)
    assert manylinux([tmp_path / "a.so"]) == expected
    assert manylinux([]) is None


@pytest.mark.slow
@pytest.mark.processes
def test_the_wheel_builds_carves_trains_and_serves(tmp_path: Path):
    bin_, head = install(tmp_path)
    (wheel_path,) = tmp_path.glob("*.whl")
    (archive,) = tmp_path.glob("*.tar.gz")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel_path) as wheel:
        missing = data_files() - set(wheel.namelist())
        assert not missing
        assert not {"epochal/setup.py", "epochal/tests/test_main.py"} & set(wheel.namelist())
    with tarfile.open(archive) as opened:
        assert not [name for name in opened.getnames() if "/tests/" in name]
    said = run(bin_ / "epochal", "--version", cwd=elsewhere)
    assert said == f"epochal {__version__} (commit {head[:12]})\n"
    compiled = run(bin_ / "python", "-c", "import epochal.tokenize._pieces as c; print(c.__file__)", cwd=elsewhere)
    check_platform(wheel_path.name, Path(compiled.strip()))

    def epochal(*words: str) -> Any:
        return json.loads(run(bin_ / "epochal", *words, "--json", cwd=elsewhere))

    where = "import epochal, epochal.tokenize._pieces as c; print(epochal.__file__, c.__file__)"
    assert all(str(bin_.parent) in path for path in run(bin_ / "python", "-c", where, cwd=elsewhere).split())
    settings = [
        "sources.0.fraction=0.05",
        "seq_len=64",
        "validation_tokens=5k",
        "max_reject_fraction=0.2",
        "name=small",
    ]
    pool = epochal("build", "python", *settings)
    assert pool["tokens"] > 20_000
    subset = epochal("carve", "artifacts/pools/small", "--unique-tokens", "4000")
    assert subset["tokens"] == 4000
    data = [
        "train_loader.dataset.path=artifacts/subsets/small-4k",
        "eval_loader.dataset.path=artifacts/pools/small-val",
    ]
    shape = ["model.layers=1", "model.hidden=16", "model.heads=2", "model.ffn=16", "eval_loader.dataset.samples=8"]
    trained = epochal("train", "tiny-ar", *data, *shape, "max_duration=1ep", "progress_bar=false")
    assert trained["receipt"]["valid"]
    port = free_port()
    words = [bin_ / "epochal", "serve", "--root", "artifacts", "--port", str(port)]
    server = subprocess.Popen([str(w) for w in words], cwd=elsewhere, stdout=subprocess.DEVNULL)
    try:
        client = Client(f"http://127.0.0.1:{port}")
        wait_for(client)
        assert client.get("/health")["service"] == "epochal"
        assert {a["name"] for a in client.get("/artifacts")["artifacts"]} == {"small", "small-val", "small-4k"}
        client.close()
    finally:
        server.terminate()
        server.wait()
