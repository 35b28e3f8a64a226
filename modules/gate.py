"""The gate before each of FinalMLP's two MLPs. Shapes: B rows, F fields, D embedding dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.layers import MLP


class FieldGate(nn.Module):
    """Feature gating: e * 2 sigmoid(MLP(context)), the context being some fields' vectors.

    fields: indexes of these fields; where there are none, a learnt vector, the same for all rows.
    Shape: (B, F, D) -> (B, F * D)
    """

    def __init__(
        self, num_fields: int, embedding_dim: int, units: Sequence[int], fields: Sequence[int]
    ) -> None:
        super().__init__()
        self.fields = list(fields)
        self.context = None if fields else nn.Parameter(0.01 * torch.randn(1, embedding_dim))
        context_dim = embedding_dim * max(1, len(fields))
        self.mlp = MLP(context_dim, units, output_dim=num_fields * embedding_dim)

    def forward(self, vectors: Tensor) -> Tensor:
        context: Tensor | None = self.context  # (1, D)
        if context is None:
            context = vectors[:, self.fields].flatten(start_dim=1)  # (B, fields * D)
        gate: Tensor = 2 * self.mlp(context).sigmoid()  # (1 or B, F * D)
        return vectors.flatten(start_dim=1) * gate
