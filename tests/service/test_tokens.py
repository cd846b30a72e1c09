"""Tokens: each goes to the address that it is for, and to none that only a file names."""

import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.common.errors import RequestError
from epochal.service.client import tokens
from epochal.service.client.client import AwayError, Client
from epochal.service.client.journal import JOURNAL
from epochal.service.client.reporter import Reporter
from epochal.service.client.tokens import keep, origin, token_for

GENERAL, OWN = "general-token-0001", "own-token-00000001"


@contextmanager
def stranger(status: int = 200, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server that is not ours, and the Authorization headers that it was sent."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            heard.append(self.headers.get("authorization", ""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            body = json.dumps({"token": 1, "detail": "x"}).encode()
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", heard
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_other_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EPOCHAL_TOKEN", GENERAL)
    for name in ("EPOCHAL_TOKENS", "EPOCHAL_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tokens, "_named", set())


def journal(folder: Path, url: str) -> str:
    """Write the journal of somebody's run."""
    folder.mkdir()
    body = {"name": "r", "plan": {}, "batch_samples": 1, "holder": "h", "session": "s"}
    calls = [{"call": "claim", "url": url, "body": body}, {"call": "reports", "body": {"position": 1, "tokens": 1}}]
    (folder / JOURNAL).write_text("".join(json.dumps(call) + "\n" for call in calls))
    return str(folder)


def test_a_folder_and_a_configuration_do_not_say_where_a_token_goes(tmp_path: Path, capsys):
    with stranger() as (url, heard):
        assert main(["register", journal(tmp_path / "run", url)]) == 0
        assert f"$EPOCHAL_TOKEN is not sent to {url}" in capsys.readouterr().err
        warned: list[str] = []
        reporter = Reporter(url, str(tmp_path / "own"), {"name": "r", "plan": {}, "batch_samples": 1}, warned.append)
        reporter.start()
        reporter.close("stopped", None, wait=20)
        assert f"`epochal login {url}`" in warned[0]
        assert len(heard) > 2
        assert set(heard) == {""}


@pytest.mark.parametrize("how", ["command line", "variable", "by origin", "login"])
def test_the_user_says_where_a_token_goes(how: str, tmp_path: Path, monkeypatch, capsys):
    with stranger() as (url, heard):
        folder, more = journal(tmp_path / "run", url), []
        if how == "command line":
            more = ["--service", url]
        if how == "variable":
            monkeypatch.setenv("EPOCHAL_SERVICE", f"{url}/")
        if how == "by origin":
            monkeypatch.setenv("EPOCHAL_TOKENS", f"write:{'w' * 16}, https://other.example=x, {url}={OWN}==")
        if how == "login":
            monkeypatch.setattr("sys.stdin", io.StringIO(f"{OWN}==\n"))
            assert main(["login", url]) == 0
            heard.clear()
        assert main(["register", folder, *more]) == 0
        assert set(heard) == {f"Bearer {GENERAL if how in ('command line', 'variable') else OWN + '=='}"}
        captured = capsys.readouterr()
        assert "is not sent" not in captured.err
        assert OWN not in captured.out + captured.err


def test_an_override_on_the_command_line_is_the_users():
    assert token_for("http://h:1", from_file=True)[0] is None
    tokens.user_names("http://H:1/prefix")
    assert token_for("http://h:1", from_file=True) == (GENERAL, "")
    assert token_for("http://h:2", from_file=True)[0] is None


def test_a_redirect_is_not_followed(tmp_path: Path):
    with stranger() as (other, heard), stranger(307, location=f"{other}/runs") as (url, _):
        with pytest.raises(AwayError, match="sends on to another address"):
            Client(url, OWN).get("/runs")
        with pytest.raises(AwayError):
            Client(url, OWN).order("p", 0, 1)
    assert heard == []


def test_a_kept_token_is_only_its_owners(monkeypatch, capsys):
    with stranger(401) as (url, _):
        monkeypatch.setattr("sys.stdin", io.StringIO(OWN))
        assert main(["login", url]) == 2
        assert "nothing was kept" in capsys.readouterr().err
    path = keep("https://Host.example", OWN)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert json.loads(Path(path).read_text()) == {"https://host.example:443": OWN}
    assert token_for("https://host.example:443", from_file=True) == (OWN, "")
    os.chmod(path, 0o644)
    with pytest.raises(RequestError, match="chmod 600"):
        token_for("https://host.example:443", from_file=True)
    os.chmod(path, 0o600)
    assert main(["login", "https://host.example:443/", "--forget"]) == 0
    assert json.loads(Path(path).read_text()) == {}
    Path(path).write_text("[" * 100_000)
    with pytest.raises(RequestError, match="is damaged"):
        token_for("https://host.example:443", from_file=True)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example", "https://a.example:443"),
        ("HTTP://A.example:8642/x", "http://a.example:8642"),
        ("http://good.example@evil.example/", "http://evil.example:80"),
        ("http://[::1]:5", "http://[::1]:5"),
        ("http://a:port", None),
        ("ftp://a", None),
        ("a", None),
    ],
)
def test_origins(url: str, expected: str | None):
    assert origin(url) == expected


@pytest.mark.parametrize("value", ["http://127.0.0.1:8642", "nowhere=token", "http://h=", "http://h=a b", "http://h=ü"])
def test_a_wrong_entry_is_named_without_its_token(value: str, monkeypatch):
    monkeypatch.setenv("EPOCHAL_TOKENS", value)
    with pytest.raises(RequestError, match=r"EPOCHAL_TOKENS.*entry 1") as caught:
        Client("http://127.0.0.1:1")
    assert "token=" not in str(caught.value)
