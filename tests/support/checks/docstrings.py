"""Checks the form of docstrings, as part of `make lint`: `python -m epochal.tests.support.checks.docstrings`.

Public functions, methods and classes say what they are in their first sentence; what they take, give and raise stands
in Google's sections, which editors and documentation read: Args (Attributes for a class), Returns or Yields, Raises.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
LEFT_OUT = {"tests", "artifacts", "build", "migrations"}
ROUTERS = {"app", "router"}
"""Functions that they decorate have docstrings that are the HTTP interface's own descriptions."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def problems_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what is wrong) for every public definition of a module."""
    for node, name in _public(ast.parse(source), ""):
        text = ast.get_docstring(node)
        if text is None:
            if "." not in name:
                yield node.lineno, f"{name} has no docstring"
            continue
        names = _fields(node) if isinstance(node, ast.ClassDef) else _parameters(node)
        for problem in _problems(text, names, isinstance(node, ast.ClassDef)):
            yield node.lineno, f"{name}: {problem}"


def _public(node: ast.AST, prefix: str) -> Iterator[tuple[Definition, str]]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, Definition) and not inner.name.startswith("_") and not _is_route(inner):
            yield inner, prefix + inner.name
            if isinstance(inner, ast.ClassDef):
                yield from _public(inner, f"{prefix}{inner.name}.")


def _is_route(node: Definition) -> bool:
    calls = (d.func for d in node.decorator_list if isinstance(d, ast.Call))
    owners = (f.value for f in calls if isinstance(f, ast.Attribute))
    return any(isinstance(owner, ast.Name) and owner.id in ROUTERS for owner in owners)


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    a = node.args
    return {arg.arg for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if arg} - {"self", "cls"}


def _fields(node: ast.ClassDef) -> set[str]:
    """Return the names that a class has: annotated ones, what `__init__` takes or sets, properties."""
    names = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    for method in (n for n in node.body if isinstance(n, ast.FunctionDef)):
        if method.name == "__init__":
            names |= _parameters(method) | {n.attr for n in ast.walk(method) if isinstance(n, ast.Attribute)}
        elif method.decorator_list:
            names.add(method.name)
    return names


def _problems(text: str, names: set[str], is_class: bool) -> Iterator[str]:
    prose, sections = _divided(text)
    order = [SECTIONS.index(title) for title, _ in sections]
    if order != sorted(set(order)):
        yield f"its sections stand once each, in this order: {', '.join(SECTIONS)}"
    for title, lines in sections:
        if title in ("Args", "Attributes"):
            if is_class != (title == "Attributes"):
                yield f"{title} is for {'functions' if is_class else 'classes'}"
            for name in (m[1] for line in lines if (m := re.match(r" {4}(\S+):( |$)", line))):
                if name not in names:
                    yield f"{title} names '{name}', which it does not have"
    for found in re.finditer(r"(?:^|[.;)`] )((?:\w+, )*\w+): ", " ".join(prose.split())):
        if set(found[1].split(", ")) <= names:
            yield f"'{found[1]}' is described outside of {'Attributes' if is_class else 'Args'}"
    if re.search(r"(?:^|[.;)] )Raises [A-Z]\w+", " ".join(prose.split())):
        yield "what it raises stands outside of Raises"


def _divided(text: str) -> tuple[str, list[tuple[str, list[str]]]]:
    """Return what stands before the first section, and the sections with their lines."""
    prose: list[str] = []
    sections: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.removesuffix(":") in SECTIONS and line.endswith(":"):
            sections.append((line[:-1], []))
        else:
            (sections[-1][1] if sections else prose).append(line)
    return "\n".join(prose), sections


def main() -> int:
    """Print the problems of every file of the package; return 1 when there is one."""
    failed = 0
    for path in sorted(ROOT.rglob("*.py")):
        inside = path.relative_to(ROOT).parts
        if LEFT_OUT & set(inside) or any(part.startswith(".") for part in inside):
            continue
        for line, problem in problems_of(path.read_text()):
            print(f"{path.relative_to(ROOT)}:{line}: {problem}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
