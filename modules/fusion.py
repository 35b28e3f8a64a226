"""The fusion of FinalMLP's two MLPs. Shape: B rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BilinearFusion(nn.Module):
    """w_1 . x + w_2 . y + b + sum_h x_h^T W_h y_h, over heads h that share x and y out.

    Shape: (B, left_dim), (B, right_dim) -> (B,)
    """

    def __init__(self, left_dim: int, right_dim: int, heads: int) -> None:
        super().__init__()
        if left_dim % heads or right_dim % heads:
            raise ValueError(
                f"heads={heads} does not divide the last layers of the MLPs, {left_dim} "
                f"(hidden_units) and {right_dim} (mlp2_units)"
            )
        self.of_left = nn.Linear(left_dim, 1)
        self.of_right = nn.Linear(right_dim, 1)
        self.weight = nn.Parameter(torch.empty(heads, left_dim // heads, right_dim // heads))
        nn.init.normal_(self.weight, std=(2 / (self.weight.numel() + 1)) ** 0.5)  # Xavier's

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        heads = len(self.weight)
        by_head = left.unflatten(1, (heads, -1)).transpose(0, 1)  # (heads, B, left_dim / heads)
        mapped: Tensor = (by_head @ self.weight).transpose(0, 1)  # (B, heads, right_dim / heads)
        logits: Tensor = (self.of_left(left) + self.of_right(right)).squeeze(1)
        return logits + (mapped.flatten(start_dim=1) * right).sum(dim=1)
