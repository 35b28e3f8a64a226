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
        context: Tensor | None = self.context  # (1, D)
        if context is None:
            context = vectors[:, self.fields].flatten(start_dim=1)  # (B, fields * D)
        gate: Tensor = 2 * self.mlp(context).sigmoid()  # (1 or B, F * D)
        return vectors.flatten(start_dim=1) * gate


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
        by_head = torch.unflatten(left, 1, (heads, -1)).transpose(
            0, 1
        )  # (heads, B, left_dim / heads)
        mapped = (by_head @ self.weight).transpose(0, 1).flatten(start_dim=1)  # (B, right_dim)
        logits: Tensor = (self.of_left(left) + self.of_right(right)).squeeze(1)
        return logits + (mapped * right).sum(dim=1)


class FinalMLP(nn.Module):
    """FinalMLP (Mao et al., AAAI 2023, arXiv 2304.00902): bilinear fusion of two gated MLPs.

    mlp2_units: hidden layers of the second MLP; None for those of the first.
    heads: of the fusion; the paper tunes them per data set, from 1 to 50.
    gating: feature gating with hidden layers `gate_units`, from the vectors of the fields
    `gate1_fields` and `gate2_fields` (indexes) or, where none are named, from a learnt vector.
    The official code's form is gating=False.
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
        heads: int = 1,
        gating: bool = True,
        gate_units: Sequence[int] = (64,),
        gate1_fields: Sequence[int] = (),
        gate2_fields: Sequence[int] = (),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        for setting, fields in (("gate1_fields", gate1_fields), ("gate2_fields", gate2_fields)):
            for field in fields:
                if not 0 <= field < num_fields:
                    last = num_fields - 1
                    raise ValueError(f"{setting} has {field}; there are fields 0 to {last}")
        self.gates = nn.ModuleList(
            FieldGate(num_fields, embedding_dim, gate_units, fields) if gating else nn.Flatten()
            for fields in (gate1_fields, gate2_fields)
        )
        width = num_fields * embedding_dim
        mlps = [
            MLP(width, units, output_dim=None, dropout=dropout, batch_norm=batch_norm)
            for units in (hidden_units, mlp2_units or hidden_units)
        ]
        self.mlps = nn.ModuleList(mlps)
        self.fusion = BilinearFusion(mlps[0].output_dim, mlps[1].output_dim, heads)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        left, right = (mlp(gate(vectors)) for gate, mlp in zip(self.gates, self.mlps, strict=True))
        logits: Tensor = self.fusion(left, right)
        return logits
