"""The hub: one commit shows all, what was uploaded is not sent again, refusals are one line in words of ours."""

import json
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.common import storage
from epochal.common.errors import RequestError, WorkError
from epochal.shards.transfer.hub import HubPlace, hub_place
from epochal.shards.transfer.transfer import pull, push
from epochal.shards.verify import verify
from epochal.tests.support.hub import TOKEN, Hub

URL = "hf://datasets/me/data"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (URL, HubPlace("me/data", None, "")),
        (f"{URL}/", HubPlace("me/data", None, "")),
        (f"{URL}@v1", HubPlace("me/data", "v1", "")),
        (f"{URL}@refs/pr/3/a/b", HubPlace("me/data", "refs/pr/3", "a/b")),
        (f"{URL}@a%2Fb/c", HubPlace("me/data", "a/b", "c")),
        (f"{URL}/a/./b/", HubPlace("me/data", None, "a/b")),
    ],
)
def test_places_of_the_hub(url: str, place: HubPlace) -> None:
    assert hub_place(url) == place


@pytest.mark.parametrize(
    "url", ["hf://", "hf://me/data", "hf://datasets/me", f"{URL}/../x", f"{URL}@", "hf://spaces/a/b"]
)
def test_what_is_no_data_set_is_refused_before_anything_is_asked(
    the_hub: Hub, pool: str, url: str, tmp_path: Path
) -> None:
    for act in (lambda: push(pool, url), lambda: pull(url, str(tmp_path / "x"))):
        with pytest.raises(RequestError, match="is written hf://datasets/USER/NAME"):
            act()
    assert not the_hub.state.asked


def test_one_commit_shows_all_of_it(the_hub: Hub, pool: str) -> None:
    push(pool, URL)
    assert the_hub.state.asked["commit"] == 1
    assert the_hub.state.private == {"me/data"}
    assert the_hub.state.content("me/data", "manifest.json") == Path(pool, "manifest.json").read_bytes()
    push(pool, "hf://datasets/me/open", public=True)
    assert the_hub.state.private == {"me/data"}


def test_what_was_uploaded_is_not_sent_again(the_hub: Hub, pool: str) -> None:
    the_hub.state.trouble["commit"] = [403]
    with pytest.raises(RequestError, match="the hub does not allow this for me/data: set HF_TOKEN"):
        push(pool, URL)
    assert storage.names(URL) == [".gitattributes"]
    sent = the_hub.state.asked["put"]
    again = push(pool, URL)
    assert (again.kept, the_hub.state.asked["put"]) == (14, sent)
    assert verify(URL) == []


def test_a_commit_whose_answer_is_lost_is_made_once(the_hub: Hub, pool: str) -> None:
    the_hub.state.trouble["commit"] = ["lost"]
    assert push(pool, URL).new
    assert len(the_hub.state.commits) == 2
    assert verify(URL) == []


def test_what_fails_now_and_then_is_asked_again(the_hub: Hub, pool: str, tmp_path: Path) -> None:
    for name in ("info", "create", "preupload", "batch", "put", "verify", "tree", "commit", "resolve"):
        the_hub.state.trouble[name] = [500, "lost"]
    push(pool, URL)
    pull(URL, str(tmp_path / "back"))
    assert not any(the_hub.state.trouble.values())
    assert verify(str(tmp_path / "back")) == []


def test_a_branch_that_moves_meanwhile(the_hub: Hub, pool: str, view: str) -> None:
    the_hub.state.trouble["commit"] = [412]
    assert push(pool, URL).new
    assert push(view, f"{URL}/sub").new
    assert verify(f"{URL}/sub") == []
    assert "does not belong" in verify(URL)[0]  # two artifacts, one in the other's folder


def test_what_the_hub_made_of_it_is_looked_at(the_hub: Hub, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = the_hub.state.commit

    def without_one(repo: str, branch: str, files: dict) -> str:
        return commit(repo, branch, {k: v for k, v in files.items() if k != "shard.00003.mds"})

    monkeypatch.setattr(the_hub.state, "commit", without_one)
    with pytest.raises(WorkError, match=r"is not what was sent: shard\.00003\.mds is missing or another file"):
        push(pool, URL)


def test_the_source_is_read_at_one_commit(the_hub: Hub, pool: str, view: str, tmp_path: Path) -> None:
    push(pool, URL)
    first = the_hub.state.branches["me/data"]["main"]
    resolve = the_hub.state.asked

    class Moving(type(resolve)):
        def __setitem__(self, name: str, n: int) -> None:
            super().__setitem__(name, n)
            if name == "resolve" and the_hub.state.branches["me/data"]["main"] == first:
                the_hub.state.commit("me/data", "main", {"manifest.json": b"another"})

    the_hub.state.asked = Moving()
    pull(URL, str(tmp_path / "back"))
    assert the_hub.state.branches["me/data"]["main"] != first
    assert verify(str(tmp_path / "back")) == []


@pytest.mark.parametrize(
    ("token", "words", "said"),
    [
        (
            "hf_wrong_token_0123",
            ["push", "POOL", URL],
            "there is no data set me/data for you on the hub: check the name",
        ),
        (
            TOKEN,
            ["pull", "hf://datasets/me/none", "DIR"],
            "there is no data set me/none on the hub, or no such revision",
        ),
        (TOKEN, ["pull", f"{URL}@none", "DIR"], "there is no data set me/data on the hub, or no such revision"),
        (TOKEN, ["pull", f"{URL}/a/b", "DIR"], "does not exist"),
        (TOKEN, ["verify", f"{URL}/a/b"], "does not exist"),
    ],
)
def test_refusals_are_one_line(
    the_hub: Hub, pool: str, tmp_path: Path, capsys, monkeypatch, token: str, words: list[str], said: str
) -> None:
    the_hub.state.make("me/data")
    monkeypatch.setenv("HF_TOKEN", token)
    assert main([{"POOL": pool, "DIR": str(tmp_path / "x")}.get(word, word) for word in words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert token not in printed.err
    assert "http" not in printed.err
    assert printed.out == ""


def test_a_hub_that_is_away_is_one_line(the_hub: Hub, pool: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    the_hub.state.trouble["info"] = [500] * 9
    assert main(["push", pool, URL]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == f"epochal: cannot look for {URL} after 5 attempts: the hub answered with status 500"


def test_the_command_says_what_it_did(the_hub: Hub, pool: str, tmp_path: Path, capsys) -> None:
    assert main(["push", pool, URL]) == 0
    assert main(["push", pool, URL, "--json"]) == 0
    assert main(["pull", URL, str(tmp_path / "back"), "--json"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith(f"pushed {URL}  (14 files, ")
    assert lines[1] == f"next: epochal verify {URL}"
    pushed, pulled = map(json.loads, lines[2:])
    assert (pushed["new"], pulled["new"], pushed["fingerprint"]) == (False, True, pulled["fingerprint"])
    assert "the data set me/data is made where there is none: private" in printed.err
