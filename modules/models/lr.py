"""Logistic regression."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LR(nn.Module):
    """Logistic regression over one-hot fields (Richardson et al., WWW 2007): sum_f w_f + b.

    Shape: vectors (B, F, D) unused, weights (B, F) -> logits (B,)
    """

    uses_vectors = False
    uses_weights = True

    def __init__(self, num_fields: int, embedding_dim: int = 16) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        return weights.sum(dim=1) + self.bias
