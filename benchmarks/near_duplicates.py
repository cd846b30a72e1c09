"""How well near-duplicates are found, against datatrove's MinHash: `python -m epochal.benchmarks.near_duplicates`.

Passages of this environment's Python source, each from another file, and an edited copy of each: words replaced at
random places until the Jaccard similarity of the two, over 5-grams of lower-case `\\w+` words, has come down to a
stated level. A pair is a near-duplicate when its similarity is at least 0.72, where a pair has an even chance with
14 buckets of 8 hashes; every pair that a side puts into one cluster counts, planted or not. Which hashes are drawn
moves F1 by a hundredth, mostly by how clusters of generated code hang together: each side draws --draws times.

Writes benchmarks/results/near_duplicates.json and prints a table of means. `ratio` is our F1 / that of datatrove as it
comes.
"""

import argparse
import itertools
import json
import random
import re
import shutil
import statistics
import struct
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from epochal.benchmarks.build import BUCKETS, HASHES, NGRAM, build_stock
from epochal.benchmarks.common import machine, result_path, write_result
from epochal.benchmarks.corpora import python_source

LEVELS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
THRESHOLD = 0.72
WORDS = 250


def passages(count: int, seed: int) -> list[str]:
    """Return `count` passages of about WORDS words, one from the middle of each of as many files."""
    rng = random.Random(seed)
    found: list[str] = []
    for document in python_source(1e9):
        words = list(re.finditer(r"\w+", document["text"]))
        if len(words) > 3 * WORDS:
            first = rng.randrange(WORDS, len(words) - 2 * WORDS)
            found.append(document["text"][words[first].start() : words[first + WORDS].start()].strip())
        if len(found) == count:
            return found
    raise SystemExit(f"this environment has only {len(found)} files that are long enough: use fewer --pairs")


def shingles(text: str) -> set[tuple[str, ...]]:
    """Return the word 5-grams of a text."""
    words = re.findall(r"\w+", text.lower())
    return set(zip(*(words[i:] for i in range(NGRAM)), strict=False))


def jaccard(a: str, b: str) -> float:
    """Return the Jaccard similarity of two texts' shingles."""
    first, second = shingles(a), shingles(b)
    return len(first & second) / len(first | second)


def edited(text: str, level: float, vocabulary: list[str], rng: random.Random) -> str:
    """Return `text` with words replaced, one at a time, until its similarity to `text` is at most `level`."""
    spans = [match.span() for match in re.finditer(r"\w+", text)]
    replaced: dict[int, str] = {}
    order = rng.sample(range(len(spans)), len(spans))
    changed = text
    for place in order:
        replaced[place] = rng.choice(vocabulary)
        pieces, at = [], 0
        for i in sorted(replaced):
            pieces += [text[at : spans[i][0]], replaced[i]]
            at = spans[i][1]
        changed = "".join([*pieces, text[at:]])
        if jaccard(text, changed) <= level:
            break
    return changed


def our_clusters(source: Path, out: Path, seed: int) -> list[list[str]]:
    """Return the clusters, as document ids, that an epochal build of `source` finds."""
    from epochal.datapipe.build import build
    from epochal.datapipe.config import Build

    config = {"name": "p", "out": str(out), "sources": [{"name": "s", "path": str(source)}]}
    built = build(Build.model_validate(config | {"deduplicate": {"near": {"seed": seed}}}), quiet=True)
    clusters: dict[str, set[str]] = defaultdict(set)
    for row in pq.read_table(f"{built.pool}/duplicates.parquet").to_pylist():
        clusters[row["cluster"]] |= {row["id"], row["survivor_id"]}
    return [sorted(c) for c in clusters.values()]


def stock_clusters(source: Path, out: Path, plain: bool, ids: list[str], seed: int) -> list[list[str]]:
    """Return the clusters that datatrove finds; `ids` are the documents' in order of reading."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import minhash

    build_stock(str(source), str(out), 1, plain, seed)
    config = minhash.MinhashConfig(n_grams=NGRAM, num_buckets=BUCKETS, hashes_per_bucket=HASHES, seed=seed)
    step = minhash.MinhashDedupCluster(f"{out}/buckets", f"{out}/ids", config=config, save_cluster_id=True)
    LocalPipelineExecutor([step], logging_dir=f"{out}/logs/ids").run()
    clusters: dict[int, list[str]] = defaultdict(list)
    for number, cluster in struct.iter_unpack("<2I", (out / "ids" / "000000.clusters").read_bytes()):
        clusters[cluster].append(ids[number])
    return list(clusters.values())


def score(clusters: Iterable[list[str]], texts: dict[str, str], level: dict[str, float]) -> dict[str, Any]:
    """Compare clusters with the truth. `level`: the planted similarity by the pair's number."""
    found = {pair for cluster in clusters for pair in itertools.combinations(sorted(cluster), 2)}
    planted = {(f"{i}-a", f"{i}-b"): value for i, value in level.items()}
    right = {pair for pair in found if planted.get(pair, 0) >= THRESHOLD}
    right |= {pair for pair in found - set(planted) if jaccard(texts[pair[0]], texts[pair[1]]) >= THRESHOLD}
    positive = sum(value >= THRESHOLD for value in level.values()) + len(right - set(planted))
    precision, recall = len(right) / len(found), len(right) / positive
    by_level = {
        str(wanted): sum(pair in found for pair, value in planted.items() if value == wanted)
        / sum(value == wanted for value in level.values())
        for wanted in LEVELS
    }
    f1 = 2 * precision * recall / (precision + recall)
    return {"precision": precision, "recall": recall, "f1": f1, "found_by_level": by_level, "pairs": len(found)}


def mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of what `score` returns for several draws, and every F1."""
    found = {key: statistics.fmean(row[key] for row in rows) for key in ("precision", "recall", "f1", "pairs")}
    levels = {key: statistics.fmean(row["found_by_level"][key] for row in rows) for key in rows[0]["found_by_level"]}
    return found | {"found_by_level": levels, "every_f1": [row["f1"] for row in rows]}


def main() -> None:
    """Measure, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400, help="pairs at each level of similarity")
    parser.add_argument("--seed", type=int, default=0, help="of the passages and edits")
    parser.add_argument("--draws", type=int, default=3, help="how often each side draws its hashes")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    originals = passages(args.pairs * len(LEVELS), args.seed)
    vocabulary = sorted({word for text in originals for word in re.findall(r"\w+", text)})
    level = {str(i): LEVELS[i % len(LEVELS)] for i in range(len(originals))}
    texts = {}
    for i, text in enumerate(originals):
        texts[f"{i}-a"], texts[f"{i}-b"] = text, edited(text, level[str(i)], vocabulary, rng)
    folder = Path(tempfile.mkdtemp(prefix="epochal-near-"))
    try:
        (folder / "in").mkdir()
        lines = (json.dumps({"id": i, "text": text}) + "\n" for i, text in texts.items())
        (folder / "in" / "0.jsonl").write_text("".join(lines))
        ids = list(texts)
        sides: dict[str, Callable[..., list[list[str]]]] = {
            "ours": our_clusters,
            "datatrove, as it comes (spaCy)": partial(stock_clusters, plain=False, ids=ids),
            r"datatrove, \w+ words": partial(stock_clusters, plain=True, ids=ids),
        }
        draws: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for seed in range(1, args.draws + 1):
            for name, find in sides.items():
                draws[name].append(score(find(folder / "in", folder / "out", seed=seed), texts, level))
                shutil.rmtree(folder / "out")
        table = {name: mean(rows) for name, rows in draws.items()}
    finally:
        shutil.rmtree(folder)
    ours, stock, _ = table.values()
    result = {"pairs_per_level": args.pairs, "threshold": THRESHOLD, "table": table, "ratio": ours["f1"] / stock["f1"]}
    write_result(result_path("near_duplicates"), result)
    print(f"{machine()}; means of {args.draws} draws of hashes")
    print("| | precision | recall | F1 | " + " | ".join(f"{value:g}" for value in LEVELS) + " |")
    print("|---" * (4 + len(LEVELS)) + "|")
    for name, row in table.items():
        cells = [f"{row[key]:.3f}" for key in ("precision", "recall", "f1")]
        cells[2] += f" ({min(row['every_f1']):.3f} to {max(row['every_f1']):.3f})"
        print(f"| {name} | " + " | ".join([*cells, *(f"{v:.2f}" for v in row["found_by_level"].values())]) + " |")


if __name__ == "__main__":
    main()
