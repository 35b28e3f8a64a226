"""Wukong."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from modules.interaction import WukongLayer
from modules.layers import MLP


class Wukong(nn.Module):
    """Wukong (Zhang et al., ICML 2024, arXiv 2403.02545): MLP(stacked FMB and LCB layers over e).

    fmb, lcb: vectors that a layer's factorization machine and linear compression give.
    rank: of the factorization machine's projection. fmb_units: hidden layers of its MLP.
    NOTE[DIFF]: the defaults are the official code's sizes; the paper scales them with the data.
    NOTE[DIFF]: linear combinations start as torch's Linear; those of the official code start three
    to four times larger.
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
