"""Several models as one: the mean of their probabilities.

Of autoregressive models it is a distribution over texts, p(x_t | x_<t) being the mean of the members', so that its
likelihood is exact; of masked-diffusion models it is one of each masked token given the rest, and what follows is a
bound as theirs is, or exact under an order of writing.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...common.errors import RequestError
from .attention_reach import hidden_of_targets, within
from .document_mask import Mask
from .transformer import ModelConfig, Transformer

SAME = ("vocab_size", "causal", "block_size", "document_mask")
"""What members must agree in; their sizes may differ."""


class Ensemble(nn.Module):
    """Reads what its members read, and answers as a `Transformer` does where no gradients and no cache are needed."""

    def __init__(self, members: Sequence[Transformer]) -> None:
        super().__init__()
        first = members[0].config
        if any(getattr(m.config, key) != getattr(first, key) for m in members for key in SAME):
            raise RequestError("an ensemble is of models of one type: evaluate each type by itself")
        self.config: ModelConfig = first
        self.members = nn.ModuleList(members)
        self._widths = [m.config.hidden for m in members]

    @property
    def embedding(self) -> nn.Embedding:
        """Return the first member's, whose dtype all have."""
        return self.members[0].embedding  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Return where the weights lie."""
        return self.embedding.weight.device

    def hidden_states(
        self, tokens: Tensor, attention_mask: Mask | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Return the members' normed last hidden states side by side, (batch, length, sum of their widths)."""
        return torch.cat([m.hidden_states(tokens, attention_mask, positions) for m in self.members], dim=-1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logarithm of each id's mean probability, (..., vocab_size), of `hidden_states` (..., width)."""
        parts = zip(self.members, hidden.split(self._widths, dim=-1), strict=True)
        each = torch.stack([m.logits(part).log_softmax(-1) for m, part in parts])
        return each.logsumexp(0) - math.log(len(each))

    def nll(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return nats (n,) of labels (n,) given hidden states (n, width)."""
        parts = zip(self.members, hidden.split(self._widths, dim=-1), strict=True)
        each = torch.stack([m.nll(part, labels) for m, part in parts])
        return math.log(len(each)) - (-each).logsumexp(0)

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Mask | None = None,
        target_positions: Tensor | None = None,
        labels: Tensor | None = None,
        reach: Tensor | None = None,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return logits (n, vocab_size), or the nats of each label (n,); arguments as for `Transformer.forward`."""
        if documents is not None:
            attention_mask, positions = within(documents, positions, reach, *self.config.within)
            reach = None
        x = hidden_of_targets(self.hidden_states, tokens, attention_mask, target_positions, reach, positions)
        return self.logits(x) if labels is None else self.nll(x, labels)
