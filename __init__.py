"""epochal: exact unique-token datasets, deterministic repetition, and the training that compares on them."""

__version__ = "0.1.0"
