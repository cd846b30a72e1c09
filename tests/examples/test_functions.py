"""The pool of functions: what is taken of a library, and that each function is a document."""

import json
from pathlib import Path

from epochal.__main__ import main
from epochal.examples import functions
from epochal.shards.artifact import open_artifact

MODULE = '''
class C:
    def method(self, x):
        """{long}"""
        def inner():
            return 1
        return inner() + x

def short(): return 1

def later(x):
    return "{long}" + x
'''.replace("{long}", "words " * 25)


def test_functions_and_methods_are_unindented_and_in_order() -> None:
    found = list(functions.functions(MODULE))
    assert [line for line, _ in found] == [3, 11]
    assert found[0][1].startswith("def method(self, x):\n    ")
    assert found[0][1].endswith("        return 1\n    return inner() + x\n")
    assert list(functions.functions("def broken(:")) == []


def test_each_function_of_a_library_is_a_document(tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "lib"
    for name in ("a.py", "tests/b.py", "sub/c.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(MODULE.replace("words", name))
    rows = [json.loads(line) for line in functions.library(root)]
    assert [row["id"] for row in rows] == ["a.py:3", "a.py:11", "sub/c.py:3", "sub/c.py:11"]
    monkeypatch.setattr(functions, "LIBRARY", root)
    monkeypatch.setattr(functions, "IDS", 512)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(functions, "run_epochal", lambda *words: built.append(words))
    built: list[tuple[str, ...]] = []
    assert functions.main([]) == 0
    assert built[0][:2] == ("build", "folder")
    assert main([*built[0], "validation_tokens=0", "seq_len=32"]) == 0
    assert open_artifact("artifacts/pools/functions-1k").manifest.documents == 4
