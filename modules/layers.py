"""Layers that models are built of. Shapes: B rows, F fields, D embedding dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modules.dropout import Dropout
from modules.precision import apply_in_float32


class MLP(nn.Sequential):
    """Hidden layers of Linear, BatchNorm (optional), ReLU, Dropout (optional), then a Linear.

    Shape: (B, input_dim) -> (B, output_dim), or (B, hidden_units[-1]) where output_dim is None.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_units: Sequence[int],
        *,
        output_dim: int | None = 1,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        width = input_dim
        for units in hidden_units:
            layers.append(nn.Linear(width, units))
            if batch_norm:
                layers.append(nn.BatchNorm1d(units))
            layers.append(nn.ReLU(inplace=True))  # no layer before it needs its own output
            if dropout > 0:
                layers.append(Dropout(dropout))
            width = units
        if output_dim is not None:
            layers.append(nn.Linear(width, output_dim))
            width = output_dim
        super().__init__(*layers)
        self.output_dim = width


class PerTokenLinear(nn.Module):
    """A Linear of its own for each of T tokens. Shape: (T, B, input_dim) -> (T, B, output_dim)"""

    def __init__(self, tokens: int, input_dim: int, output_dim: int) -> None:
        super().__init__()
        bound = input_dim**-0.5  # as nn.Linear
        self.weight = nn.Parameter(
            torch.empty(tokens, input_dim, output_dim).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.empty(tokens, 1, output_dim).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, inputs, self.weight)


def pairwise_sum(vectors: Tensor) -> Tensor:
    """Sum over all pairs of fields of the inner products of their vectors.

    sum_{i<j} <e_i, e_j> = 1/2 sum_d [(sum_f e_fd)^2 - sum_f e_fd^2] (Rendle, ICDM 2010).
    Shape: (B, F, D) -> (B,)
    """
    products: Tensor = apply_in_float32(_PairwiseSum, vectors)
    return products


class _PairwiseSum(torch.autograd.Function):
    """`pairwise_sum` with its gradient in closed form: that of e_i is sum_f e_f - e_i."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        total = vectors.sum(dim=1)  # (B, D)
        ctx.save_for_backward(vectors, total)
        norm = torch.linalg.vector_norm(vectors.flatten(start_dim=1), dim=1)
        products: Tensor = 0.5 * (total.square().sum(dim=1) - norm.square())  # (B,)
        return products

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        vectors, total = ctx.saved_tensors
        grad: Tensor = (total[:, None] - vectors).mul_(grads[0][:, None, None])
        return grad
