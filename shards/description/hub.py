"""The YAML that a dataset card begins with, as the Hugging Face hub and `datasets.load_dataset` read it."""

import glob
import re
from collections.abc import Iterable
from typing import Any

from ..documents import DOCUMENTS
from ..facts import plain
from ..manifest import ExportManifest, Manifest
from ..tables.names import pattern_of
from .subject import Subject

LICENCES = frozenset(
    [
        "afl-3.0",
        "agpl-3.0",
        "apache-2.0",
        "artistic-2.0",
        "bigcode-openrail-m",
        "bigscience-bloom-rail-1.0",
        "bigscience-openrail-m",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "bsl-1.0",
        "c-uda",
        "cc",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "cdla-sharing-1.0",
        "creativeml-openrail-m",
        "ecl-2.0",
        "epl-1.0",
        "epl-2.0",
        "etalab-2.0",
        "eupl-1.1",
        "eupl-1.2",
        "gfdl",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "isc",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "lgpl-lr",
        "lppl-1.3c",
        "mit",
        "mpl-2.0",
        "ms-pl",
        "ncsa",
        "odbl",
        "odc-by",
        "ofl-1.1",
        "openrail",
        "openrail++",
        "osl-3.0",
        "pddl",
        "postgresql",
        "unlicense",
        "wtfpl",
        "zlib",
    ]
)
"""What the hub takes as `license`, besides `other` and `unknown`."""

_ALIASES = {"odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "pddl-1.0": "pddl", "gfdl-1.3": "gfdl", "cc0": "cc0-1.0"}
_LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")

NO_ROWS = "no rows for datasets in this folder; run  epochal export SUBSET --format parquet --out NEW  and load that"
"""Stands where a pattern of data files would. There is no way to have `load_dataset` say a sentence but to have it look
for a file of that name; without one it takes the manifest for data."""

TABLES = {
    "duplicates": ("exact duplicates", "near-duplicates"),
    "rejects": ("unusable rows", "empty"),
    "filtered": ("filter ", "where of "),
    "contaminated": ("contaminated",),
}
"""Further tables of a pool, and the steps of its waterfall whose documents they list."""


def metadata(s: Subject) -> dict[str, Any]:
    """Return what the front matter says."""
    m = s.manifest
    n = m.documents if s.rows == "documents" else m.samples
    languages = [tag for tag in listed(s.sources, "language") if _LANGUAGE.fullmatch(tag)]
    return {
        "license": licences(s),
        **({"language": languages} if languages else {}),
        "pretty_name": plain(m.name),
        "size_categories": [size_category(n)],
        "task_categories": ["text-generation"],
        "tags": ["epochal", "pre-training", "token-ids", s.form],
        "configs": configs(s),
    }


def licences(s: Subject) -> list[str]:
    """Return the licences of the sources as the hub names them: `other` for those that it has no name for, `unknown`
    where a source says none."""
    names = {_licence(name) for name in listed(s.sources, "license")}
    if not s.sources or any("license" not in source for source in s.sources):
        names.add("unknown")
    return sorted(names)


def _licence(text: str) -> str:
    name = re.sub(r"-(only|or-later)$", "", text.lower().replace(" ", "-"))
    name = _ALIASES.get(name, name)
    return name if name in LICENCES else "other"


def listed(sources: Iterable[Any], key: str) -> list[str]:
    """Return the different values that sources have for a key, each of which may be one or a list, in order."""
    found: list[str] = []
    for source in sources:
        value = source.get(key)
        found += [plain(v) for v in (value if isinstance(value, list) else [value]) if v not in (None, "")]
    return list(dict.fromkeys(found))


def size_category(n: int) -> str:
    """Return the hub's name for a number of rows: `10K<n<100K`."""
    edges = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    power = len(str(n)) - 1
    if power < 3:
        return "n<1K"
    return f"{edges[power - 3]}<n<{edges[power - 2]}" if power - 2 < len(edges) else "n>1T"


def configs(s: Subject) -> list[dict[str, Any]]:
    """Return which files `load_dataset` reads, by name of the configuration; the first is the default."""
    if s.rows is None:
        return [_config("default", NO_ROWS, True)]
    if s.rows == "samples":
        patterns = {"wds": "shard-*.tar", "parquet": "data/train-*.parquet", "hf": "data-*.arrow"}
        return [_config("samples", patterns[s.form], True)]
    if s.window is None:
        found = [(name, pattern_of(s.files, name)) for name in (DOCUMENTS, *_with_rows(s))]
        return [_config(name, path, name == DOCUMENTS) for name, path in found if path is not None]
    assert isinstance(s.manifest, Manifest)
    assert s.manifest.parent is not None, "only views have a window"
    start, stop = s.window
    where = {"filters": [["start", ">=", start], ["start", "<", stop]]}
    pool = glob.escape(s.manifest.parent.path)  # what is read is a pattern
    return [_config("documents", f"{pool}/{s.of_pool}", True) | where]


def _config(name: str, path: str, default: bool = False) -> dict[str, Any]:
    chosen = {"default": True} if default else {}
    return {"config_name": name, **chosen, "data_files": [{"split": "train", "path": path}]}


def _with_rows(s: Subject) -> list[str]:
    """Return the further tables of a pool that have rows: of one without any `datasets` makes an error."""
    if isinstance(s.manifest, ExportManifest):
        return []
    statistics = s.manifest.statistics
    steps = [row["step"] for row in statistics.get("waterfall", []) if row["documents"]]
    found = [name for name, begin in TABLES.items() if any(step.startswith(begin) for step in steps)]
    return found + (["left_out"] if statistics.get("files_not_read") else [])
