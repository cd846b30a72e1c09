"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum, made orthogonal, as a matrix's step.

    m = momentum * m + g;   u = g + momentum * m            (Nesterov)
    o = orthogonalised(u)                                    (five Newton-Schulz steps)
    w = (1 - lr * decay) * w - lr * 0.2 * sqrt(max(rows, columns)) * o

The factor gives a step the size that AdamW's have, so that one rate and one weight decay serve both (Liu et al. 2025,
arXiv 2502.16982). torch has Muon from version 2.9 on.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x -> a x + b x^3 + c x^5, chosen by Jordan for a steep start: singular values end between 0.7 and 1.2."""

STEPS = 5


def orthogonalised(matrix: Tensor, steps: int = STEPS) -> Tensor:
    """Return about U V^T of the matrix U S V^T (rows, columns), in its dtype.

    Each singular value s becomes p(p(...p(s / norm))), p being the polynomial of `COEFFICIENTS`; a matrix of zeros
    stays one.
    """
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.AdamW):
    """Muon for groups that have `parts`, AdamW for the others.

    `parts` are the numbers of rows of the matrices that a weight of the group is made of, one below the other: each is
    made orthogonal by itself. All ranks hold whole matrices and take the same step.
    """

    def __init__(self, params: list[dict[str, Any]], momentum: float = 0.95, **settings: Any) -> None:
        super().__init__([{"momentum": momentum} | group for group in params], **settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; `closure` as torch has it."""
        groups = self.param_groups
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in groups:
            if "parts" in group:
                self._step_matrices(group)
        try:
            self.param_groups = [group for group in groups if "parts" not in group]
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        rate, momentum = float(group["lr"]), group["momentum"]
        for weight in (p for p in group["params"] if p.grad is not None):
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros(())  # what AdamW looks for in every state that it loads
                state["momentum_buffer"] = torch.zeros_like(weight)
            state["step"] += 1
            mean = state["momentum_buffer"].mul_(momentum).add_(weight.grad)
            update = weight.grad.add(mean, alpha=momentum)
            weight.mul_(1.0 - rate * group["weight_decay"])
            for part, rows in zip(update.split(group["parts"]), weight.split(group["parts"]), strict=True):
                scale = 0.2 * math.sqrt(max(part.shape))
                rows.add_(orthogonalised(_narrow(part)).to(rows.dtype), alpha=-rate * scale)


def _narrow(matrix: Tensor) -> Tensor:
    """Return `matrix` in bfloat16 on a GPU, as the method was tuned; elsewhere as it is."""
    return matrix.bfloat16() if matrix.is_cuda else matrix
