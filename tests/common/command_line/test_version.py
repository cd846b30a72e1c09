"""`epochal --version` in its three situations: a checkout, what was built from one, and neither."""

import subprocess
from pathlib import Path

import pytest

from epochal import __version__
from epochal.common.command_line import version
from epochal.common.command_line.version import COMMIT_NAME, of_checkout, version_line

ME = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]


def git(folder: Path, *words: str) -> str:
    """Run git in `folder`; return what it prints."""
    done = subprocess.run(["git", "-C", str(folder), *ME, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a repository with one commit of one file."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_a_checkout_tells_its_commit_and_whether_files_differ(checkout: Path):
    head = git(checkout, "rev-parse", "HEAD")
    assert of_checkout(checkout) == head
    assert version_line("1.2", checkout) == f"1.2 (commit {head[:12]})"
    (checkout / "code.py").write_text("x = 2\n")
    assert of_checkout(checkout) == f"{head}-dirty"
    assert version_line("1.2", checkout) == f"1.2 (commit {head[:12]}, with changes that are not committed)"


def test_a_tag_does_not_stand_for_the_commit(checkout: Path):
    git(checkout, "tag", "-a", "v1", "-m", "one")
    assert of_checkout(checkout) == git(checkout, "rev-parse", "HEAD")


def test_the_repository_of_a_hook_is_not_asked(checkout: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch):
    head = git(checkout, "rev-parse", "HEAD")
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert of_checkout(checkout) == head


def test_what_was_built_tells_what_was_written_then(tmp_path: Path):
    (tmp_path / COMMIT_NAME).write_text("a" * 40 + "-dirty\n")
    assert version_line("1.2", tmp_path) == f"1.2 (commit {'a' * 12}, with changes that are not committed)"


def test_without_git_or_a_commit_there_is_the_version_alone(checkout: Path, tmp_path_factory, monkeypatch):
    assert version_line("1.2", tmp_path_factory.mktemp("plain")) == "1.2"
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    assert version_line("1.2", checkout) == "1.2"


def test_the_command_says_it_and_help_does_not_ask(capsys, monkeypatch: pytest.MonkeyPatch):
    from epochal.__main__ import main

    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"epochal {version_line(__version__)}\n"
    monkeypatch.setattr(version, "_read", lambda root: pytest.fail("--help asked for the commit"))
    with pytest.raises(SystemExit):
        main(["--help"])
