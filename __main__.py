"""The `epochal` command: a table of subcommands, each in the folder that does its work; see `common.cli`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .common.cli import Commands, Runner, add_examples, command_parsers, run_commands
from .common.command_line.completion import SCRIPTS, completable
from .common.command_line.version import version_line

# None is meant for these models, and to look for one, the metadata of every installed package is read: 25 ms.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

COMMANDS: Commands = {  # in the order in which they are needed
    "init": ("datapipe.commands", "write a commented configuration for the documents in a folder"),
    "build": ("datapipe.commands", "text -> pool and validation pool"),
    "list": ("train.run_state.overview", "the artifacts and runs below a folder"),
    "show": ("shards.commands", "what an artifact is: counts, fingerprint, parent"),
    "peek": ("tokenize.commands", "the text of some samples or documents of an artifact"),
    "verify": ("shards.commands", "recompute every hash and count of an artifact from its bytes"),
    "carve": ("shards.commands", "pool -> subset with an exact number of unique tokens"),
    "split": ("shards.buckets.commands", "pool -> buckets by quality, source, ..., each a pool"),
    "curve": ("shards.buckets.commands", "passes by bucket -> a mixture that feeds each so often"),
    "proxy": ("shards.buckets.commands", "a mixture's passes on a part of its unique tokens"),
    "plan": ("shards.order.commands", "how a token budget repeats a subset: passes, steps, samples"),
    "order": ("tokenize.order_commands", "which samples, documents and text a run reads when"),
    "export": ("shards.commands", "subset -> WebDataset, Parquet, Megatron-LM, flat, Hugging Face"),
    "push": ("shards.transfer.commands", "send an artifact to the hub, an object store or a folder"),
    "pull": ("shards.transfer.commands", "bring an artifact from there, whole and checked, to a folder"),
    "train": ("train.commands", "train a model of either type on a subset, repeated as planned"),
    "audit": ("shards.order.commands", "whether a run trained on exactly the samples of its plan"),
    "evaluate": ("train.commands", "likelihoods and benchmarks of checkpoints, kinds declared"),
    "memorisation": ("train.memorisation.commands", "what a run knows of documents, by how often it was fed them"),
    "generate": ("train.commands", "text from a checkpoint of either type"),
    "export-model": ("train.model.commands", "checkpoint of an AR model -> a Hugging Face model"),
    "flops": ("train.model.commands", "FLOPs of a model: training, and generating with either type"),
    "crossover": ("train.crossover.commands", "a grid of AR and MDM runs: trained, compared, reported"),
    "serve": ("service.operations.serve", "the service that keeps account of artifacts, plans and runs"),
    "backup": ("service.operations.commands", "the service's database to a file, while it runs"),
    "restore": ("service.operations.commands", "the service's database from a backup"),
    "thin": ("service.operations.commands", "take old reports out of the service's database"),
    "register": ("service.commands", "tell the service of artifacts elsewhere, or a run's reports"),
    "seen": ("service.commands", "how often runs were fed a document, over their whole ancestry"),
    "summary": ("service.summary.commands", "what a run was trained on, as a public summary and an ML-BOM"),
    "optouts": ("service.optouts.commands", "documents that are to be fed no more, and who holds them"),
    "release": ("service.commands", "free the name of a run that is dead while its lease lasts"),
    "login": ("service.commands", "keep the token for a service, bound to its address"),
    "completion": ("__main__", "a script that lets bash, zsh or fish complete these commands"),
}

SHIPPED = {
    "build": ("datapipe/yamls",),
    "train": ("train/yamls",),
    "flops": ("train/yamls", "train/yamls/models"),
    "crossover": ("train/crossover/grids",),
}
"""By command: the folders of the YAML files whose names it takes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (0 done, 1 the work failed, 2 the request was wrong)."""
    return run_commands(
        COMMANDS, __package__, lambda: version_line(__version__), sys.argv[1:] if argv is None else argv
    )


def completion(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal completion`; return what runs it."""
    add_examples(
        parser,
        "completion bash > ~/.local/share/bash-completion/completions/epochal",
        "completion zsh > ~/.zfunc/_epochal   # a folder in fpath",
        "completion fish > ~/.config/fish/completions/epochal.fish",
    )
    parser.add_argument("shell", choices=sorted(SCRIPTS), metavar="SHELL", help="bash, zsh or fish")

    def run(args: argparse.Namespace) -> int:
        parsers = command_parsers(COMMANDS, __package__)
        print(SCRIPTS[args.shell]([completable(p, names_for(name)) for name, p in parsers.items()]), end="")
        return 0

    return run


def names_for(command: str) -> list[str]:
    """Return the names of the configurations that come with the package and that a command takes."""
    from .common.config import shipped_names

    folders = (Path(__file__).parent / folder for folder in SHIPPED.get(command, ()))
    return [name for folder in folders for name in shipped_names(folder)]


if __name__ == "__main__":
    sys.exit(main())
