"""A stranger's first hour: `python -m epochal.tests.stress.first_hour [--columns 40] [--locale C]`.

Own text in three languages -> pool -> subset -> service -> a model of each type -> evaluation, text -> crossover ->
exports, in an empty folder, every command a process of its own. Prints each with what it says; fails where a command
fails, shows a traceback or a library's words, says too much, or says it in lines that are too long.
"""

import argparse
import contextlib
import gzip
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from epochal.tests.stress.mistakes import FOREIGN
from epochal.tests.support.corpora import real_documents

PURELIB = Path(sysconfig.get_paths()["purelib"])
SMALL = "model.layers=1 model.hidden=32 model.heads=2 max_duration=4k global_train_batch_size=8"
DATA = "train_loader.dataset.path=artifacts/subsets/mine-20k eval_loader.dataset.path=artifacts/pools/mine-val"
SERVICE = "http://127.0.0.1:{port}"
GRID = """name: grid
out: runs/grid
base: tiny-ar
pool: artifacts/pools/mine
unique_tokens: [2k, 4k]
total_tokens: 4k
settings: {model: {layers: 1, hidden: 32, heads: 2}, global_train_batch_size: 4, device_train_microbatch_size: 4}
"""

COMMANDS = f"""
--help
init data --name mine
build mine.yaml seq_len=128 --dry-run
build mine.yaml seq_len=128
build mine.yaml seq_len=128
list
peek artifacts/pools/mine --count 2
show artifacts/pools/mine
carve artifacts/pools/mine --unique-tokens 20k
peek artifacts/subsets/mine-20k --sample 3
plan artifacts/subsets/mine-20k --passes 4 --batch-tokens 1024
order artifacts/subsets/mine-20k --count 4
SERVE
train tiny-ar {DATA} {SMALL} service={SERVICE}
train tiny-mdm {DATA} {SMALL} service={SERVICE}
audit runs/tiny-ar
evaluate runs/tiny-ar runs/tiny-mdm --loss artifacts/pools/mine-val --loss-samples 16
generate runs/tiny-ar "def f(x):" --max-new-tokens 16
generate runs/tiny-mdm "def f(x):" --max-new-tokens 16
register artifacts/subsets/mine-20k
register runs/tiny-ar --service {SERVICE}
seen --run tiny-ar --histogram --service {SERVICE}
seen --document english-0 --service {SERVICE}
STOP
crossover grid.yaml --plan
crossover grid.yaml
export artifacts/subsets/mine-20k --format megatron --out exported/megatron
export artifacts/subsets/mine-20k --format parquet --out exported/parquet --order --passes 2
export-model runs/tiny-ar --out exported/model
verify artifacts/pools/mine artifacts/subsets/mine-20k exported/megatron exported/parquet
list
"""

LIBRARY = re.compile(
    FOREIGN.pattern + r"|Warning|site-packages|^\S+:\d+: |composer|torch\.|\bINFO\b|\bDEBUG\b|huggingface_hub|%\|", re.M
)
"""What nothing on the terminal looks like."""

MOST_CHARACTERS, MOST_LINES = 200, 45
"""Of a line, and of what one command says in a pipe."""


def write_texts(folder: Path) -> None:
    """Fill `folder` with text in three languages: .parquet, .jsonl, .jsonl.gz, .md and .txt."""
    folder.mkdir()
    english, french, japanese = real_documents(120), _catalogue("fr_FR", "fr"), _catalogue("ja_JP", "ja")
    ids = [f"english-{i}" for i in range(60)]
    pq.write_table(pa.table({"id": ids, "text": english[:60]}), folder / "english.parquet")
    rows = [json.dumps({"id": f"source-{i}", "text": text}) for i, text in enumerate(english[60:])]
    (folder / "source.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    rows = [json.dumps({"id": f"ja-{i}", "text": text}, ensure_ascii=False) for i, text in enumerate(japanese)]
    (folder / "japanese.jsonl.gz").write_bytes(gzip.compress(("\n".join(rows) + "\n").encode()))
    for i, text in enumerate(french):
        (folder / f"french-{i}.md").write_text(text, encoding="utf-8")
    for i, path in enumerate(sorted(PURELIB.glob("*.dist-info/**/LICENSE*"))[:8]):
        (folder / f"licence-{i}.txt").write_text(path.read_text(encoding="utf-8", errors="ignore"), encoding="utf-8")


def _catalogue(package_locale: str, manual: str) -> list[str]:
    """Return real text in a language: this machine's manual pages, or a package's catalogue of messages."""
    pages = sorted(Path("/usr/share/man", manual).rglob("*.gz"))[:24]
    texts = [gzip.decompress(page.read_bytes()).decode(errors="ignore") for page in pages]
    path = PURELIB / "humanize" / "locale" / package_locale / "LC_MESSAGES" / "humanize.po"
    texts += [path.read_text(encoding="utf-8")] if path.exists() else []
    if not texts:
        raise SystemExit(f"no text in {manual} is on this machine")
    return [re.sub(r"^[.']\S* ?|\\f.", "", text, flags=re.M) for text in texts]


def main(argv: list[str] | None = None) -> int:
    """Run the hour; return 1 when something in it is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, help="on a terminal of this width; without, in a pipe")
    parser.add_argument("--locale", default="C.UTF-8", help="C also turns Python's UTF-8 off")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        write_texts(root / "data")
        (root / "grid.yaml").write_text(GRID)
        problems = _hour(root, args.columns, args.locale)
    print("\n".join([f"problems: {len(problems)}", *problems]))
    return 1 if problems else 0


def _hour(root: Path, columns: int | None, locale: str) -> list[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONUTF8", "PYTHONIOENCODING", "COLUMNS")}
    env |= {"LC_ALL": locale, "TERM": "xterm-256color"} | ({"PYTHONUTF8": "0"} if locale == "C" else {})
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    problems: list[str] = []
    with contextlib.ExitStack() as serving:
        port = 0
        for line in filter(None, COMMANDS.splitlines()):
            if line == "SERVE":
                port = serving.enter_context(_server(root, env))
                continue
            if line == "STOP":
                serving.close()
                continue
            words = shlex.split(line.format(port=port))
            started = time.monotonic()
            status, text = _run(words, root, env, columns)
            print(f"$ epochal {shlex.join(words)}\n{text}[status {status}, {time.monotonic() - started:.1f} s]\n")
            sys.stdout.flush()
            problems += [f"epochal {shlex.join(words)}: {what}" for what in _faults(status, text, columns)]
    return problems


def _faults(status: int, text: str, columns: int | None) -> Iterator[str]:
    if status:
        yield f"status {status}"
    shown = [line.rpartition("\r")[2] for line in text.split("\n")]
    if match := LIBRARY.search("\n".join(shown)):
        yield f"a library's words: {match[0]!r}"
    if "\x1b" in text and columns is None:
        yield "control sequences in a pipe"
    if columns is None and len(shown) > MOST_LINES:
        yield f"{len(shown)} lines"
    yield from (f"{len(line)} characters: {line[:60]}" for line in shown if len(line) > MOST_CHARACTERS)
    if shown[0].strip("\x1b[KJ ") == "" != text:
        yield "begins with an empty line"


def _run(words: list[str], root: Path, env: dict[str, str], columns: int | None) -> tuple[int, str]:
    """Run a command in a pipe, or on a terminal of `columns`; return its status and what it says."""
    command = [sys.executable, "-m", "epochal", *words]
    if columns is None:
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, timeout=600, check=False)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")
    parent, child = pty.openpty()
    subprocess.run(["stty", "cols", str(columns), "rows", "50"], stdin=child, check=True)
    with subprocess.Popen(command, cwd=root, env=env, stdin=child, stdout=child, stderr=child) as process:
        os.close(child)
        said = b""
        with contextlib.suppress(OSError):  # the terminal is gone when the command has ended
            while block := os.read(parent, 1 << 16):
                said += block
    os.close(parent)
    return process.returncode, said.decode(errors="replace").replace("\r\n", "\n")


@contextlib.contextmanager
def _server(root: Path, env: dict[str, str]) -> Iterator[int]:
    """Serve `root`'s artifacts; hand out the port."""
    command = [sys.executable, "-m", "epochal", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        print(f"$ epochal serve --port 0\n{''.join(lines)}")
        try:
            yield int(re.findall(r":(\d+)", lines[0])[-1])
        finally:
            process.send_signal(signal.SIGINT)
            print(f"[serve ended with status {process.wait(30)}]\n")


if __name__ == "__main__":
    sys.exit(main())
