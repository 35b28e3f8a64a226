"""FinalMLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from modules.fusion import BilinearFusion
from modules.gate import FieldGate, GatedLinear
from modules.layers import MLP


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
        units = (hidden_units, hidden_units if mlp2_units is None else mlp2_units)
        for setting, layers in zip(("hidden_units", "mlp2_units"), units, strict=True):
            if not layers:
                raise ValueError(f"{setting} names no layer; each of the two MLPs needs one")
        for setting, fields in (("gate1_fields", gate1_fields), ("gate2_fields", gate2_fields)):
            for field in fields:
                if not 0 <= field < num_fields:
                    last = num_fields - 1
                    raise ValueError(f"{setting} has {field}; there are fields 0 to {last}")
        gates = [
            FieldGate(num_fields, embedding_dim, gate_units, fields) if gating else None
            for fields in (gate1_fields, gate2_fields)
        ]
        width = num_fields * embedding_dim
        mlps = [
            MLP(width, layers, output_dim=None, dropout=dropout, batch_norm=batch_norm)
            for layers in units
        ]
        for gate, mlp in zip(gates, mlps, strict=True):
            if gate is not None:
                mlp[0] = GatedLinear(gate, cast(nn.Linear, mlp[0]))
        self.mlps = nn.ModuleList(mlps)
        self.fusion = BilinearFusion(mlps[0].output_dim, mlps[1].output_dim, heads)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        inputs = vectors.flatten(start_dim=1)
        left, right = (mlp(inputs) for mlp in self.mlps)
        logits: Tensor = self.fusion(left, right)
        return logits
