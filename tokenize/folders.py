"""What a folder of ours, an artifact's, an export's or a model's, says about the tokenizer of its ids."""

import os
from dataclasses import dataclass

from pydantic import ValidationError

from ..common import storage
from ..common.errors import WorkError
from ..common.json_text import strict_json
from ..shards.artifact import is_artifact, read_any_manifest
from ..shards.manifest import TokenizerInfo
from ..shards.tokenizer_file import artifact_tokenizer, read_tokenizer


@dataclass(frozen=True)
class StatedTokenizer:
    """The tokenizer that a folder states.

    Attributes:
        info: name, fingerprint and special ids.
        file: the tokenizer.json that the folder carries, checked; None for one of version 0.1.0, which carries none.
    """

    info: TokenizerInfo
    file: bytes | None


def stated_tokenizer(folder: str) -> StatedTokenizer | None:
    """Return what the artifact, export or model in `folder` (local or URL) states; None where there is none of them.

    Raises:
        WorkError: when the folder, or the tokenizer.json in it, is damaged.
    """
    if not storage.is_url(folder) and not os.path.isdir(storage.local_path(folder)):
        return None
    if is_artifact(folder):
        m = read_any_manifest(folder)
        return StatedTokenizer(m.tokenizer, artifact_tokenizer(folder, m))
    info = _of_model(folder)
    return None if info is None else StatedTokenizer(info, read_tokenizer(folder, info.fingerprint))


def _of_model(folder: str) -> TokenizerInfo | None:
    """Return what the config.json of a model of ours says, None when `folder` holds none."""
    where = storage.join(folder, "config.json")
    try:
        body = strict_json(storage.read_bytes(where, may_lack=True))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("format") != "epochal-model":
        return None
    try:
        return TokenizerInfo.model_validate(body.get("tokenizer"))
    except ValidationError:
        raise WorkError(f"{where} is damaged: it does not say which tokenizer its ids have") from None
