import errno
import importlib
import io
import json
import re
import shlex
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from epochal.__main__ import COMMANDS, main
from epochal.common import cli
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


def test_the_commands_are_seen_at_a_glance(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 14 + len(COMMANDS), "a line a command"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: epochal {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["bulid"], "there is no command 'bulid': did you mean 'build'?"),
        ([], "say what to do: epochal COMMAND"),
        (["--vresion"], "did you mean '--version'?"),
        (["carve", "x"], "carve needs --unique-tokens N (exactly so many: 500M, 1.5B, 2049; "),
        (["carve", "x", "--tokens", "5k"], "there is no option --tokens: did you mean '--unique-tokens'?"),
        (["build", "folder", "--out", "foo"], "there is no option --out: settings are written out=foo"),
        (
            ["generate", "x", "--prompt", "hi"],
            "--prompt is written without its name: epochal generate CHECKPOINT PROMPT",
        ),
        (["generate", "x", "hi", "there"], "'there' is too much"),
        (["generate", "x", "--seed", "abc"], "--seed must be a whole number, got 'abc'"),
        (["serve", "--port", "٣"], "--port must be a whole number, got '٣'"),
        (["generate", "x", "--temperature", "٠.٥"], "--temperature must be a number, got '٠.٥'"),
        (["order", "x", "--start", "-1", "--count", "8"], "--start must not be negative, got -1"),
        (["generate", "x", "--top-p", "abc"], "--top-p must be a number, got 'abc'"),
        (["generate", "x", "--seed"], "--seed needs a value: --seed N"),
        (["generate", "x", "--json=5"], "--json takes no value, got '5'"),
        (["export", "x", "--format", "megatrn", "--out", "y"], "got 'megatrn': did you mean 'megatron'?"),
        (["show", "/nowhere"], "/nowhere does not exist"),
        (["verify", "/nowhere"], "/nowhere does not exist"),
        (["carve", "/nowhere", "--unique-tokens", "many"], "is not a number"),
        (["build", "nowhere.yaml"], "nowhere.yaml is neither a file nor the name of a shipped configuration"),
        (["build", "pyhton"], "did you mean 'python'?"),
        (["build", "/"], "/ is a folder: build what lies in it with `folder sources.0.path=/`"),
        (["train", "tiny-ar", "epochs=4"], "unknown key 'epochs': write max_duration=4ep"),
        (["build", "folder", "path=x"], "write sources.0.path=DIR"),
        (["build", "folder", "sources.0.path=${oc.env:NOT_SET}"], "the environment variable NOT_SET is not set"),
        (["build", "folder", "sources.0.path=${nope}"], "there is no key 'nope'"),
        (["plan", "x", "--batch-tokens", "1", "--epochs", "1", "--total-tokens", "1"], "exclude each other"),
        (["seen"], "seen needs one of --document, --text, --histogram"),
        (["show", "ftp://nowhere/x"], "cannot open ftp:// here"),
        (["train", "tiny-ar", "train_loader.dataset.path=/nowhere"], "write train_loader.dataset.path=PATH"),
        (["train", "tiny-arr"], "did you mean 'tiny-ar'?"),
        (["train", "tiny-ar", "model.preset=30mm"], "got '30mm': did you mean '30m'?"),
        (["crossover", "crossover-cp"], "did you mean 'crossover-cpu'?"),
        (["flops", "paper-2b"], "did you mean 'paper-1b'?"),
        (["evaluate", "/nowhere", "--tasks", "hellaswag"], "/nowhere holds no model"),
        (["serve", "--port", "70000"], "--port must be from 0 to 65535"),
        (["serve", "--root", "/nowhere"], "--root /nowhere is no folder"),
        (["build", "folder", "sources.0.path=x", "tokenizer=PATH"], "got 'PATH': write tokenizer.name=PATH"),
        (["build", "folder", "sources.0.path=x", "executor=sulrm"], "got 'sulrm': did you mean 'slurm'?"),
        (["build", "folder", "sources.0.path=x", "seq_len=2048k"], "must be a whole number in digits, got '2048k'"),
        (["build", "folder", "sources.0.path=x", "name=日本"], "letters a to z and A to Z, digits"),
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


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_of_the_help_can_be_typed(command, monkeypatch, capsys):
    lines: list[str] = []
    monkeypatch.setattr("epochal.common.cli.argparse.ArgumentParser.format_help", lambda p: lines.append(p.epilog))
    monkeypatch.setattr("epochal.common.cli.argparse.ArgumentParser.print_help", lambda p: p.format_help())
    with pytest.raises(SystemExit):
        main(["help", command])
    head, *examples = lines[0].partition("\n\n")[0].splitlines()
    assert head == "examples:"
    assert examples
    module, _ = COMMANDS[command]
    for example in examples:
        words = shlex.split(re.split(" [<>#]", example)[0])
        assert words[:2] == ["epochal", command]
        parser = cli._Parser(prog="epochal")
        getattr(importlib.import_module(f"epochal.{module}"), command.replace("-", "_"))(parser)
        parser.check_options(words[2:])
        parser.parse_intermixed_args(words[2:])


def test_a_folder_of_artifacts_is_answered_with_those_in_it(make_pool, capsys):
    pool = make_pool(700)
    assert main(["show", str(pool.parent.parent)]) == 2
    assert f"is a folder of artifacts, not one itself: name one of them ({pool})" in capsys.readouterr().err
    assert main(["show", str(pool)[:-1]]) == 2
    assert f"does not exist: did you mean '{pool.name}'?" in capsys.readouterr().err
    assert main(["plan", str(pool), "--passes", "2", "--batch-tokens", "100"]) == 2
    assert "take 96 or 112" in capsys.readouterr().err


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


def test_several_subsets_are_carved_at_once(make_pool, capsys):
    pool = str(make_pool(700))
    assert main(["carve", pool, "--unique-tokens", "100", "--unique-tokens", "300"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["carved", "carved", "next:"]
    assert main(["carve", pool, "--unique-tokens", "100", "--unique-tokens", "300", "--json"]) == 0
    assert [json.loads(line)["tokens"] for line in capsys.readouterr().out.splitlines()] == [100, 300]
    assert main(["carve", pool, "--unique-tokens", "1", "--unique-tokens", "2", "--out", "x"]) == 2
    assert "--out is the place of one subset" in capsys.readouterr().err


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
        (ModuleNotFoundError("No module named 'polars.x'", name="polars.x"), "needs the package polars, which is not"),
    ],
)
def test_what_the_system_refuses_is_said_in_a_line_of_ours(error: Exception, message: str):
    line, status = explain(error)
    assert message in line
    assert "failed with" not in line
    assert status in (1, 2)


def test_what_an_ascii_stream_cannot_be_written_becomes_plain():
    assert "██░ 3 ± 1 … 日本".encode("ascii", cli.PLAINER) == b"##. 3 +- 1 ... \\u65e5\\u672c"
