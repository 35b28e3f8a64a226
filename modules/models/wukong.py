"""Wukong."""

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


class Wukong(nn.Module):
    """Wukong (Zhang et al., ICML 2024, arXiv 2403.02545): MLP(stacked FMB and LCB layers over e).

    fmb, lcb: vectors that a layer's factorization machine and linear compression give.
    rank: of the factorization machine's projection. fmb_units: hidden layers of its MLP.
    NOTE[DIFF]: the defaults are the official code's sizes; the paper scales them with the data.
    Shape: vectors (B, F, D), weights (B, F) unused -> logits (B,)
    """

    uses_vectors = True
    uses_weights = False

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int = 16,
        *,
        layers: int = 3,
        lcb: int = 16,
        fmb: int = 16,
        rank: int = 24,
        fmb_units: Sequence[int] = (512, 512),
        hidden_units: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                WukongLayer(
                    num_fields if layer == 0 else fmb + lcb,
                    embedding_dim,
                    lcb=lcb,
                    fmb=fmb,
                    rank=rank,
                    fmb_units=fmb_units,
                    dropout=dropout,
                )
                for layer in range(layers)
            )
        )
        width = (fmb + lcb) * embedding_dim
        self.mlp = MLP(width, hidden_units, dropout=dropout, batch_norm=batch_norm)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        logits: Tensor = self.mlp(self.layers(vectors).flatten(start_dim=1)).squeeze(1)
        return logits
