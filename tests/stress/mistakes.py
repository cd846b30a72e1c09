"""More than 200 mistakes: `python -m epochal.tests.stress.mistakes`. Each is answered in one line of our own words,
with status 2 or 1. Prints every mistake with its answer, to be looked through by eye, and fails where an answer breaks
the rule.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

from epochal.__main__ import main
from epochal.tests.support.corpora import real_documents

FOREIGN = re.compile(
    r"Traceback|pydantic|argparse|omegaconf|\[Errno|failed with|ValidationError|KeyError|TypeError|ValueError"
    r"|NoneType|<class|object at 0x|Expecting value|positional argument|invalid literal|not subscriptable"
)
"""Words of libraries, or of Python."""

MISTAKES = """
bulid folder
builds
--help-me
show
show nope
show artifacts
show artifacts/pools
show artifacts/pools/pp
show data.jsonl
show s3://no-such-bucket-of-ours/x
show ftp://nowhere/x
show artifacts/pools/p --jsn
show artifacts/pools/p extra
verify
verify nope
verify data.jsonl
verify artifacts
carve
carve artifacts/pools/p
carve artifacts/pools/p --unique-tokens
carve artifacts/pools/p --unique-tokens lots
carve artifacts/pools/p --unique-tokens 5G
carve artifacts/pools/p --unique-tokens 0
carve artifacts/pools/p --unique-tokens -5
carve artifacts/pools/p --unique-tokens 1.5
carve artifacts/pools/p --unique-tokens 1e999999999
carve artifacts/pools/p --unique-tokens 900T
carve artifacts/pools/p --tokens 5k
carve artifacts/pools/p --unique-tokens 1k --replicate x
carve artifacts/pools/p --unique-tokens 1k --replicate -1
carve artifacts/pools/p --unique-tokens 1k --replicate 99
carve artifacts/pools/p --unique-tokens 1k --format zip
carve artifacts/subsets/s --unique-tokens 1k
carve nope --unique-tokens 1k
carve artifacts/pools/p --unique-tokens 1k --out data.jsonl
carve artifacts/pools/p --unique-tokens 1k --out artifacts/pools/p
export
export artifacts/pools/p
export artifacts/pools/p --format megatron
export artifacts/pools/p --format megatrn --out x
export artifacts/pools/p --format bin --out artifacts/pools/p
export artifacts/pools/p --format bin --out x --passes 2
export artifacts/pools/p --format bin --out x --order --passes 0
export artifacts/pools/p --format bin --out x --order --passes two
export artifacts/pools/p --format bin --out x --order --seed -1
export artifacts/pools/p --format bin --out x --order --policy random
export nope --format bin --out x
export data.jsonl --format bin --out x
plan
plan artifacts/pools/p
plan artifacts/pools/p --passes 4
plan artifacts/pools/p --passes 4 --batch-tokens
plan artifacts/pools/p --passes 4 --batch-tokens 100
plan artifacts/pools/p --passes 4 --batch-tokens 0
plan artifacts/pools/p --passes 4 --batch-tokens many
plan artifacts/pools/p --passes 4 --batch-tokens 64M
plan artifacts/pools/p --passes 0 --batch-tokens 64
plan artifacts/pools/p --passes -1 --batch-tokens 64
plan artifacts/pools/p --passes nan --batch-tokens 64
plan artifacts/pools/p --passes 1e400 --batch-tokens 64
plan artifacts/pools/p --total-tokens 1M --epochs 3 --batch-tokens 64
plan artifacts/pools/p --total-tokens 1e30 --batch-tokens 64
plan artifacts/pools/p --passes 2 --batch-tokens 64 --seed x
plan artifacts/pools/p --passes 2 --batch-tokens 64 --seed -1
plan artifacts/pools/p --passes 2 --batch-tokens 64 --policy shuffle
plan artifacts/pools/p --passes 2 --batch-tokens 64 --params big
plan artifacts/pools/p --batch-tokens 64
plan nope --passes 2 --batch-tokens 64
plan nope.yaml --passes 2 --batch-tokens 64
plan broken.yaml --batch-tokens 64
plan list.yaml --batch-tokens 64
order artifacts/pools/p
order artifacts/pools/p --count
order artifacts/pools/p --count x
order artifacts/pools/p --count -3
order artifacts/pools/p --count 99999999999999
order artifacts/pools/p --start -1 --count 2
order artifacts/pools/p --policy global --count 2
order artifacts/pools/p --epochs 1 --start 99999999 --count 2
order nope --count 2
audit
audit nope.json
audit artifacts/pools/p
audit data.jsonl
audit deep.json
audit nan.json
peek
peek nope
peek artifacts
peek artifacts/pools/p --sample -1
peek artifacts/pools/p --sample 99999999
peek artifacts/pools/p --document 99999999
peek artifacts/subsets/s --document 1
peek artifacts/pools/p --sample 1 --document 1
peek artifacts/pools/p --count x
peek artifacts/pools/p --tokenizer nope.json
peek artifacts/pools/p --tokenizer data.jsonl
list nope
list data.jsonl
init
init nope
init empty
init numbers.jsonl
init data.jsonl --out data.jsonl
init data.jsonl --out nope/x.yaml
build
build pyhton
build artifacts
build nope.yaml
build broken.yaml
build list.yaml
build empty.yaml
build data.jsonl
build folder
build folder sources.0.path=nope
build folder sources.0.path=empty
build folder sources.0.path=data.jsonl --out foo
build folder sources.0.path=data.jsonl out
build folder sources.0.path=data.jsonl =x
build folder sources.0.path=data.jsonl tokenizer=PATH
build folder sources.0.path=data.jsonl tokenizer.name=./nope.json
build folder sources.0.path=data.jsonl tokenizer.eod=[NOPE]
build folder sources.0.path=data.jsonl executor=sulrm
build folder sources.0.path=data.jsonl executor.name=sulrm
build folder sources.0.path=data.jsonl seq_len=2048k
build folder sources.0.path=data.jsonl seq_len=0
build folder sources.0.path=data.jsonl seq_len=-1
build folder sources.0.path=data.jsonl seq_len=1e999999999
build folder sources.0.path=data.jsonl seq_len=nan
build folder sources.0.path=data.jsonl seq_len=[1]
build folder sources.0.path=data.jsonl name=日本
build folder sources.0.path=data.jsonl name=a/b
build folder sources.0.path=data.jsonl name=
build folder sources.0.path=data.jsonl name=p seq_len=32
build folder sources.0.path=data.jsonl seed=-1
build folder sources.0.path=data.jsonl seed=x
build folder sources.0.path=data.jsonl sead=1
build folder sources.0.path=data.jsonl validation_tokens=most
build folder sources.0.path=data.jsonl validation_tokens=-5
build folder sources.0.path=data.jsonl max_reject_fraction=2
build folder sources.0.path=data.jsonl tasks=0
build folder sources.0.path=data.jsonl workers=none
build folder sources.0.path=data.jsonl sources.0.format=jsnl
build folder sources.0.path=data.jsonl sources.3.path=x
build folder sources.0.path=data.jsonl sources.0.text_key=body --quiet
build folder sources.0.path=data.jsonl sources.0.limit=0
build folder sources.0.path=data.jsonl sources.0.fraction=1.5
build folder sources.0.path=data.jsonl sources=none
build folder sources.0.path=data.jsonl deduplicate.near.ngram=0
build folder sources.0.path=data.jsonl deduplicate=maybe
build folder sources.0.path=data.jsonl decontaminate.files=[nope.jsonl]
build folder sources.0.path=data.jsonl filters=[{name:Nope}]
build folder sources.0.path=data.jsonl on_damaged=ignore
build folder sources.0.path=cut.jsonl.gz
build folder sources.0.path=page.jsonl
build folder sources.0.path=${oc.env:NOT_SET_ANYWHERE}
build folder sources.0.path=${nope}
build folder sources.0.path=ftp://nowhere/x.jsonl
train
train tiny-arr
train nope.yaml
train artifacts
train broken.yaml
train tiny-ar
train tiny-ar epochs=4
train tiny-ar lr=1e-3
train tiny-ar optimizer.lr=fast
train tiny-ar optimizer.lr=-1
train tiny-ar optimizer.lr=nan
train tiny-ar optimizer=adam
train tiny-ar model.preset=30mm
train tiny-ar model=big
train tiny-ar model.layers=0
train tiny-ar model.heads=7
train tiny-ar objective=mdmm
train tiny-ar objective.name=mdmm
train tiny-ar max_duration=10
train tiny-ar max_duration=10 epochs
train tiny-ar max_duration=1e999999ep
train tiny-ar max_duration=0ep
train tiny-ar eval_interval=500
train tiny-ar precision=fp8
train tiny-ar seed=-1
train tiny-ar {d}=nope
train tiny-ar {d}=data.jsonl
train tiny-ar {d}=artifacts
train tiny-ar {d}=artifacts/subsets/s {e} max_seq_len=32
train tiny-ar {d}=artifacts/subsets/s {e} load_path=nope.pt
train tiny-ar {d}=artifacts/subsets/s {e} init_from=nope
train tiny-ar {d}=artifacts/subsets/s {e} save_folder=data.jsonl
train tiny-ar {d}=artifacts/subsets/s {e} global_train_batch_size=0
train tiny-ar {d}=artifacts/subsets/s {e} callbacks.nope={}
train tiny-ar {d}=artifacts/subsets/s {e} service=nonsense
train tiny-ar {d}=artifacts/subsets/s {e} device=tpuu
evaluate
evaluate nope
evaluate artifacts/pools/p --loss artifacts/pools/p
evaluate nope --tasks hellaswog
evaluate nope --loss artifacts/pools/p
evaluate nope --noise-samples 0
evaluate nope --noise-samples x
evaluate nope --file hellaswag
evaluate nope --dtype float16
evaluate nope --device cuda:99
generate
generate nope
generate nope --prompt hi
generate nope hi there
generate nope hi --max-new-tokens 0
generate nope hi --max-new-tokens x
generate nope hi --temperature hot
generate nope hi --order best
export-model nope --out x
export-model nope
export-model nope --out x --format gguf
flops
flops nope
flops paper-2b
flops artifacts
flops data.jsonl
flops paper-1b --tokens lots
flops paper-1b model.layers=x
flops paper-1b model.layer=3
crossover
crossover crossover-cp
crossover crossover-cpu --jobs x
crossover crossover-cpu pool=nope
crossover crossover-cpu unique_tokens=[]
crossover crossover-cpu objectives=[gpt]
crossover crossover-cpu total_tokens=x
crossover nope.yaml
serve --port 99999999
serve --port x
serve --root nope
serve --host 0.0.0.0
serve --rate 0
serve --tokens nope.txt
serve --database nonsense
register
register nope
register data.jsonl
login
login nonsense
release
seen
seen --histogram
seen --text nope.txt --run r
"""


def plant(folder: Path) -> None:
    """Make what the mistakes name in `folder`, which becomes the current one."""
    os.chdir(folder)
    texts = real_documents(40)
    Path("data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    Path("numbers.jsonl").write_text('{"a": 1}\n')
    Path("cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    Path("page.jsonl").write_text("<!DOCTYPE html><html><body>403</body></html>")
    Path("broken.yaml").write_text("a: [1\nb: }")
    Path("list.yaml").write_text("- a\n- b\n")
    Path("empty.yaml").write_text("")
    Path("deep.json").write_text("[" * 100_000)
    Path("nan.json").write_text('{"samples": NaN}')
    Path("empty").mkdir()
    words = ["build", "folder", "sources.0.path=data.jsonl", "name=p", "seq_len=64", "validation_tokens=500", "--quiet"]
    carve = ["carve", "artifacts/pools/p", "--unique-tokens", "3k", "--out", "artifacts/subsets/s"]
    for command in (words, carve):
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(command) == 0


def answer(words: list[str]) -> tuple[int, str, str]:
    """Return the status of a command, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, out.getvalue(), err.getvalue()


def wrong(status: int, err: str) -> str | None:
    """Return what is wrong with an answer."""
    lines = [line for line in err.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if status not in (1, 2):
        return f"status {status}"
    if not last.startswith("epochal: "):
        return "the last line is none of ours"
    if len(lines) > 1 and not all(line.startswith("epochal: ") for line in lines):
        return f"{len(lines)} lines"
    if match := FOREIGN.search(err):
        return f"a library's word: {match[0]}"
    return None


def run() -> int:
    """Make every mistake; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="mistakes that begin so")
    only = parser.parse_args().only
    data = {"{d}": "train_loader.dataset.path", "{e}": "eval_loader=null"}
    lines = [line for line in MISTAKES.strip().splitlines() if line.startswith(only)]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(folder))
        for line in lines:
            words = shlex.split(line)
            for name, value in data.items():
                words = [word.replace(name, value) for word in words]
            status, _, err = answer(words)
            problem = wrong(status, err)
            bad += problem is not None
            print(
                f"$ epochal {line}\n{err.strip()}  -> {status}" + (f"   WRONG: {problem}" if problem else ""),
                flush=True,
            )
        os.chdir("/")
    print(f"{len(lines)} mistakes, {bad} answered wrongly")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(run())
