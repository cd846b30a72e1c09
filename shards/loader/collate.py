"""From samples to a batch of torch's."""

from typing import Any

import numpy as np
import torch


def collate(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch of samples: int64 tensors, tokens (k, seq_len), the others (k,).

    What torch's own function returns, without its threads, which wait for each other where cores are shared.
    """
    batch = {k: torch.tensor([s[k] for s in samples]) for k in ("position", "sample_id", "n_tokens")}
    return {"tokens": torch.from_numpy(np.stack([s["tokens"] for s in samples]))} | batch
