"""Hostile inputs against every command: `python -m epochal.tests.stress.hostile [--only WORD]`.

Each case is one file or option that somebody might hand over, odd, damaged, endless or planted with code, and a command
that reads it. The command must end by itself, soon and in bounded memory, with a status that is listed here, one line
of our own words, and nothing outside its folder touched.
"""

import argparse
import io
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from epochal.tests.stress import world as w
from epochal.tests.stress.hostile_files import ANY, Case, odd_json, odd_manifests, odd_yaml

SLOW, LARGE = 8.0, 600 << 20
"""Seconds and bytes that no refusal takes, on a machine that does other work too."""

NUMBERS = ["1e999999999", "1e400", "nan", "inf", "-inf", "-1", "0", "1e-999999999", "1e12", "10" + "0" * 30, "9" * 5000]
NUMBERS += [str(2**63), str(2**64), "0x10", "1_0", "٣", "1e5000", "1" + "0" * 17, "NaNep", ".5"]
OPTIONS = [
    ["plan", w.POOL, "--batch-tokens", "64", "--epochs", "#"],
    ["plan", w.POOL, "--batch-tokens", "64", "--epochs", "#", "--policy", "global"],
    ["plan", w.POOL, "--batch-tokens", "64", "--total-tokens", "#"],
    ["plan", w.POOL, "--batch-tokens", "64", "--total-tokens", "#", "--policy", "global"],
    ["plan", w.POOL, "--batch-tokens", "#", "--epochs", "2"],
    ["plan", w.POOL, "--batch-tokens", "64", "--epochs", "2", "--params", "#"],
    ["plan", w.POOL, "--batch-tokens", "64", "--epochs", "2", "--seed", "#"],
    ["plan", "mixture.yaml", "--batch-tokens", "#"],
    ["order", w.POOL, "--start", "#", "--count", "2"],
    ["order", w.POOL, "--count", "#"],
    ["order", w.POOL, "--count", "2", "--epochs", "#", "--policy", "global"],
    ["carve", w.POOL, "--out", "new", "--unique-tokens", "#"],
    ["carve", w.POOL, "--out", "new", "--unique-tokens", "100", "--replicate", "#"],
    ["export", w.VIEW, "--format", "bin", "--out", "new", "--order", "--passes", "#"],
    ["export", w.VIEW, "--format", "bin", "--out", "new", "--order", "--seed", "#"],
    ["generate", w.MODEL, "--max-new-tokens", "#"],
    ["generate", w.MODEL, "--max-new-tokens", "2", "--temperature", "#"],
    ["generate", w.MODEL, "--max-new-tokens", "2", "--temperature", "1", "--top-p", "#"],
    ["generate", w.MODEL, "--max-new-tokens", "2", "--seed", "#"],
    ["evaluate", w.MODEL, "--loss", w.VALIDATION, "--out", "new", "--loss-samples", "#"],
    ["evaluate", w.MODEL, "--loss", w.VALIDATION, "--out", "new", "--batch-tokens", "#"],
    ["evaluate", w.MODEL, "--tasks", "hellaswag", "--data", ".", "--out", "new", "--limit", "#"],
    ["flops", "tiny-ar", "--seq-len", "#"],
    ["flops", "tiny-ar", "--tokens", "#"],
    ["flops", "tiny-ar", "--block", "#"],
    ["flops", "tiny-ar", "model.layers=#"],
    *[
        ["train", "new.yaml", f"{key}=#"]
        for key in (
            "seed",
            "max_duration",
            "global_train_batch_size",
            "device_train_microbatch_size",
            "optimizer.lr",
            "optimizer.eps",
            "optimizer.weight_decay",
            "scheduler.t_warmup",
            "eval_interval",
            "eval_loader.dataset.samples",
            "eval_loader.noise_samples",
            "model.hidden",
            "model.layers",
            "model.ffn",
            "model.rope_base",
            "model.init_std",
            "model.norm_eps",
            "save_num_checkpoints_to_keep",
            "train_loader.num_workers",
            "train_loader.dataset.cache_limit",
            "algorithms.gradient_clipping.clipping_threshold",
            "dist_timeout",
        )
    ],
    ["train", "new.yaml", "max_duration=#ep"],
    ["train", "new.yaml", "eval_interval=#ba"],
    ["train", "new.yaml", "scheduler.t_warmup=#dur"],
    *[
        ["build", "build.yaml", "out=new", "--quiet", f"{key}=#"]
        for key in (
            "seq_len",
            "validation_tokens",
            "samples_per_shard",
            "tasks",
            "workers",
            "seed",
            "name",
            "max_tokens",
        )
    ],
    ["crossover", "crossover-cpu", "--plan", f"pool={w.POOL}", "total_tokens=#"],
    ["crossover", "crossover-cpu", "--plan", f"pool={w.POOL}", "unique_tokens=[#]"],
    ["serve", "--root", "artifacts", "--port", "#"],
    ["seen", "--document", "x", "--position", "#", "--service", "http://127.0.0.1:9"],
]
"""Every option and setting that takes a number, which `#` stands for."""


def odd_numbers() -> Iterator[Case]:
    """Yield every odd number as each option. What is a sensible number for one is not for another, so some succeed."""
    for words in OPTIONS:
        for number in NUMBERS:
            if words[0] == "serve" and number in ("0", "1_0"):  # it would serve
                continue
            if "max_duration" in words[-1] and number in ("1e12", "1" + "0" * 17):  # a long run, which begins
                continue
            body = ["--" + number if word == "--#" else word.replace("#", number) for word in words]
            yield Case(f"{words[0]} {' '.join(words[2:])} of {number[:20]}", body, _new_run, ANY)


def _new_run(root: Path) -> None:
    text = (root / "stopped.yaml").read_text().replace(w.STOPPED, "runs/new").replace("2ep", "0.2ep")
    (root / "new.yaml").write_text(text)


def _member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def odd_tars() -> Iterator[Case]:
    """Yield tar files with members that are no files, or lie elsewhere, where a build reads samples."""
    kinds = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    for name, kind in (kinds | {"folder": tarfile.DIRTYPE, "unknown": b"Z", "sparse": tarfile.GNUTYPE_SPARSE}).items():
        for place in ("000000000.npy", "../../outside/x.npy", "/tmp/never.npy"):

            def plant(root: Path, kind: bytes = kind, place: str = place) -> None:
                path = next((root / "exports/wds").glob("*.tar"))
                data = io.BytesIO()
                with tarfile.open(path) as old, tarfile.open(fileobj=data, mode="w") as new:
                    new.addfile(_member(place, kind, "/etc/passwd"))
                    for member in old:
                        new.addfile(member, old.extractfile(member))
                (root / "foreign").mkdir()
                (root / "foreign/shard-000000.tar").write_bytes(data.getvalue())

            words = ["build", "foreign.yaml", "sources.0.path=foreign", "sources.0.format=wds"]
            yield Case(f"tar with a {name} as {place}", words, plant, ANY)


def odd_paths() -> Iterator[Case]:
    """Yield names that hold what a terminal obeys, or no path at all."""
    for name in (
        "a\x1b]0;x\x07",
        "a\nb",
        "\u202eb",
        "x" * 300,
        "\udcff",
        "-",
        "",
        "~nobody/x",
        "file:///x",
        "s3://",
        "x://y",
    ):
        for words in (
            ["show", "#"],
            ["verify", "#"],
            ["audit", "#"],
            ["train", "#"],
            ["build", "#"],
            ["generate", "#"],
        ):
            yield Case(f"path {name[:10]!r}", [word.replace("#", name) for word in words], lambda root: None)


FAMILIES = (odd_json, odd_manifests, odd_yaml, odd_numbers, odd_tars, odd_paths)


def prepare(root: Path) -> None:
    """Add to a world what some cases need."""
    w._write_yaml(
        str(root / "foreign.yaml"),
        {
            "name": "foreign",
            "out": "new",
            "seq_len": 64,
            "tasks": 1,
            "workers": 1,
            "validation_tokens": 0,
            "tokenizer": {"name": "tokenizer.json"},
            "sources": [{"name": "s", "path": "???", "tokenized": {}}],
        },
    )


def attempt(case: Case, template: Path, folder: Path) -> str | None:
    """Run a case in a fresh copy of a world; return what is wrong, None for nothing."""
    root = w.clone(template, folder / "inner/world")
    canary = folder / "outside"
    shutil.rmtree(canary, ignore_errors=True)
    canary.mkdir()
    case.plant(root)
    if root.joinpath("home/epochal/tokens.json").is_file():
        root.joinpath("home/epochal/tokens.json").chmod(0o600)
    ended = w.run_bounded(case.words, root)
    fault = ended.fault(case.allowed)
    if fault is None and ended.status and ended.seconds > SLOW:
        fault = f"refused after {ended.seconds:.1f} s"
    if fault is None and ended.status and ended.bytes > LARGE:
        fault = f"took {ended.bytes >> 20} MB"
    if (root / "ran").exists() or Path("/tmp/never").exists():
        fault = "planted code was run"
    if list(canary.iterdir()) or sorted(p.name for p in folder.iterdir()) != ["inner", "outside"]:
        fault = "files were written outside"
    return fault


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases with this in their names")
    parser.add_argument("--family", choices=[f.__name__ for f in FAMILIES])
    args = parser.parse_args()
    w.warm_up()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        template, folder = Path(name, "template"), Path(name, "cases")
        template.mkdir()
        folder.mkdir()
        w.make_world(template)
        prepare(template)
        for family in FAMILIES:
            for case in family() if args.family in (None, family.__name__) else ():
                if args.only in case.name:
                    counts["inputs"] += 1
                    if fault := attempt(case, template, folder):
                        counts["faults"] += 1
                        print(f"{case.name} | {' '.join(case.words)[:120]!r}: {fault}", flush=True)
    print(f"{counts['inputs']:,} hostile inputs, {counts['faults']:,} not refused as they should be")
    sys.exit(bool(counts["faults"]))


if __name__ == "__main__":
    main()
