"""Does a model that knows nothing score what knowing nothing scores? Random weights of both types on whole benchmarks.

    python -m epochal.benchmarks.random_weights --data FOLDER [--tasks hellaswag,mmlu] [--limit 500] [--out DIR]

Accuracy must be within two standard errors of that of a model that knows only how many tokens and characters answers
have. On two CPU cores, all of HellaSwag and MMLU take about half an hour for both types; a stopped run goes on.
"""

import argparse
import os
import sys

import torch

from epochal.common.errors import EpochalError
from epochal.tokenize.tokenizer import load_tokenizer
from epochal.train.checkpoint import ModelCard, save_model
from epochal.train.eval.evaluate import Settings, run
from epochal.train.eval.tables import describe
from epochal.train.model.transformer import ModelConfig, Transformer


def save_random_model(folder: str, causal: bool) -> str:
    """Write a model of two layers, hidden 64, for GPT-2's ids, with the weights of seed 0; return `folder`."""
    ids = load_tokenizer("gpt2").info
    torch.manual_seed(0)
    shape = ModelConfig(ids.vocab_size, layers=2, hidden=64, heads=2, ffn=128, causal=causal)
    kind = "nll" if causal else "nelbo"
    save_model(folder, Transformer(shape).state_dict(), ModelCard(shape, {}, kind, ids.model_dump(), 2048, {}))
    return folder


def main() -> int:
    """Run the comparison; return 1 when a model is further than two standard errors from its baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the benchmarks' files")
    parser.add_argument("--tasks", default="hellaswag,mmlu")
    parser.add_argument("--limit", type=int, help="items per task (default all)")
    parser.add_argument("--out", default="runs/random-weights")
    args = parser.parse_args()
    models = [save_random_model(os.path.join(args.out, f"random-{n}"), n == "ar") for n in ("ar", "mdm")]
    tasks = tuple(args.tasks.split(","))
    try:
        body = run(models, Settings(tasks, data=args.data, noise_samples=1, limit=args.limit, out=args.out))
    except EpochalError as error:
        print(f"random_weights: {error}", file=sys.stderr)
        return error.exit_status
    print(describe(body, args.out))
    far = [r for r in body["tasks"] if abs(r["accuracy"] - r["counting"]) > 2 * r["accuracy_se"]]
    for row in far:
        print(f"{row['model']} on {row['task']} is further than two standard errors from its baseline", file=sys.stderr)
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
