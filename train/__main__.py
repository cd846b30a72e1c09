"""`composer -n 8 -m epochal.train CONFIG.yaml [key=value ...]`: `epochal train` under Composer's launcher."""

import sys

from epochal.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
