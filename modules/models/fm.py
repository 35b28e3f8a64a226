"""Factorization machine."""

from __future__ import annotations

from torch import Tensor, nn

from modules.layers import pairwise_sum
from modules.models.lr import LR


class FM(nn.Module):
    """Factorization Machines (Rendle, ICDM 2010): LR + sum_{i<j} <e_i, e_j>.

    first_order: the LR term; without it this is the official code's form, which has no bias.
    Shape: vectors (B, F, D), weights (B, F) -> logits (B,)
    """

    uses_vectors = True

    def __init__(
        self, num_fields: int, embedding_dim: int = 16, *, first_order: bool = True
    ) -> None:
        super().__init__()
        self.uses_weights = first_order
        self.first_order = LR(num_fields, embedding_dim) if first_order else None

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        logits = pairwise_sum(vectors)  # (B,)
        if self.first_order is not None:
            logits = logits + self.first_order(vectors, weights)
        return logits
