"""Encoding and signing against other libraries, in one run: `python -m epochal.benchmarks.rivals.texts`.

Writes benchmarks/results/texts.json and prints MB of text a second of CPU, one thread, each library as its own
documentation says, on the texts in batches of 256. Encoding: GPT-2's ids, which must come out equal; `ids and words` is
what a build's task does, one pass for both. Signing: 112 MinHash values of the 5-grams of words, from the text to the
signature. The input is this environment's Python source, or --input FILE.jsonl. Libraries that are not installed are
left out, by name. `ratio` is our encoding / the fastest other one's.
"""

import argparse
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

from epochal.benchmarks.common import machine, result_path, write_result
from epochal.benchmarks.corpora import from_jsonl, normalised, python_source
from epochal.datapipe.config import NearDuplicates
from epochal.datapipe.text.signatures import sign
from epochal.datapipe.text.words import Analyser, split_words
from epochal.tokenize.gpt2 import tokenizer_json
from epochal.tokenize.tokenizer import Tokenizer, load_tokenizer

AT_ONCE, NGRAM, VALUES = 256, 5, 112
Texts = list[str]
Encode = Callable[[Texts], list[Any]]


def ours(tokenizer: Tokenizer) -> Encode:
    """Return the pass of a build's task: ids, EOD after them, and words."""
    analyser = Analyser(tokenizer.encode_pieces, tokenizer.info.eod, np.uint16)

    def encode(texts: Texts) -> list[Any]:
        found = analyser.analyse(texts)
        return [found.tokens[a : b - 1] for a, b in zip(found.starts[:-1], found.starts[1:], strict=True)]

    return encode


def gigatoken(tokenizer: Tokenizer) -> Encode:
    """Return gigatoken's own encoding."""
    from gigatoken import Tokenizer as Gigatoken

    encode = Gigatoken.from_json(json.dumps(tokenizer_json())).encode
    return lambda texts: [encode(text) for text in texts]


def hugging_face(tokenizer: Tokenizer) -> Encode:
    """Return Hugging Face's batch encoding."""
    from tokenizers import Tokenizer as HuggingFace

    made = HuggingFace.from_str(json.dumps(tokenizer_json()))
    return lambda texts: [e.ids for e in made.encode_batch_fast(texts, add_special_tokens=False)]


def tiktoken(tokenizer: Tokenizer) -> Encode:
    """Return tiktoken's batch encoding."""
    from tiktoken import Encoding

    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    made = Encoding("gpt2", pat_str=pattern, mergeable_ranks=tokenizer.ranks or {}, special_tokens={})
    return lambda texts: made.encode_ordinary_batch(texts, num_threads=1)


ENCODERS: dict[str, tuple[str, Callable[[Tokenizer], Encode]]] = {
    "epochal: ids and words": ("epochal", ours),
    "epochal: ids": ("epochal", lambda tokenizer: tokenizer.encode),
    "gigatoken": ("gigatoken", gigatoken),
    "tiktoken": ("tiktoken", tiktoken),
    "tokenizers": ("tokenizers", hugging_face),
}


def our_signatures(texts: Texts) -> Any:
    """Return the signatures of a build."""
    return sign(split_words(texts), NearDuplicates(ngram=NGRAM, buckets=14, hashes=8))[0]


def _shingles(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return [" ".join(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]


def rensa(texts: Texts) -> Any:
    """Return rensa's signatures, the texts' n-grams as its documentation makes them."""
    from rensa import RMinHash

    found = []
    for text in texts:
        signature = RMinHash(num_perm=VALUES, seed=1)
        signature.update(_shingles(text))
        found.append(signature.digest())
    return found


def datasketch(texts: Texts) -> Any:
    """Return datasketch's signatures."""
    from datasketch import MinHash

    found = []
    for text in texts:
        signature = MinHash(num_perm=VALUES)
        signature.update_batch([shingle.encode() for shingle in _shingles(text)])
        found.append(signature.digest())
    return found


SIGNERS: dict[str, tuple[str, Callable[[Texts], Any]]] = {
    "epochal: words and signatures": ("epochal", our_signatures),
    "rensa": ("rensa", rensa),
    "datasketch": ("datasketch", datasketch),
}


def batches(texts: Texts) -> Iterator[Texts]:
    """Yield the texts some at a time."""
    return (texts[i : i + AT_ONCE] for i in range(0, len(texts), AT_ONCE))


def rate(texts: Texts, work: Callable[[Texts], Any]) -> tuple[float, list[Any]]:
    """Return MB a second of CPU, and what came out. The first texts go before, with all that is made once."""
    work(texts[:AT_ONCE])
    started = time.process_time()
    found = [result for batch in batches(texts) for result in work(batch)]
    return sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - started), found


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=32.0, help="of Python source")
    parser.add_argument("--input", type=Path, help="texts of a JSONL file instead")
    parser.add_argument("--out", type=Path, default=result_path("texts"))
    args = parser.parse_args()
    documents = from_jsonl(args.input) if args.input else python_source(args.megabytes)
    texts = [document["text"] for document in normalised(documents)]
    tokenizer = load_tokenizer("gpt2")
    missing = {p for p, _ in [*ENCODERS.values(), *SIGNERS.values()] if importlib.util.find_spec(p) is None}
    rates: dict[str, float] = {}
    expected: list[Any] = []
    for name, (package, make) in ENCODERS.items():
        if package not in missing:
            rates[name], found = rate(texts, make(tokenizer))
            expected = expected or found
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)), name
    for name, (package, work) in SIGNERS.items():
        if package not in missing:
            rates[name], _ = rate(texts, work)
    others = [value for name, value in rates.items() if name in ENCODERS and not name.startswith("epochal")]
    result = {"mb_per_cpu_second": rates, "missing": sorted(missing), "ratio": rates["epochal: ids"] / max(others)}
    write_result(args.out, result | {"machine": f"{machine()}, load {os.getloadavg()[0]:.1f}"})
    for name, value in rates.items():
        print(f"{name:<32} {value:8.1f} MB/s")
    if missing:
        print(f"not installed: {', '.join(sorted(missing))}")
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
