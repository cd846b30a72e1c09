"""The `epochal` command: a table of subcommands, each in the folder that does its work; see `common.cli`."""

import sys
from collections.abc import Sequence

from . import __version__
from .common.cli import Commands, run_commands

COMMANDS: Commands = {  # in the order in which they are needed
    "init": ("datapipe.commands", "write a commented configuration for the documents in a folder"),
    "build": ("datapipe.commands", "text -> pool and validation pool"),
    "list": ("train.run_state.overview", "the artifacts and runs below a folder"),
    "show": ("shards.commands", "what an artifact is: counts, fingerprint, parent"),
    "peek": ("tokenize.commands", "the text of some samples or documents of an artifact"),
    "verify": ("shards.commands", "recompute every hash and count of an artifact from its bytes"),
    "carve": ("shards.commands", "pool -> subset with an exact number of unique tokens"),
    "plan": ("shards.order.commands", "how a token budget repeats a subset: passes, steps, samples"),
    "order": ("shards.order.commands", "which samples a run reads at which positions"),
    "export": ("shards.commands", "subset -> WebDataset, Parquet, Megatron-LM, flat or Hugging Face files"),
    "train": ("train.commands", "train an autoregressive or masked-diffusion model on a subset, repeated as planned"),
    "audit": ("shards.order.commands", "whether a run trained on exactly the samples of its plan"),
    "evaluate": ("train.commands", "likelihoods and benchmarks of checkpoints, either type, kinds declared"),
    "generate": ("train.commands", "text from a checkpoint of either type"),
    "export-model": ("train.model.commands", "checkpoint of an AR model -> a Hugging Face model with its tokenizer"),
    "flops": ("train.model.commands", "FLOPs of a model: training, and generating with either type"),
    "crossover": ("train.crossover.commands", "a grid of AR and MDM runs: trained, compared, reported"),
    "serve": ("service.commands", "the repetition-control service: catalogue, plans, runs, exposures, a page"),
    "register": ("service.commands", "tell the service of an artifact that lies elsewhere, or of a run's reports"),
    "seen": ("service.commands", "how often runs were fed a document, over their whole ancestry"),
    "release": ("service.commands", "free the name of a run that is dead while its lease lasts"),
    "login": ("service.commands", "keep the token for a service, bound to its address"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (0 done, 1 the work failed, 2 the request was wrong)."""
    return run_commands(COMMANDS, __package__, __version__, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
