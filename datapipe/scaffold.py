"""A commented configuration for what lies in a folder: `epochal init`."""

import json
import re
from collections.abc import Iterable
from typing import Any

from ..common.errors import RequestError, printable
from .config import OWN_COLUMNS, Build
from .preview import preview
from .sources.base import Intake
from .sources.listing import Listing
from .sources.registry import list_source, make_reader

TEXT_KEYS = ("text", "content", "body", "raw_content", "document", "article", "code", "completion", "story", "markdown")
ID_KEYS = ("id", "doc_id", "document_id", "uid", "url", "path", "hash")
"""Names that fields have in well-known data sets, the likeliest first."""

ROWS = 20

FIELDS_KEPT = 4
"""Further fields of a row that the comment on `keep` names."""


def configuration(folder: str, name: str) -> str:
    """Return a YAML text for the documents in `folder` (path or URL), which names what was found in comments.

    Raises:
        RequestError: when there is nothing to read, or no field that holds text.
        WorkError: when the first file is damaged.
    """
    draft = _draft(folder, name, {})
    (listing,) = list_source(0, draft.sources[0])
    fields = _first_fields(draft, listing)
    keys = {"text_key": _key(fields, TEXT_KEYS, "text"), "id_key": _key(fields, ID_KEYS, "id")}
    if fields and keys["text_key"] not in fields:
        raise RequestError(
            f"no field of {listing.files[0].name} looks like a text ({', '.join(sorted(fields))}): "
            f"build it with `folder sources.0.path={folder} sources.0.text_key=FIELD`"
        )
    further = _further(fields, keys.values())
    found = preview(_draft(folder, name, keys))
    (source,) = found["sources"]
    tokens = sum(sample["tokens"] for sample in source["samples"])
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in source["formats"].items())
    return TEMPLATE.format(
        name=name,
        path=_quoted(folder),
        files=f"{source['files']:,} files ({kinds}), some {max(1, tokens // 1000):,},000 tokens by a sample",
        fields=printable(f"the first row's fields: {', '.join(sorted(fields))}")
        if fields
        else "each file is a document",
        facts=_FACTS + (_WHERE.format(field=further[0]) if further else ""),
        keep=_KEEP.format(fields=", ".join(further)) if further else "",
        **{key: _key_text(value) for key, value in keys.items()},
    )


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def _further(fields: dict[str, Any], used: Iterable[str]) -> list[str]:
    """Return some fields besides those of text and id that hold one value each, as YAML."""
    taken = {*used, *OWN_COLUMNS}
    single = (name for name, value in fields.items() if name not in taken and not isinstance(value, dict | list))
    return [_key_text(name) for name in sorted(single)[:FIELDS_KEPT]]


def _key_text(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    """Return a text as YAML, in which `${` begins no reference."""
    return json.dumps(text.replace("${", "\\${"), ensure_ascii=False)


def _draft(folder: str, name: str, keys: dict[str, str]) -> Build:
    source = {"name": name, "format": "auto", "path": folder} | keys
    return Build.model_validate({"name": name, "sources": [source]})


def _first_fields(draft: Build, listing: Listing) -> dict[str, Any]:
    """Return the fields of the first row that has some, with their values."""
    reader = make_reader(listing, draft.sources[0], Intake(), True, draft.tokenizer)
    for file in listing.files:
        for number, content in reader._rows(file):
            if isinstance(content, dict) and content:
                return content
            if number >= ROWS:
                break
    return {}


def _key(fields: dict[str, Any], usual: tuple[str, ...], otherwise: str) -> str:
    """Return the likeliest of some fields: one of the usual names, or for texts the longest."""
    named = next((key for key in usual if key in fields), None)
    texts = {key: value for key, value in fields.items() if isinstance(value, str)}
    if named is None and otherwise == "text" and texts:
        return max(texts, key=lambda key: len(texts[key]))
    return named or otherwise


def write(path: str, text: str) -> None:
    """Write a new file.

    Raises:
        RequestError: when there is one already, or no folder for it.
    """
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RequestError(f"{path} is there already: name another file with --out, or remove it") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from None


_FACTS = """\
    # license: CC-BY-4.0 # what is known of the texts; also citation, url, collected, language, pii
"""
_WHERE = """\
    # where: {field} IS NOT NULL # only rows for which this holds: SQL on a row's fields, such as quality >= 0.6
"""
_KEEP = """
# keep: [{fields}] # fields of the rows that documents.parquet keeps; with types: {{quality: float, date: date}}
"""
TEMPLATE = """\
# Builds a pool from {path}.
#   epochal build THIS_FILE --dry-run     what would be read
#   epochal build THIS_FILE
name: {name} # the pool is artifacts/pools/{name}
seed: 0 # of the canonical order and of everything drawn at random
seq_len: 2048 # tokens of a sample
validation_tokens: auto # 1 % of the tokens, at most 1M; or a number, or 0 for none
max_reject_fraction: 0.01 # of rows that have no document; with more of them the build stops

sources:
  - name: {name}
    path: {path} # {files}
    format: auto # as each file's name ends; or jsonl, parquet, text
    text_key: {text_key} # {fields}
    id_key: {id_key} # where a row has none, its file and number
    # limit: 1000 # only the first rows
    # fraction: 0.1 # a tenth of the files
{facts}{keep}
deduplicate: # exact copies always go
  near: {{ngram: 5, buckets: 14, hashes: 8}} # null: keep near-duplicates

# filters: # datatrove's, by class name and parameters; what they take is in filtered.parquet
#   - {{name: GopherQualityFilter}}
#   - {{name: C4QualityFilter, filter_no_terminal_punct: false}}

# decontaminate: # leave out documents that share 13 words in a row with an evaluation
#   files: [eval/hellaswag_val.jsonl]
#   ngram: 13

# tokenizer: # gpt2 unless you name another
#   name: path/to/tokenizer.json

# on_damaged: skip # leave damaged files out whole, listed in left_out.parquet, instead of stopping
# tasks: 4 # how the work is divided; no byte of the result depends on it
# workers: 2
"""
