"""FinalMLP."""

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
        context = self.context
        if context is None:
            context = vectors[:, self.fields].flatten(start_dim=1)  # (B, fields * D)
        gate = 2 * self.mlp(context).sigmoid()  # (B or 1, F * D)
        gated: Tensor = vectors.flatten(start_dim=1) * gate
        return gated


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
        mapped = (by_head @ self.weight).transpose(0, 1).flatten(start_dim=1)  # (B, right_dim)
        linear = (self.of_left(left) + self.of_right(right)).squeeze(1)
        return linear + (mapped * right).sum(dim=1)


class FinalMLP(nn.Module):
    """FinalMLP (Mao et al., AAAI 2023, arXiv 2304.00902): bilinear fusion of two gated MLPs.

    mlp2_units: hidden layers of the second MLP; None for those of the first.
    heads: of the fusion; the paper tunes them per data set.
    gating: feature gating with hidden layers `gate_units`, from the vectors of the fields
    `gate1_fields` and `gate2_fields` (indexes) or, where none are named, from a learnt vector.
    The official code's form is gating=False, heads=1.
    NOTE[DIFF]: a gate's context is made of the model's own embeddings, not of a second table.
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
        mlp2_units: Sequence[int] | None = None,
        heads: int = 8,
        gating: bool = True,
        gate_units: Sequence[int] = (64,),
        gate1_fields: Sequence[int] = (),
        gate2_fields: Sequence[int] = (),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.gates = nn.ModuleList(
            FieldGate(num_fields, embedding_dim, gate_units, fields) if gating else nn.Flatten()
            for fields in (gate1_fields, gate2_fields)
        )
        self.mlps = nn.ModuleList(
            MLP(
                num_fields * embedding_dim,
                units,
                output_dim=None,
                dropout=dropout,
                batch_norm=batch_norm,
            )
            for units in (hidden_units, mlp2_units or hidden_units)
        )
        self.fusion = BilinearFusion(*(mlp.output_dim for mlp in self.mlps), heads)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        left, right = (mlp(gate(vectors)) for gate, mlp in zip(self.gates, self.mlps, strict=True))
        logits: Tensor = self.fusion(left, right)
        return logits
