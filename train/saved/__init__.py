"""What others may have saved, read as data: checkpoints without running what is in them, hashes beside files."""
