"""What the commands have in common: the type of what runs one, and how JSON is printed."""

import argparse
import json
from collections.abc import Callable

Run = Callable[[argparse.Namespace], int]
"""What a command returns after adding its arguments to a parser: from the arguments to the exit status."""


def print_json(value: object) -> None:
    """Print `value` as one line of JSON on standard output."""
    print(json.dumps(value))
