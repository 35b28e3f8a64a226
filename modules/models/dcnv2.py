"""Deep & Cross Network V2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.layers import MLP


class CrossNetworkV2(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, where W_l = U_l V_l^T of rank `low_rank` if given.

    Shape: (B, width) -> (B, width)
    """

    def __init__(self, width: int, layers: int, low_rank: int | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(width, width)
            if low_rank is None
            else nn.Sequential(nn.Linear(width, low_rank, bias=False), nn.Linear(low_rank, width))
            for _ in range(layers)
        )

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for linear in self.layers:
            x = torch.addcmul(x, x0, linear(x))
        return x


class DCNv2(nn.Module):
    """DCN V2 (Wang et al., WWW 2021, arXiv 2008.13535): cross layers with full matrices, and MLP.

    structure: "parallel" is linear([cross(e), MLP(e)]), "stacked" is linear(MLP(cross(e))).
    low_rank: rank of the cross layers' matrices; None for full ones.
    output_bias: the bias of the last linear; the official code has none.
    NOTE[DIFF]: no mixture of low-rank experts. The cross layers' biases start as those of torch's
    Linear; public implementations start them at zero.
    Shape: vectors (B, F, D), weights (B, F) unused -> logits (B,)
    """

    uses_vectors = True
    uses_weights = False

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int = 16,
        *,
        cross_layers: int = 3,
        low_rank: int | None = None,
        structure: Literal["parallel", "stacked"] = "parallel",
        hidden_units: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
        output_bias: bool = True,
    ) -> None:
        super().__init__()
        width = num_fields * embedding_dim
        self.structure = structure
        self.cross = CrossNetworkV2(width, cross_layers, low_rank)
        self.mlp = MLP(width, hidden_units, output_dim=None, dropout=dropout, batch_norm=batch_norm)
        joint = width if structure == "parallel" else 0
        self.output = nn.Linear(joint + self.mlp.output_dim, 1, bias=output_bias)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        x0 = vectors.flatten(start_dim=1)  # (B, F * D)
        cross = self.cross(x0)  # (B, F * D)
        if self.structure == "stacked":
            logits: Tensor = self.output(self.mlp(cross)).squeeze(1)
            return logits
        deep = self.mlp(x0)  # (B, hidden_units[-1]), not copied beside `cross` for their linear
        of_cross, of_deep = self.output.weight.split((cross.shape[1], deep.shape[1]), dim=1)
        of_both = functional.linear(cross, of_cross, self.output.bias)
        return (of_both + functional.linear(deep, of_deep)).squeeze(1)
