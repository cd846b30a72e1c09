"""A data set of the Hugging Face hub as the target: large files are uploaded first, and one commit shows all of them.

Until that commit nobody sees anything. The hub keeps what was uploaded by its SHA-256, so an interrupted attempt is
gone on with. What was committed is read back from the hub's own list: SHA-256 and size of large files, the bytes of
small ones.
"""

import contextlib
import posixpath
import re
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote

from ...common import storage
from ...common.cli import say
from ...common.errors import EpochalError, RequestError, WorkError
from ...common.publish import MANIFEST_NAME, FileInfo
from ...common.remote.patience import ATTEMPTS, patiently
from ..artifact import HUB_OWN, read_any_manifest
from ..manifest import ExportManifest, Manifest
from .fetch import OTHER, Watch, at_hand

T = TypeVar("T")

_PLACE = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?(?:/(?P<folder>.+))?"
)


@dataclass(frozen=True)
class HubPlace:
    """A folder (empty for the root) of a data set, at a branch; None for the default one."""

    repo: str
    revision: str | None
    folder: str

    def at(self, commit: str) -> str:
        """Return its URL at a commit, where nothing changes any more."""
        return f"hf://datasets/{self.repo}@{commit}" + (f"/{self.folder}" if self.folder else "")


def hub_place(url: str) -> HubPlace:
    """Return what a URL of the hub names.

    Raises:
        RequestError: when it is no data set.
    """
    match = _PLACE.fullmatch(url.rstrip("/"))
    folder = posixpath.normpath(match["folder"] or ".") if match else ""
    if not match or folder.startswith(("..", "/")):
        raise RequestError(f"{url}: a place on the hub is written hf://datasets/USER/NAME[@BRANCH][/FOLDER]")
    revision = unquote(match["revision"]) if match["revision"] else None
    return HubPlace(match["repo"], revision, "" if folder == "." else folder)


def pinned(url: str) -> str:
    """Return the URL of a source at the hub with the commit that its branch is at now: all of it is read from there,
    whatever is pushed meanwhile. Other URLs and paths are returned as they are.

    Raises:
        RequestError: when there is no such data set or revision.
    """
    if not url.startswith("hf://"):
        return url
    _prepare()
    from huggingface_hub import HfApi

    place = hub_place(url)
    info = _asked(
        lambda: HfApi().repo_info(place.repo, repo_type="dataset", revision=place.revision),
        f"look for {url}",
        place.repo,
    )
    return place.at(str(info.sha))


class Hub:
    """The folder of a data set; the data set is made where there is none.

    Attributes:
        root: `hf://datasets/USER/NAME[@BRANCH][/FOLDER]`.
    """

    def __init__(self, root: str, public: bool = False) -> None:
        _prepare()
        from huggingface_hub import HfApi

        self.root, self._place, self._public = root, hub_place(root), public
        self._api = HfApi()
        self._there = False
        self._operations: list[Any] = []
        self._lock = threading.Lock()

    def published(self) -> Manifest | ExportManifest | None:
        """Return what is there; None for nothing.

        Raises:
            RequestError: when something else is there.
        """
        commit = self._head()
        self._there = commit is not None
        there = self._files(commit) if commit else {}
        if commit is None or not there.keys() - HUB_OWN:
            return None
        if MANIFEST_NAME not in there:
            raise RequestError(OTHER.format(self.root))
        return read_any_manifest(self._place.at(commit))

    @contextlib.contextmanager
    def claimed(self, request: str) -> Iterator[None]:
        """Make the data set and the branch where they are missing."""
        place = self._place
        if not self._there:
            say(f"the data set {place.repo} is made where there is none: {'public' if self._public else 'private'}")
        self._ask(
            lambda: self._api.create_repo(place.repo, repo_type="dataset", private=not self._public, exist_ok=True),
            "make the data set",
        )
        if self._head() is None:
            self._ask(
                lambda: self._api.create_branch(
                    place.repo, branch=str(place.revision), repo_type="dataset", exist_ok=True
                ),
                f"make the branch {place.revision}",
            )
        yield

    def add(self, name: str, info: FileInfo, source: str, watch: Watch) -> bool:
        """Upload the file at `source` (local or URL); return False where the hub has it from an attempt before."""
        with at_hand(source, info, watch) as path:
            return self._add(name, path)

    def add_bytes(self, name: str, data: bytes) -> bool:
        """Upload a file that is at hand; return False where the hub has it from an attempt before."""
        return self._add(name, data)

    def publish(self, text: bytes, names: Collection[str]) -> None:
        """Commit the manifest and the files of these names, and look at what has been committed.

        Raises:
            WorkError: when the hub has something else.
        """
        self._add(MANIFEST_NAME, text)
        commit = self._ask(self._commit, f"commit to {self.root}")
        storage.store_of(self.root).invalidate_cache()  # what this process has listed there is old now
        self._check(commit)

    def tidy(self, request: str) -> None:
        """Do nothing: an attempt leaves nothing that is seen."""

    def _add(self, name: str, content: str | bytes) -> bool:
        from huggingface_hub import CommitOperationAdd

        path = posixpath.join(self._place.folder, name)
        operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
        known = self._known(operation)
        self._ask(
            lambda: self._api.preupload_lfs_files(
                self._place.repo,
                additions=[operation],
                repo_type="dataset",
                revision=self._place.revision,
                gitignore_content="",  # a .gitignore there must not leave out a file of ours
            ),
            f"upload {name}",
        )
        if operation.path_or_fileobj == content and isinstance(content, str):
            with open(content, "rb") as f:  # a small file, which goes into the commit: the local one may be gone then
                operation.path_or_fileobj = f.read()
        with self._lock:
            self._operations.append(operation)
        return not known

    def _known(self, operation: Any) -> bool:
        """Return whether the hub keeps the content of a large file already."""
        from huggingface_hub.lfs import post_lfs_batch_info

        if not operation.upload_info.size:
            return False
        actions, _, _ = self._ask(
            lambda: post_lfs_batch_info(
                [operation.upload_info], None, "dataset", self._place.repo, self._place.revision
            ),
            f"ask for {operation.path_in_repo}",
        )
        return bool(actions) and not actions[0].get("actions")

    def _commit(self) -> str:
        """Commit, and return the commit; that of an attempt whose answer was lost where there is one."""
        head = self._head()
        if head is None:
            raise RequestError(f"{self.root} is gone: run the command again")
        there = self._files(head)
        if all(_same(there.get(self._name(op)), op) for op in self._operations):
            return head
        if MANIFEST_NAME in there:
            raise RequestError(f"{self.root} appeared meanwhile: choose another place or remove it")
        done = self._api.create_commit(
            self._place.repo,
            operations=self._operations,
            commit_message=f"epochal push: {self._place.folder or self._place.repo.partition('/')[2]}",
            repo_type="dataset",
            revision=self._place.revision,
            parent_commit=head,
        )
        return str(done.oid)

    def _check(self, commit: str) -> None:
        there = self._files(commit)
        wrong = [self._name(op) for op in self._operations if not _same(there.get(self._name(op)), op)]
        if wrong:
            raise WorkError(
                f"{self.root} is not what was sent: {wrong[0]} is missing or another file; remove it there and push"
            )

    def _name(self, operation: Any) -> str:
        return posixpath.relpath(operation.path_in_repo, self._place.folder or ".")

    def _head(self) -> str | None:
        """Return the commit that the branch is at, None where there is no such data set or branch."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        def look() -> str | None:
            try:
                info = self._api.repo_info(self._place.repo, repo_type="dataset", revision=self._place.revision)
            except GatedRepoError:
                raise
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None
            return str(info.sha)

        return self._ask(look, f"look for {self.root}")

    def _files(self, commit: str) -> dict[str, Any]:
        """Return what the hub says of each file in the folder at a commit, by its path from there."""
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        folder = self._place.folder

        def look() -> dict[str, Any]:
            try:
                tree = list(
                    self._api.list_repo_tree(
                        self._place.repo, folder or None, recursive=True, revision=commit, repo_type="dataset"
                    )
                )
            except EntryNotFoundError:
                return {}
            files = [entry for entry in tree if isinstance(entry, RepoFile)]
            return {posixpath.relpath(file.path, folder or "."): file for file in files}

        return self._ask(look, f"list {self.root}")

    def _ask(self, action: Callable[[], T], what: str) -> T:
        return _asked(action, what, self._place.repo)


def _same(file: Any, operation: Any) -> bool:
    """Return whether a file that the hub lists is the one that was sent."""
    from huggingface_hub.utils.sha import git_hash

    if file is None or file.size != operation.upload_info.size:
        return False
    if file.lfs is not None:
        return bool(file.lfs.sha256 == operation.upload_info.sha256.hex())
    content = operation.path_or_fileobj
    return isinstance(content, bytes) and file.blob_id == git_hash(content)


def _prepare() -> None:
    """Have the hub's client at hand, without its progress bars and its log: there are a line and words of ours.

    Raises:
        RequestError: saying what to install.
    """
    storage.filesystem("hf")
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity_error()


# -- what the hub says ----------------------------------------------------------------------------------------------


def _asked(action: Callable[[], T], what: str, repo: str) -> T:
    """Return what `action` returns, asked again where that may help, its errors in words of ours."""

    def attempt() -> T:
        try:
            return action()
        except EpochalError:
            raise
        except Exception as error:  # requests', urllib3's and the hub's own
            raise _explained(error, repo) from None

    return patiently(attempt, what, ATTEMPTS)


def _explained(error: BaseException, repo: str) -> Exception:
    """Return an error of ours for what asking again does not mend, an OSError of one line for the rest."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    status = _status(error)
    if isinstance(error, LocalTokenNotFoundError):
        return RequestError("the hub asks for a token: set HF_TOKEN to one that may write")
    if status in _REFUSED:
        return RequestError(_REFUSED[status].format(repo))
    if status in (409, 412):
        return OSError("somebody else changed the data set meanwhile")
    if status:
        return OSError(f"the hub answered with status {status}")
    away = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
    return OSError("the hub cannot be reached" if away else "the hub gave an answer that cannot be read")


_REFUSED = {
    400: "the hub refuses this for {}: is the name right, and the card's header (README.md) valid?",
    401: "there is no data set {} for you on the hub: check the name, and set HF_TOKEN to a token that may use it",
    403: "the hub does not allow this for {}: set HF_TOKEN to a token that may write there",
    404: "there is no data set {} on the hub, or no such revision: check the name",
    413: "the hub refuses the size of a file for {}: build with smaller shards",
}
"""What asking again does not mend."""


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status of an answer that an error, or the one that caused it, is about."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__ or error.__context__
    return None
