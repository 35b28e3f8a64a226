"""One layer of Wukong's stack of interactions. Shapes: B rows, n vectors of dimension D."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.layers import MLP


class WukongLayer(nn.Module):
    """LayerNorm([FMB(x), LCB(x)] + residual), over n vectors x (B, n, D).

    LCB, the linear compression: `lcb` linear combinations of the n vectors.
    FMB, the factorization machine: MLP(LayerNorm(x (x^T Y))), reshaped to `fmb` vectors, where
    x^T Y are `rank` linear combinations and thus x x^T Y products of vectors.
    The residual is a linear combination where n is not fmb + lcb.
    Shape: (B, n, D) -> (B, fmb + lcb, D)
    """

    def __init__(
        self,
        inputs: int,
        dim: int,
        *,
        lcb: int,
        fmb: int,
        rank: int,
        fmb_units: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        residual = 0 if inputs == fmb + lcb else fmb + lcb
        self.parts = (lcb, rank, residual)
        # every linear combination of the vectors in one matrix product
        self.combination = nn.Linear(inputs, sum(self.parts), bias=False)
        self.product_norm = nn.LayerNorm(inputs * rank)
        self.mlp = MLP(inputs * rank, (*fmb_units, fmb * dim), output_dim=None, dropout=dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        combined = self.combination(x.mT)  # (B, D, lcb + rank + residual)
        compressed, projected, residual = combined.split(self.parts, dim=2)
        products = (x @ projected).flatten(start_dim=1)  # (B, n * rank)
        machine = self.mlp(self.product_norm(products)).unflatten(1, (-1, x.shape[2]))
        outputs = torch.cat([machine, compressed.mT], dim=1)  # (B, fmb + lcb, D)
        normed: Tensor = self.norm(outputs + (residual.mT if self.parts[2] else x))
        return normed
