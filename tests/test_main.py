import errno
import io
import json
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from epochal.__main__ import COMMANDS, main
from epochal.common.cli import explain

ROOT = Path(__file__).parent.parent


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "epochal", *args], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_help_names_every_command_and_imports_nothing_heavy():
    code = "import sys; from epochal.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += (
        "heavy = {'torch', 'numpy', 'pyarrow', 'pydantic', 'datatrove', 'streaming', 'composer'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code + "print(heavy)"], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("set()\n")
    assert all(f"\n  {command} " in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: epochal {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["carve", "x"], "required: --unique-tokens"),
        (["show", "/nowhere"], "/nowhere does not exist"),
        (["verify", "/nowhere"], "/nowhere does not exist"),
        (["carve", "/nowhere", "--unique-tokens", "many"], "is not a number"),
        (["build", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["build", "python", "sead=3"], "unknown key 'sead': did you mean 'seed'?"),
        (["build", "python", "sources.7.path=x"], "the list there has 1 entries"),
        (["build", "folder"], "'sources.0.path' must be given"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(args, message, capsys):
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("epochal: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_failed_work_is_one_line_and_exit_1(make_pool, capsys):
    pool = make_pool(700)
    (pool / "shard.00000.mds").unlink()
    assert main(["verify", str(pool), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"ok": False, "problems": ["shard.00000.mds is missing"]}
    assert captured.err.count("\n") == 1


def test_a_full_disk_is_named(monkeypatch, make_pool, capsys):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/some/file")

    monkeypatch.setattr("epochal.shards.carve.dump_manifest", full)
    pool = make_pool(700)
    assert main(["carve", str(pool), "--unique-tokens", "100"]) == 1
    assert "no space left on the disk at /some/file" in capsys.readouterr().err
    assert not list(pool.parent.parent.glob("subsets/*"))
    assert not list(pool.parent.parent.glob("subsets/.*"))


def test_show_prints_the_promised_keys(make_pool, capsys):
    assert main(["show", str(make_pool(700)), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    promised = {"kind", "name", "fingerprint", "documents", "tokens", "samples", "shards", "seq_len", "parent"}
    assert promised <= set(shown)
    assert (shown["kind"], shown["tokens"], shown["parent"]) == ("pool", 700, None)


def test_options_may_stand_between_arguments(make_pool, capsys):
    assert main(["verify", "--json", str(make_pool(700))]) == 0
    assert main(["build", "python", "--quiet", "sead=3"]) == 2
    assert "did you mean 'seed'" in capsys.readouterr().err


@pytest.mark.slow
def test_debug_shows_the_traceback():
    assert "Traceback" not in run("show", "/nowhere").stderr
    assert "Traceback" in run("show", "/nowhere", "--debug").stderr


def test_the_tokenize_folder_does_not_shadow_the_standard_library():
    assert not (ROOT / "tokenize" / "__init__.py").exists()
    code = "import tokenize, inspect; print(tokenize.__file__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == tokenize.__file__


def test_names_beyond_the_locale_are_written_as_escapes(make_pool, monkeypatch, tmp_path):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert main(["show", str(make_pool(700, name="n\u00e4me\u65e5"))]) == 0
    assert main(["show", str(tmp_path / "gr\u00f6\u00dfe\udcff")]) == 2
    for stream, text in ((sys.stdout, rb"n\xe4me\u65e5"), (sys.stderr, rb"gr\xf6\xdfe\udcff does not exist")):
        stream.flush()
        assert text in stream.buffer.getvalue()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EMFILE, "Too many open files", "/a"), "too many open files at /a: raise the limit"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), "there is a folder where a file should be at /a"),
        (OSError(errno.ELOOP, "x", "/a"), "a link that leads to itself at /a"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/a"), "file name too long at /a"),
        (OSError(errno.EIO, "Input/output error"), "input/output error"),
        (MemoryError(), "not enough memory"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "not Unicode"),
    ],
)
def test_what_the_system_refuses_is_said_in_a_line_of_ours(error: Exception, message: str):
    line, status = explain(error)
    assert message in line
    assert "failed with" not in line
    assert status in (1, 2)
