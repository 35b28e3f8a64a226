"""Inner product-based neural network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.layers import MLP


class IPNN(nn.Module):
    """IPNN (Qu et al., ICDM 2016, arXiv 1611.00144): MLP([e, <e_i, e_j> for i < j]).

    NOTE[DIFF]: the products enter the first layer as they are, as in the official code; the paper
    factorises that layer's weights for them.
    Shape: vectors (B, F, D), weights (B, F) unused -> logits (B,)
    """

    uses_vectors = True
    uses_weights = False

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int = 16,
        *,
        hidden_units: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        rows, columns = torch.triu_indices(num_fields, num_fields, offset=1)
        self.pairs: Tensor  # (F (F - 1) / 2,): their places in a flattened (F, F) matrix
        self.register_buffer("pairs", rows * num_fields + columns, persistent=False)
        self.mlp = MLP(
            num_fields * embedding_dim + len(self.pairs),
            hidden_units,
            dropout=dropout,
            batch_norm=batch_norm,
        )

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        products = (vectors @ vectors.mT).flatten(start_dim=1)  # (B, F * F)
        inputs = torch.cat([vectors.flatten(start_dim=1), products[:, self.pairs]], dim=1)
        logits: Tensor = self.mlp(inputs).squeeze(1)
        return logits
