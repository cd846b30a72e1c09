"""The scripts of `epochal completion`, run by the shells that are here. bash always is."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from epochal.__main__ import COMMANDS, main, names_for
from epochal.common.cli import command_parsers
from epochal.common.command_line.completion import SCRIPTS, completable, fish

ASK_BASH = """
source {script}
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_epochal
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

ASK_ZSH = """
zmodload zsh/parameter 2> /dev/null
compdef() {{ :; }}
compadd() {{ shift; print -l -- "$@"; }}
_files() {{ :; }}
_describe() {{ local name=${{@[-1]}}; print -l -- ${{(P)name%%:*}}; }}
source {script}
words=({words}) CURRENT=$#words PREFIX=$words[-1]
_epochal
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the script for each shell, as the command prints it."""
    parsers = command_parsers(COMMANDS, "epochal")
    commands = [completable(parser, names_for(name)) for name, parser in parsers.items()]
    folder = tmp_path_factory.mktemp("scripts")
    for shell, write in SCRIPTS.items():
        (folder / shell).write_text(write(commands))
    return folder


def offered(scripts: Path, *words: str) -> set[str]:
    """Return what bash offers for the last word of a line."""
    ask = ASK_BASH.format(script=scripts / "bash", words=shlex.join(words))
    done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_offers_the_commands(scripts: Path):
    assert offered(scripts, "epochal", "") == {*COMMANDS, "help", "--help", "--version"}
    assert offered(scripts, "epochal", "ev") == {"evaluate"}
    assert offered(scripts, "epochal", "help", "") == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_offers_every_option_of_a_command(scripts: Path, command: str):
    parser = command_parsers({command: COMMANDS[command]}, "epochal")[command]
    assert offered(scripts, "epochal", command, "-") == {flag for a in parser._actions for flag in a.option_strings}


def test_bash_offers_choices_and_names_for_and_leaves_the_rest_to_files(scripts: Path):
    assert offered(scripts, "epochal", "export", "x", "--format", "") == {"wds", "parquet", "megatron", "bin", "hf"}
    assert offered(scripts, "epochal", "export", "--format", "=", "m") == {"megatron"}
    assert offered(scripts, "epochal", "build", "py") == {"python"}
    assert {"tiny-ar", "tiny-mdm"} <= offered(scripts, "epochal", "train", "")
    assert "crossover-cpu" in offered(scripts, "epochal", "crossover", "cross")
    assert offered(scripts, "epochal", "completion", "") == set(SCRIPTS)
    assert offered(scripts, "epochal", "carve", "") == set()
    assert offered(scripts, "epochal", "build", "x", "--quiet", "py") == {"python"}
    # A value that is nobody's choice is no name of a configuration either.
    assert offered(scripts, "epochal", "crossover", "--jobs", "") == set()


def test_bash_completes_files_where_nothing_of_ours_fits(scripts: Path):
    """What `complete` was told: without the function's words, files."""
    ask = f"source {scripts / 'bash'}; complete -p epochal"
    said = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, check=True).stdout
    assert "-o default" in said


@pytest.mark.slow
def test_every_shipped_name_is_one_that_its_command_takes(capsys):
    from epochal.datapipe.config import load_build
    from epochal.train.config import load_config
    from epochal.train.crossover.grid import load_grid

    for name in names_for("build"):
        load_build(name, ["sources.0.path=x"])
    for name in names_for("train"):
        load_config(name, ("train_loader.dataset.path=x", "eval_loader.dataset.path=y"))
    for name in names_for("crossover"):
        load_grid(name)
    for name in names_for("flops"):
        assert main(["flops", name]) == 0


def test_flops_is_offered_the_shapes_of_models_too():
    assert {"tiny-ar", "tiny", "30m", "paper-1b"} <= set(names_for("flops"))
    assert "30m" not in names_for("train")


def test_the_command_prints_the_script(scripts: Path, capsys):
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == (scripts / "bash").read_text()
    assert main(["completion", "csh"]) == 2
    assert "SHELL must be one of bash, fish, zsh" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_offers_commands_options_choices_and_names(scripts: Path):
    def offers(*words: str) -> set[str]:
        ask = ASK_ZSH.format(script=scripts / "zsh", words=shlex.join(words))
        done = subprocess.run(["zsh", "-f", "-c", ask], capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    assert {*COMMANDS} <= offers("epochal", "")
    assert "--unique-tokens" in offers("epochal", "carve", "--")
    assert offers("epochal", "carve", "x", "--format", "") == {"mds", "wds"}
    assert "python" in offers("epochal", "build", "")


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_offers_commands_options_choices_and_names(scripts: Path, tmp_path: Path):
    def offers(line: str) -> set[str]:
        ask = f"source {scripts / 'fish'}; complete -C {shlex.quote(line)}"
        done = subprocess.run(
            ["fish", "--no-config", "-c", ask], capture_output=True, text=True, env=os.environ | {"HOME": str(tmp_path)}
        )
        return {row.split("\t")[0] for row in done.stdout.splitlines()}

    assert {"carve", "crossover", "completion"} <= offers("epochal c")
    assert "--unique-tokens" in offers("epochal carve x --u")
    assert {"mds", "wds"} <= offers("epochal carve x --format ")
    assert "python" in offers("epochal build py")


def test_what_a_parser_says_cannot_end_a_quotation():
    import argparse

    parser = argparse.ArgumentParser(prog="epochal odd", description='it\'s "odd": $(exit 3) `x`')
    parser.add_argument("--what", choices=["it's"], help="100 %% 'quoted' \\ [x]: y")
    for shell, write in SCRIPTS.items():
        script = write([completable(parser)])
        assert "100 % " in script or shell == "bash"
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=script, text=True, check=True)
    assert "it\\'s" in fish([completable(parser)])
