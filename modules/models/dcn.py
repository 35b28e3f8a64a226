"""Deep & Cross Network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.layers import MLP


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 (w_l . x_l) + b_l + x_l, without ever forming x_1, x_2, ...

    Every layer adds a multiple of x_0 and a vector that is the same for all rows, so
    x_l = a_l x_0 + c_l with a_0 = 1, c_0 = 0, and
    a_{l+1} = a_l + a_l (w_l . x_0) + w_l . c_l,  c_{l+1} = c_l + b_l:
    all that the rows cost is one thin matrix product, x_0 with the w of every layer.
    Shape: (B, width) and a direction (1, width) -> their product direction . x_L (B,)
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers, width))
        self.bias = nn.Parameter(torch.zeros(layers, width))
        bound = width**-0.5  # as nn.Linear(width, 1)
        nn.init.uniform_(self.weight, -bound, bound)

    def along(self, direction: Tensor, x0: Tensor) -> Tensor:
        weight = torch.cat([self.weight, direction])  # (L + 1, width): w_0 .. w_{L-1}, direction
        shift = functional.pad(self.bias.cumsum(dim=0), (0, 0, 1, 0))  # (L + 1, width): c_0 .. c_L
        of_shift = (weight * shift).sum(dim=1)  # (L + 1,): w_l . c_l
        of_input = x0 @ weight.T  # (B, L + 1): w_l . x_0
        scale = torch.ones_like(of_input[:, 0])  # (B,): a_l
        for layer in range(len(self.weight)):
            scale = scale + scale * of_input[:, layer] + of_shift[layer]
        return scale * of_input[:, -1] + of_shift[-1]


class DCN(nn.Module):
    """DCN (Wang et al., ADKDD 2017, arXiv 1708.05123): linear([cross(e), MLP(e)]).

    output_bias: the bias of the last linear; the official code has none.
    NOTE[DIFF]: without batch normalisation by default, as in the official runs.
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
        hidden_units: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
        output_bias: bool = True,
    ) -> None:
        super().__init__()
        width = num_fields * embedding_dim
        self.cross = CrossNetwork(width, cross_layers)
        self.mlp = MLP(width, hidden_units, output_dim=None, dropout=dropout, batch_norm=batch_norm)
        self.output = nn.Linear(width + self.mlp.output_dim, 1, bias=output_bias)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        x0 = vectors.flatten(start_dim=1)  # (B, F * D)
        deep = self.mlp(x0)  # (B, hidden_units[-1])
        of_cross, of_deep = self.output.weight.split((x0.shape[1], deep.shape[1]), dim=1)
        of_mlp = functional.linear(deep, of_deep, self.output.bias)  # (B, 1)
        logits: Tensor = self.cross.along(of_cross, x0) + of_mlp.squeeze(1)
        return logits
