"""The report of a pool: one self-contained HTML page."""

from ..shards.artifact import Artifact


def write_report(pool: Artifact, path: str) -> None:
    with open(path, "w", encoding="utf-8") as f:
        f.write("<!doctype html>\n")
