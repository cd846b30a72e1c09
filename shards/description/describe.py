"""The one place where an artifact or export gets its descriptions: the card, Croissant, and the sums of its files."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

from ...common.publish import FileInfo
from .card import card
from .croissant import croissant
from .subject import Subject

CARD_NAME = "README.md"
CROISSANT_NAME = "croissant.json"
SUMS_NAME = "SHA256SUMS"

DESCRIPTIONS = (CARD_NAME, CROISSANT_NAME, SUMS_NAME)
"""Files that every artifact and export has since they are written; earlier ones have none of them."""


def describe(subject: Subject, write: Callable[[str, bytes], None]) -> dict[str, FileInfo]:
    """Write the descriptions of an artifact or export whose other files, but for its manifest, are written.

    Their bytes depend on the subject alone. The sums are of every file but the manifest, which holds the hash of the
    sums, and the sums themselves.

    Args:
        subject: see there.
        write: puts a file of a name into the folder.

    Returns:
        Size and xxh64 of each of the files, for the manifest.
    """
    files, sha256 = dict(subject.files), dict(subject.sha256)
    for name, text in ((CARD_NAME, card), (CROISSANT_NAME, croissant), (SUMS_NAME, sums)):
        data = text(replace(subject, files=files, sha256=sha256)).encode()
        write(name, data)
        files[name], sha256[name] = FileInfo.of(data), hashlib.sha256(data).hexdigest()
    return {name: files[name] for name in DESCRIPTIONS}


def sums(s: Subject) -> str:
    """Return what `sha256sum -c` checks: a line for each file."""
    return "".join(f"{s.sha256[name]}  {name}\n" for name in sorted(s.files))
