"""What stands beside the code says what the code says: CONTRIBUTING, CHANGELOG, CITATION, pre-commit, pyproject."""

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import epochal
from epochal.__main__ import COMMANDS
from epochal.tests.support.checks.audit import verdict

ROOT = Path(__file__).parent.parent
QUESTION = re.compile(r"^\| (?P<question>[^|]+\?) \| `(?P<file>[^`]+)` \| `(?P<name>[^`]+)` \|$", re.MULTILINE)


def read(name: str) -> str:
    """Return a text file of the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def definitions(file: str) -> set[str]:
    """Return the names of all functions and classes of a Python file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(read(file))) if isinstance(node, kinds)}


def test_questions_lead_to_where_the_answer_stands():
    rows = list(QUESTION.finditer(read("CONTRIBUTING.md")))
    assert len(rows) >= 10
    wrong = [row[0] for row in rows if row["name"] not in definitions(row["file"])]
    assert not wrong, "CONTRIBUTING.md: not there:\n" + "\n".join(wrong)


def test_nothing_else_lies_in_the_root():
    """What a command or test wrote there by mistake was once committed with the rest."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    folders = {name.split("/")[0] for name in listed.stdout.splitlines() if "/" in name}
    own = {
        "adapters",
        "common",
        "datapipe",
        "service",
        "shards",
        "tokenize",
        "train",
        "benchmarks",
        "examples",
        "tests",
    }
    assert folders == own | {"docs", ".ci", ".github"}


def test_contributing_names_folders_that_are_there():
    (table,) = re.findall(r"\| folder \| holds .*?\n\n", read("CONTRIBUTING.md"), re.DOTALL)
    folders = set(re.findall(r"`([a-z_/]+/)`", table))
    assert all((ROOT / folder).is_dir() for folder in folders)
    listed = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["packages"]
    code = {name.removeprefix("epochal.").replace(".", "/") + "/" for name in listed if name.count(".") > 0}
    unnamed = {
        f for f in code - folders if not f.endswith(("yamls/", "models/", "grids/", "api/")) and "migrations" not in f
    }
    assert not unnamed, f"CONTRIBUTING.md does not say what these hold: {sorted(unnamed)}"


def test_the_version_is_the_same_everywhere():
    assert yaml.safe_load(read("CITATION.cff"))["version"] == epochal.__version__
    assert re.search(r"^## (\S+)$", read("CHANGELOG.md"), re.MULTILINE)[1] == epochal.__version__
    assert tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["dynamic"]["version"]["attr"].startswith(
        "epochal."
    )


def test_before_a_commit_the_checks_of_make_lint_run():
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert [(hook["entry"], hook["language"], hook["always_run"]) for hook in hooks] == [("make lint", "system", True)]


def test_the_readme_names_every_command():
    missing = [command for command in COMMANDS if f"epochal {command} " not in read("README.md")]
    assert not missing


def test_the_workflow_is_what_ci_runs_on_every_python_we_name():
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    (job,) = workflow["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    assert all(f"Programming Language :: Python :: {v}" in read("pyproject.toml") for v in versions)
    assert len(versions) == len(re.findall(r"Language :: Python :: 3\.\d+", read("pyproject.toml")))
    *others, last = job["steps"]
    assert last["run"] == ".ci/run"
    assert last["env"] == {"PYTHON": "python${{ matrix.python }}"}
    assert [step["uses"].partition("@")[0] for step in others] == ["actions/checkout", "actions/setup-python"]
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in read(".github/workflows/ci.yml").partition("jobs:")[2]


def test_the_image_is_built_from_what_the_checkout_holds():
    """No Docker is at hand where the tests run, so this holds the file against the checkout."""
    instructions = re.sub(r" *\\\n", " ", re.sub(r"(?m)^#.*\n", "", read("Dockerfile"))).splitlines()
    copied = [line.split()[1] for line in instructions if line.startswith("COPY ") and "--from" not in line]
    assert copied == ["constraints.txt", "."]
    assert all("--constraint constraints.txt" in line for line in instructions if " install --no-cache" in line)
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    (asked,) = re.findall(r"ARG EXTRAS=(\S+)", read("Dockerfile"))
    assert set(asked.split(",")) <= set(extras)
    assert {"ARG PYTHON=3.11", "ARG TORCH=cpu", "USER 1000"} <= set(instructions)


@pytest.mark.slow
def test_package_data_is_listed():
    listed = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["package-data"]
    patterns = {f"{name.replace('.', '/')}/{p}".removeprefix("epochal/") for name in listed for p in listed[name]}
    skipped = {"tests", "benchmarks", "docs", "artifacts", "runs", "build", "dist"}
    folders = [p for p in ROOT.iterdir() if p.is_dir() and p.name not in skipped and not p.name.startswith(".")]
    paths = [ROOT / "py.typed", *(path for folder in folders for path in folder.rglob("*"))]
    data = [p.relative_to(ROOT) for p in paths if p.suffix in {".yaml", ".html", ".mako"} or p.name == "py.typed"]
    assert Path("py.typed") in data
    assert [str(p) for p in data if not any(p.match(pattern) for pattern in patterns)] == []


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 packages audited, 0 known faults"),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}],
            1,
            "a 1: CVE-1, mended in 2",
        ),
        ([{"name": "a", "skip_reason": "not found"}], 2, "nothing was audited: none of 1 packages"),
        (
            [{"name": "a", "skip_reason": "not found"}, {"name": "b", "version": "1", "vulns": []}],
            2,
            "1 packages audited, 1 could not be asked about: a",
        ),
    ],
)
def test_an_audit_that_could_not_ask_is_no_verdict(packages: list[dict], status: int, said: str):
    found, lines = verdict(json.dumps({"dependencies": packages}))
    assert found == status
    assert said in "\n".join(lines)
    assert verdict("")[0] == verdict("null")[0] == 2
