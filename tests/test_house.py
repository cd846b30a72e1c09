"""How the house is built: imports go one way and in no circle, folders and files stay small, nothing is left unlisted.

Imports are read from the source, those inside functions and under TYPE_CHECKING included. Tests, benchmarks and
examples may import everything, and nothing else imports them.
"""

import ast
import functools
import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAVES = ("tests", "benchmarks", "examples")
"""Folders that import the package and are imported by nothing else."""

MAY_IMPORT = {
    "common": set(),
    "shards": {"common"},
    "tokenize": {"common", "shards"},
    "datapipe": {"common", "shards", "tokenize"},
    "service": {"common", "shards"},
    "service.client": {"common", "shards"},
    "adapters": {"common", "shards"},
    "train": {"common", "shards", "tokenize", "service.client"},
}
"""What each folder may import besides itself; what stands in no folder (`__init__`, `__main__`) may import all."""

MOST_FILES, MOST_LINES = 15, 400
LONG = {"tokenize/_pieces.c"}
C_FILES = ("[!.]*/*.[ch]", "[!.]*/*/*.[ch]")


@dataclass(frozen=True)
class Import:
    """One import of one of our files by another: paths relative to the root, and the line."""

    importer: str
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def python_files(*leaves: str) -> list[str]:
    """Return the package's Python files, relative to the root; those of `leaves` too."""
    skipped = {"artifacts", "runs", "build", "dist", *LEAVES} - set(leaves)
    folders = [p for p in ROOT.iterdir() if p.is_dir() and p.name not in skipped and not p.name.startswith(".")]
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def module_file(module: str) -> str | None:
    """Return the file of a module `a.b` of ours (without `epochal`), a folder's being its `__init__.py`; or None."""
    path = Path(*module.split(".")) if module else Path()
    for candidate in (path.with_suffix(".py") if module else path / "__init__.py", path / "__init__.py"):
        if (ROOT / candidate).is_file():
            return str(candidate)
    return None


@functools.cache
def tree_of(file: str) -> ast.Module:
    """Return what a file says."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def imports_of(file: str) -> Iterator[Import]:
    """Yield what a file imports of ours, wherever the import stands."""
    package = list(Path(file).parts[:-1])
    for node in ast.walk(tree_of(file)):
        for module in _modules(node, package):
            imported = module_file(module)
            if imported is not None and imported != file:
                yield Import(file, node.lineno, imported)  # type: ignore[attr-defined]


def _modules(node: ast.AST, package: list[str]) -> Iterator[str]:
    """Yield the modules of ours (without `epochal`) that one statement imports."""
    if isinstance(node, ast.Import):
        for name in node.names:
            if name.name.split(".")[0] == "epochal":
                yield name.name.removeprefix("epochal").removeprefix(".")
        return
    if isinstance(node, ast.ImportFrom):
        if node.level:
            base = package[: len(package) - node.level + 1]
        elif node.module and node.module.split(".")[0] == "epochal":
            base = []
        else:
            return
        named = (node.module or "").split(".") if node.level else node.module.split(".")[1:]
        module = ".".join([*base, *filter(None, named)])
        for name in node.names:
            inner = f"{module}.{name.name}" if module else name.name
            yield inner if module_file(inner) else module


def part_of(file: str) -> str:
    """Return the folder, in the words of MAY_IMPORT, that a file belongs to; empty for the root."""
    folders = Path(file).parts[:-1]
    return "service.client" if folders[:2] == ("service", "client") else folders[0] if folders else ""


@functools.cache
def all_imports() -> list[Import]:
    """Return every import of ours; at the first test that asks, as every worker collects this file."""
    return [found for file in python_files() for found in imports_of(file)]


def test_the_walk_sees_imports_inside_functions_and_for_types():
    seen = {(found.importer, found.imported) for found in all_imports()}
    assert ("__init__.py", "datapipe/build.py") in seen  # in a function, and for the type checker
    assert ("datapipe/commands.py", "datapipe/build.py") in seen  # in a function in a function
    assert ("train/__main__.py", "common/cli.py") in seen  # by its absolute name


def test_imports_go_one_way():
    wrong = []
    for found in all_imports():
        folder, other = part_of(found.importer), part_of(found.imported)
        allowed = MAY_IMPORT.get(folder, set(MAY_IMPORT))
        version = found.imported == "__init__.py"  # the package itself, for its version
        same = folder == other or (folder == "service" and other == "service.client")
        if folder and not same and other not in allowed and not version:
            wrong.append(str(found))
    assert not wrong, "imports against the direction:\n" + "\n".join(wrong)


def test_nothing_imports_tests_benchmarks_or_examples():
    wrong = []
    for file in python_files():
        for node in ast.walk(tree_of(file)):
            modules = _modules(node, list(Path(file).parts[:-1]))
            wrong += [f"{file}:{node.lineno}" for module in modules if module.split(".")[0] in LEAVES]
    assert not wrong, "they are leaves, but imported at:\n" + "\n".join(wrong)


def test_no_imports_in_a_circle():
    edges: dict[str, dict[str, Import]] = {}
    for found in all_imports():
        edges.setdefault(found.importer, {}).setdefault(found.imported, found)
    circle = _circle(edges)
    assert not circle, "a circle of imports:\n" + "\n".join(map(str, circle))


def _circle(edges: dict[str, dict[str, Import]]) -> list[Import]:
    """Return the imports of one circle, or none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(file: str) -> list[Import]:
        if file in path:
            closed = [*path[path.index(file) :], file]
            return [edges[a][b] for a, b in itertools.pairwise(closed)]
        if file in done:
            return []
        path.append(file)
        for imported in edges.get(file, {}):
            if circle := visit(imported):
                return circle
        path.pop()
        done.add(file)
        return []

    return next((circle for file in list(edges) if (circle := visit(file))), [])


def test_no_folder_has_many_files():
    counts: dict[str, int] = {}
    for file in python_files(*LEAVES):
        if (ROOT / file).stat().st_size:
            counts[str(Path(file).parent)] = counts.get(str(Path(file).parent), 0) + 1
    wrong = [f"{folder}/ has {n} files of code" for folder, n in sorted(counts.items()) if n > MOST_FILES]
    assert not wrong, f"more than {MOST_FILES}: give a subject a folder of its own:\n" + "\n".join(wrong)


def test_no_file_is_long():
    files = {
        *python_files(*LEAVES),
        *(str(p.relative_to(ROOT)) for pattern in C_FILES for p in ROOT.glob(pattern)),
    } - LONG
    lengths = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in sorted(files)}
    wrong = [f"{file}:{n} lines" for file, n in lengths.items() if n > MOST_LINES]
    assert not wrong, f"more than {MOST_LINES} lines:\n" + "\n".join(wrong)


@pytest.mark.parametrize("folder", ["tokenize", "tests/tokenize"])
def test_tokenize_is_no_regular_package(folder: str):
    """With an `__init__.py` it would stand before the standard library's `tokenize`."""
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_pyproject_lists_every_folder_with_code():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    code = python_files("examples")
    folders = {".".join(["epochal", *Path(file).parts[:-1]]) for file in code}
    assert sorted(listed) == sorted(folders)
    assert len(listed) == len(set(listed))
