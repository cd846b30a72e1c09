"""Croissant metadata, `croissant.json`: core 1.1 with fields of its extension for responsible AI (RAI 1.0), and W3C
PROV for what was made of what. `mlcroissant` reads it without a network, and the records of its tables with it."""

import json
import mimetypes
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from ..documents import DOCUMENTS, DOCUMENTS_NAME
from ..facts import plain
from ..manifest import ExportManifest
from ..tables.names import pattern_of
from .hub import listed
from .markdown import web_address
from .subject import Subject

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]

_ALIASES = [
    "arrayShape",
    "citeAs",
    "column",
    "conformsTo",
    "containedIn",
    "equivalentProperty",
    "extract",
    "field",
    "fileObject",
    "fileProperty",
    "fileSet",
    "format",
    "includes",
    "isArray",
    "isLiveDataset",
    "jsonPath",
    "key",
    "md5",
    "parentField",
    "path",
    "recordSet",
    "references",
    "regex",
    "repeated",
    "replace",
    "samplingRate",
    "separator",
    "source",
    "subField",
    "transform",
]

CONTEXT: dict[str, Any] = {
    **{name: f"cr:{name}" for name in _ALIASES},
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
"""The context that the specification recommends, and PROV's terms."""

_FORMATS = {
    ".parquet": "application/x-parquet",
    ".tar": "application/x-tar",
    ".arrow": "application/vnd.apache.arrow.stream",
    ".mds": "application/octet-stream",
    ".md": "text/markdown",
    ".json": "application/json",
}

COLUMNS = {
    "key": ("sc:Text", "BLAKE2b-128 of the normalised text, 16 bytes"),
    "id": ("sc:Text", "the document's id in its source; its key in hexadecimal where it had none"),
    "source": ("sc:Text", "name of the source"),
    "start": ("cr:Int64", "position of the document's first token in the stream"),
    "tokens": ("cr:Int64", "tokens of the document, the one that ends it included"),
}
"""Of documents.parquet: type and meaning."""

_KINDS = {
    "int": "cr:Int64",
    "uint": "cr:Int64",
    "float": "cr:Float64",
    "double": "cr:Float64",
    "bool": "sc:Boolean",
    "date": "sc:Date",
    "timestamp": "sc:DateTime",
}
"""Of columns of metadata: what the name of Arrow's type begins with, and Croissant's; others are text."""

_DOCUMENT_FILES = "document-files"
"""What the set of several files of documents is called."""

_MDS = ("shard.*.mds", "MDS shards; README.md shows how to read them")
_TOKEN_FILES = {
    "pool": _MDS,
    "copy": _MDS,
    "wds": ("shard-*.tar", "tar files in which each member is a sample, an array of ids in NumPy's format"),
    "parquet": ("data/*.parquet", "a sample in each row"),
    "hf": ("data-*.arrow", "Arrow streams with a sample in each row"),
    "megatron": ("text_document.*", "ids of documents, and the index that says where each of them lies"),
    "bin": ("train.bin", "ids, little-endian, one after the other"),
}
"""The files that hold tokens, and what they are."""


def croissant(s: Subject) -> str:
    """Return the text of croissant.json, which describes every file in the subject."""
    m = s.manifest
    about = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": plain(m.name),
        "description": _description(s),
        "identifier": _urn(m.fingerprint),
        "version": f"1.0.0+{m.fingerprint}",
        "keywords": ["pre-training", "token ids", "epochal", s.form],
        "distribution": [*_files(s), *_token_files(s), *_document_files(s)],
        "recordSet": [*_documents(s), *_samples(s)],
    }
    whole = about | _origin(s) | _responsible(s)
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _urn(fingerprint: str) -> str:
    return f"urn:epochal:{quote(fingerprint, safe='')}"


def _description(s: Subject) -> str:
    m = s.manifest
    what = f"{m.tokens:,} tokens of {m.documents:,} documents, in {m.samples:,} samples of {m.seq_len:,}"
    if isinstance(m, ExportManifest):
        return f"An export of {plain(m.parent.name)} ({plain(m.parent.fingerprint)}) in the format {m.layout}: {what}."
    if m.parent is None:
        return f"A pool of unique tokens for pre-training: {what}."
    where = f" Its shards lie in the pool, at {plain(m.parent.path)} from here." if s.form == "view" else ""
    return f"A subset of the pool {plain(m.parent.name)} ({plain(m.parent.fingerprint)}): {what}.{where}"


# -- where it comes from ----------------------------------------------------------------------------------------------


def _origin(s: Subject) -> dict[str, Any]:
    """Return licences, citations and languages, and what it was made of: its parent, or the pages of its sources."""
    parent = s.manifest.parent
    derived = [{"@id": _urn(parent.fingerprint)}] if parent else []
    pages = [url for url in listed(s.sources, "url") if web_address(url)]
    values: dict[str, Any] = {
        "license": listed(s.sources, "license"),
        "citeAs": "\n\n".join(str(c["citation"]).strip() for c in s.sources if c.get("citation")),
        "inLanguage": listed(s.sources, "language"),
        "isBasedOn": pages,
        "prov:wasDerivedFrom": derived or [{"@id": page} for page in pages],
    }
    return {key: value for key, value in values.items() if value}


def _responsible(s: Subject) -> dict[str, Any]:
    """Return the RAI fields that are known."""
    values = {
        "rai:dataCollection": "; ".join(_collections(s)),
        "rai:dataPreprocessingProtocol": list(_steps(s)),
        "rai:dataCollectionMissingData": _missing(s),
        "rai:personalSensitiveInformation": [
            f"{plain(source['name'])}: {plain(source['pii'])}" for source in s.sources if "pii" in source
        ],
    }
    return {key: value for key, value in values.items() if value}


def _collections(s: Subject) -> Iterator[str]:
    for source in s.sources:
        facts = [f"{key} {plain(source[key])}" for key in ("url", "collected") if key in source]
        yield f"{plain(source['name'])}{': ' if facts else ''}{', '.join(facts)}"


def _steps(s: Subject) -> Iterator[str]:
    """Yield what was done to the text of a pool, in order."""
    m = s.manifest
    if isinstance(m, ExportManifest) or m.parent is not None or not m.config:
        return
    for row in m.config.get("filters", []):
        yield f"documents filtered by {plain(row['name'])}"
    if chosen := m.config.get("decontaminate"):
        yield f"documents removed that share {chosen['ngram']} words in a row with an evaluation item"
    yield f"encoded with the tokenizer {m.tokenizer.fingerprint}"
    near = (m.config.get("deduplicate") or {}).get("near")
    yield "exact duplicates removed" + (" and near-duplicates, by MinHash" if near else "")
    yield f"documents ordered by a keyed hash of their text and cut into samples of {m.seq_len:,} tokens"


def _missing(s: Subject) -> str:
    """Return how many rows a pool could not use, empty where that is none."""
    if isinstance(s.manifest, ExportManifest):
        return ""
    rejected = sum(s.manifest.statistics.get("rejected", {}).values())
    damaged = s.manifest.statistics.get("damaged_files", 0)
    parts = [f"{rejected:,} rows could not be used"] if rejected else []
    parts += [f"{damaged:,} damaged files were left out"] if damaged else []
    return " and ".join(parts)


# -- files and records ------------------------------------------------------------------------------------------------


def _files(s: Subject) -> Iterator[dict[str, Any]]:
    for name in sorted(s.files):
        yield {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{s.files[name].bytes} B",
            "encodingFormat": _format(name),
            "sha256": s.sha256[name],
        }


def _format(name: str) -> str:
    ending = re.sub(r".*(?=\.[^.]+$)", "", name)
    return _FORMATS.get(ending) or mimetypes.types_map.get(ending, "application/octet-stream")


def _token_files(s: Subject) -> Iterator[dict[str, Any]]:
    """Yield the set of the files that hold tokens, where they are in this folder."""
    if s.form != "view":
        pattern, about = _TOKEN_FILES[s.form]
        files = {"@type": "cr:FileSet", "@id": "token-files", "name": "token-files", "includes": pattern}
        yield files | {"description": about, "encodingFormat": _format(pattern)}


def _document_files(s: Subject) -> Iterator[dict[str, Any]]:
    """Yield the set of the files of the table of documents, where they are several."""
    pattern = pattern_of(s.files, DOCUMENTS)
    if pattern in (None, DOCUMENTS_NAME):
        return
    files = {"@type": "cr:FileSet", "@id": _DOCUMENT_FILES, "name": _DOCUMENT_FILES, "includes": pattern}
    about = "the table of documents, its rows in the order of the files' names"
    yield files | {"description": about, "encodingFormat": _format(DOCUMENTS_NAME)}


def _documents(s: Subject) -> Iterator[dict[str, Any]]:
    """Yield the records of the table of documents."""
    found = pattern_of(s.files, DOCUMENTS)
    if found is None:
        return
    source = {"fileObject": {"@id": found}} if found == DOCUMENTS_NAME else {"fileSet": {"@id": _DOCUMENT_FILES}}
    kept = {name: (_kind(kind), "metadata of the document, as its source has it") for name, kind in s.kept.items()}
    yield {
        "@type": "cr:RecordSet",
        "@id": "documents",
        "name": "documents",
        "description": "which document lies where in the token stream",
        "field": [_field(column, *about, source) for column, about in (COLUMNS | kept).items()],
    }


def _kind(name: str) -> str:
    return next((kind for begin, kind in _KINDS.items() if name.startswith(begin)), "sc:Text")


def _field(column: str, kind: str, meaning: str, source: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"documents/{quote(column, safe='')}",
        "name": column,
        "description": meaning,
        "dataType": kind,
        "source": source | {"extract": {"column": column}},
    }


def _samples(s: Subject) -> Iterator[dict[str, Any]]:
    """Yield the samples of Parquet files. Croissant has no words for what the other formats hold, nor `mlcroissant` a
    reader: of those only the files are described."""
    if s.form != "parquet":
        return
    field = {
        "@type": "cr:Field",
        "@id": "samples/input_ids",
        "name": "input_ids",
        "description": "token ids of the sample",
        "dataType": "cr:UInt16" if s.manifest.dtype == "uint16" else "cr:UInt32",
        "isArray": True,
        "arrayShape": "-1",
        "source": {"fileSet": {"@id": "token-files"}, "extract": {"column": "input_ids"}},
    }
    about = {"@type": "cr:RecordSet", "@id": "samples", "name": "samples", "description": "samples in order"}
    yield about | {"field": [field]}
