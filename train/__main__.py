"""`composer -n 8 -m epochal.train CONFIG.yaml [key=value ...]`: `epochal train` under Composer's launcher."""

import sys

from epochal.common.cli import run_command
from epochal.train.commands import train

if __name__ == "__main__":
    sys.exit(run_command("train", train, "train a model on a subset, repeated as planned", sys.argv[1:]))
