"""Which tokenizer made the ids of sources that hold token ids already: the build's must be the same."""

import os
import re
from collections.abc import Iterable

from ...common import storage
from ...common.errors import RequestError
from ...shards.artifact import is_artifact, read_any_manifest
from ...shards.manifest import ExportManifest, Manifest, TokenizerInfo
from ...tokenize.tokenizer import Tokenizer, load_tokenizer
from ..config import Source


def manifest_beside(source: Source) -> Manifest | ExportManifest | None:
    """Return the manifest of the artifact or export that a source is, or lies in, if there is one."""
    root = artifact_folder(source)
    return None if root is None else read_any_manifest(root)


def artifact_folder(source: Source) -> str | None:
    """Return the folder of the artifact or export that a source is, or lies in, if there is one."""
    path = str(source.path).rstrip("/")
    folders = [path, os.path.dirname(path), os.path.dirname(os.path.dirname(path))]
    if os.path.isdir(storage.local_path(path)):
        folders.pop()  # only files, or a pattern of them, may lie in a folder of an artifact
    return next((folder for folder in folders if is_artifact(folder)), None)


def carried_tokenizer(sources: Iterable[Source]) -> str | None:
    """Return the folder of the first source of token ids that names no tokenizer and needs to name none, being one of
    our artifacts or exports, or lying in one."""
    unnamed = (source for source in sources if source.tokenized is not None and source.tokenized.tokenizer is None)
    return next((root for source in unnamed if (root := artifact_folder(source)) is not None), None)


def check_tokenizers(sources: Iterable[Source], tokenizer: Tokenizer, chosen: str) -> None:
    """Raise RequestError unless every tokenized source was made with the build's tokenizer, as far as is known.

    Args:
        chosen: the name that the build's tokenizer was loaded by.
    """
    for source in sources:
        if source.tokenized is None:
            continue
        manifest = manifest_beside(source)
        named = source.tokenized.tokenizer
        if named is not None:
            _check_named(source, named, tokenizer, chosen)
        elif manifest is None:
            raise RequestError(
                f"source '{source.name}' holds token ids, and no manifest beside them says whose: name their tokenizer "
                "(tokenized: {tokenizer: ...})"
            )
        if manifest is not None:
            _check_manifest(source, manifest, tokenizer.info)


def _check_named(source: Source, named: str, tokenizer: Tokenizer, chosen: str) -> None:
    is_fingerprint = re.fullmatch(r"[0-9a-f]{32}", named)
    same = named == chosen
    known = named if is_fingerprint or same else load_tokenizer(named, fast=False).info.fingerprint
    if not same and known != tokenizer.info.fingerprint:
        raise RequestError(
            f"source '{source.name}' was tokenized with {named}, the build's tokenizer is {tokenizer.info.name} "
            f"({tokenizer.info.fingerprint}): use that tokenizer, or build from the text"
        )


def _check_manifest(source: Source, manifest: Manifest | ExportManifest, info: TokenizerInfo) -> None:
    theirs, ours = (t.model_dump(exclude={"name", "vocab_size"}) for t in (manifest.tokenizer, info))
    if theirs != ours:
        different = ", ".join(f"{k} {theirs[k]}, not {ours[k]}" for k in ours if theirs[k] != ours[k])
        raise RequestError(
            f"source '{source.name}': its manifest says another tokenizer than the build's: {different} "
            f"(tokenizer.name={artifact_folder(source)} takes this one)"
        )
    if isinstance(manifest, ExportManifest) and manifest.plan is not None:
        raise RequestError(
            f"source '{source.name}' is an export in the order of a plan, its documents cut into samples: "
            "export the subset without --order"
        )
