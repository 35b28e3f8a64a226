"""The gated first layer of FinalMLP's two MLPs. Shapes: B rows, F fields, D embedding dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.layers import MLP


class FieldGate(nn.Module):
    """Feature gating: 2 sigmoid(MLP(context)), the context being some fields' vectors.

    fields: indexes of these fields; where there are none, a learnt vector, the same for all rows.
    Shape: (B, F * D) -> (B, F * D), or (1, F * D) where it is the same for all rows
    """

    def __init__(
        self, num_fields: int, embedding_dim: int, units: Sequence[int], fields: Sequence[int]
    ) -> None:
        super().__init__()
        self.fields = list(fields)
        self.embedding_dim = embedding_dim
        self.context = None if fields else nn.Parameter(0.01 * torch.randn(1, embedding_dim))
        context_dim = embedding_dim * max(1, len(fields))
        self.mlp = MLP(context_dim, units, output_dim=num_fields * embedding_dim)

    def forward(self, inputs: Tensor) -> Tensor:
        context: Tensor | None = self.context  # (1, D)
        if context is None:
            vectors = inputs.unflatten(1, (-1, self.embedding_dim))
            context = vectors[:, self.fields].flatten(start_dim=1)  # (B, fields * D)
        gate: Tensor = 2 * self.mlp(context).sigmoid()
        return gate


class GatedLinear(nn.Module):
    """W (e * gate) + b, of a Linear and the gate of its inputs. Shape: (B, F * D) -> (B, units)"""

    def __init__(self, gate: FieldGate, layer: nn.Linear) -> None:
        super().__init__()
        self.gate = gate
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        gate = self.gate(inputs)
        if len(gate) == 1:  # into the weight, which is smaller than the inputs of a batch
            return functional.linear(inputs, self.layer.weight * gate, self.layer.bias)
        gated: Tensor = self.layer(inputs * gate)
        return gated
