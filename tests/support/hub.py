"""A stand-in of the Hugging Face hub on loopback: what huggingface_hub asks for to upload and download data sets.

Repositories, commits and large files live in memory. Large files are kept by SHA-256, and only whole ones. Writing
asks for the token TOKEN; reading a private data set too.
"""

import base64
import contextlib
import functools
import hashlib
import http.server
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_stand_in_token"
SMALL = 2_000
"""Files of at least so many bytes are large ones."""


class State:
    """What the hub holds. `commits` has the files of each commit: by path, bytes or (SHA-256, size) of a large file."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.branches: dict[str, dict[str, str]] = {}
        self.private: set[str] = set()
        self.commits: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.trouble: dict[str, list[int | str]] = {}

    def commit(self, repo: str, branch: str, files: dict[str, Any]) -> str:
        """Move a branch to a new commit with these files."""
        parent = self.branches[repo].get(branch, "")
        oid = hashlib.sha1(repr((repo, parent, sorted(files.items()))).encode()).hexdigest()
        self.commits[oid] = files
        self.branches[repo][branch] = oid
        return oid

    def make(self, repo: str, private: bool = False) -> None:
        """Make a data set as the hub does: with a first commit."""
        self.branches[repo] = {}
        self.commit(repo, "main", {".gitattributes": b"*.mds filter=lfs\n"})
        if private:
            self.private.add(repo)

    def content(self, repo: str, name: str, revision: str = "main") -> bytes:
        """Return the bytes of a file."""
        found = self.commits[self.branches[repo].get(revision, revision)][name]
        return found if isinstance(found, bytes) else self.large[found[0]]

    def needed(self, repo: str) -> set[str]:
        """Return the SHA-256 of the large files in a data set's commits."""
        commits = [self.commits[oid] for oid in self.branches[repo].values()]
        return {found[0] for files in commits for found in files.values() if not isinstance(found, bytes)}


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _wrong(status: int, code: str = "") -> tuple[int, dict[str, str], bytes]:
    return status, ({"X-Error-Code": code} if code else {}), b'{"error": "no"}'


Answer = tuple[int, dict[str, str], bytes]

ROUTES: list[tuple[str, str, str]] = [
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)", "branch"),
    ("POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths"),
    ("GET", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("GET", r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("POST", r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/-/large/(?P<oid>[0-9a-f]{64})", "put"),
    ("POST", r"/-/verify", "verify"),
    ("GET", r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request by the function that ROUTES names."""

    protocol_version = "HTTP/1.1"

    def __init__(self, state: State, *args: Any) -> None:
        self.state = state
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True  # who sent it has died
            return
        status, headers, answer = self._routed(method, urlsplit(self.path), body)
        if status == 0:
            self.close_connection = True
            return
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

    def _routed(self, method: str, url: Any, body: bytes) -> Answer:
        for verb, pattern, name in ROUTES:
            match = re.fullmatch(pattern, url.path)
            if verb != method or not match:
                continue
            words = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
            with self.state.lock:
                self.state.asked[name] += 1
                trouble = self.state.trouble.get(name, [])
                wrong = trouble.pop(0) if trouble else None
                if isinstance(wrong, int):
                    return _wrong(wrong)
                if refused := self._refused(name, words):
                    return refused
                answer: Answer = getattr(self, name)(body=body, query=parse_qs(url.query), **words)
                return (0, {}, b"") if wrong == "lost" else answer
        return _wrong(404)

    def _refused(self, name: str, words: dict[str, str]) -> Answer | None:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        repo = words.get("repo")
        writes = name not in ("info", "tree", "paths", "resolve", "put")
        if (writes or repo in self.state.private) and not known:
            return _wrong(401, "" if writes else "RepoNotFound")
        if repo is not None and repo not in self.state.branches:
            return _wrong(404, "RepoNotFound")
        revision = words.get("revision", "main")
        if repo and name not in ("branch", "batch") and self._commit(repo, revision) is None:
            return _wrong(404, "RevisionNotFound")
        return None

    def _commit(self, repo: str, revision: str) -> str | None:
        branches = self.state.branches[repo]
        return branches.get(revision, revision if revision in self.state.commits else None)

    def _files(self, repo: str, revision: str) -> dict[str, Any]:
        return self.state.commits[str(self._commit(repo, revision))]

    # -- what is asked for; each is given the body, the query and what the path holds ----------------------------------

    def host(self) -> str:
        """Return the server's address."""
        return f"http://{self.headers['Host']}"

    def create(self, body: bytes, **_: Any) -> Answer:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        if asked["type"] != "dataset":
            return _wrong(400)
        if repo in self.state.branches:
            return 409, {}, json.dumps({"url": f"{self.host()}/datasets/{repo}"}).encode()
        self.state.make(repo, asked.get("private", False))
        return _json({"url": f"{self.host()}/datasets/{repo}"})

    def validate(self, **_: Any) -> Answer:
        return _json({"errors": [], "warnings": []})

    def branch(self, repo: str, revision: str, **_: Any) -> Answer:
        self.state.branches[repo].setdefault(revision, self.state.branches[repo]["main"])
        return _json({})

    def info(self, repo: str, revision: str = "main", **_: Any) -> Answer:
        sha = self._commit(repo, revision)
        return _json({"id": repo, "sha": sha, "private": repo in self.state.private, "tags": [], "siblings": []})

    def preupload(self, body: bytes, repo: str, revision: str, **_: Any) -> Answer:
        def mode(file: dict[str, Any]) -> dict[str, Any]:
            large = file["size"] >= SMALL or file["path"].endswith(".mds")
            return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

        return _json({"files": [mode(file) for file in json.loads(body)["files"]]})

    def batch(self, body: bytes, repo: str, **_: Any) -> Answer:
        def action(asked: dict[str, Any]) -> dict[str, Any]:
            if asked["oid"] in self.state.large:
                return asked
            host = self.host()
            there = {"upload": {"href": f"{host}/-/large/{asked['oid']}"}, "verify": {"href": f"{host}/-/verify"}}
            return asked | {"actions": there}

        return _json({"transfer": "basic", "objects": [action(asked) for asked in json.loads(body)["objects"]]})

    def put(self, body: bytes, oid: str, **_: Any) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return _wrong(400)
        self.state.large[oid] = body
        return 200, {"ETag": oid}, b""

    def verify(self, body: bytes, **_: Any) -> Answer:
        asked = json.loads(body)
        return _json({}) if len(self.state.large.get(asked["oid"], b"")) == asked["size"] else _wrong(404)

    def commit(self, body: bytes, repo: str, revision: str, **_: Any) -> Answer:
        lines = [json.loads(line) for line in body.splitlines()]
        head = self._commit(repo, revision)
        if lines[0]["value"].get("parentCommit", head) != head:
            return _wrong(412)
        files = dict(self._files(repo, revision))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif value["oid"] in self.state.large:
                files[value["path"]] = (value["oid"], value["size"])
            else:
                return _wrong(400)
        oid = self.state.commit(repo, revision, files)
        return _json({"commitUrl": f"{self.host()}/datasets/{repo}/commit/{oid}", "commitOid": oid, "success": True})

    def _entry(self, path: str, found: Any) -> dict[str, Any]:
        if isinstance(found, bytes):
            blob = hashlib.sha1(b"blob %d\0" % len(found) + found).hexdigest()
            return {"type": "file", "path": path, "oid": blob, "size": len(found)}
        lfs = {"oid": found[0], "size": found[1], "pointerSize": 130}
        return {"type": "file", "path": path, "oid": found[0][:40], "size": found[1], "lfs": lfs}

    def tree(self, query: dict[str, list[str]], repo: str, revision: str, path: str = "", **_: Any) -> Answer:
        files = self._files(repo, revision)
        start = f"{path}/" if path else ""
        below = {name: found for name, found in files.items() if name.startswith(start)}
        if path and not below:
            return _wrong(404, "EntryNotFound")
        recursive = query.get("recursive", [""])[0].lower() == "true"
        folders = {
            start + "/".join(parts[:n])
            for name in below
            if (parts := name[len(start) :].split("/"))
            for n in range(1, len(parts))
        }
        shown = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)]
        shown += [self._entry(name, found) for name, found in sorted(below.items())]
        return _json([entry for entry in shown if recursive or "/" not in entry["path"][len(start) :]])

    def paths(self, body: bytes, repo: str, revision: str, **_: Any) -> Answer:
        files, entries = self._files(repo, revision), []
        for path in parse_qs(body.decode())["paths"]:
            if path in files:
                entries.append(self._entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                entries.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        return _json(entries)

    def resolve(self, repo: str, revision: str, path: str, **_: Any) -> Answer:
        files = self._files(repo, revision)
        if path not in files:
            return _wrong(404, "EntryNotFound")
        found = files[path]
        data = found if isinstance(found, bytes) else self.state.large[found[0]]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": str(self._commit(repo, revision))}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return 200, headers, data
        first, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
        return 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1]


class Hub:
    """The server: its address, what it holds, and the environment of a process that is to find it."""

    def __init__(self, address: str) -> None:
        self.address, self.state = address, State()
        self.environment = {"HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}
        self.environment["HF_HUB_OFFLINE"] = "0"  # other tests of the process may have switched the network off


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """Serve a hub; huggingface_hub in this process, and in processes that it starts, is pointed at it."""
    from huggingface_hub import HfFileSystem, constants, file_download

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), None) as server, pytest.MonkeyPatch.context() as patch:  # type: ignore[arg-type]
        it = Hub(f"http://127.0.0.1:{server.server_address[1]}")
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that is killed says no goodbye
        server.RequestHandlerClass = functools.partial(Handler, it.state)  # type: ignore[assignment]
        for name, value in it.environment.items():
            patch.setitem(os.environ, name, value)
        patch.setattr(constants, "ENDPOINT", it.address)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(
            file_download, "HUGGINGFACE_CO_URL_TEMPLATE", it.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        HfFileSystem.clear_instance_cache()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield it
        finally:
            server.shutdown()
            thread.join()
            HfFileSystem.clear_instance_cache()
