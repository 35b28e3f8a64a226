"""Inner product-based neural network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modules.layers import MLP
from modules.precision import apply_in_float32

BLOCK = 256  # rows whose matrices of all products stay in the processor's cache


class IPNN(nn.Module):
    """IPNN (Qu et al., ICDM 2016, arXiv 1611.00144): MLP([e, <e_i, e_j> for i < j]).

    NOTE[DIFF]: the products enter the first layer as they are, as in the official code; the paper
    factorises that layer's weights for them.
    Shape: vectors (B, F, D), weights (B, F) unused -> logits (B,)
    """

    uses_vectors = True
    uses_weights = False
    pairs: Tensor  # (F (F - 1) / 2,): where a pair i < j is in a flattened (F, F) matrix
    places: Tensor  # (F * F,): where both (i, j) and (j, i) are among the pairs

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
        i, j = torch.triu_indices(num_fields, num_fields, offset=1)
        places = torch.zeros(num_fields, num_fields, dtype=torch.long)
        places[i, j] = places[j, i] = torch.arange(len(i))
        self.register_buffer("pairs", i * num_fields + j, persistent=False)
        self.register_buffer("places", places.flatten(), persistent=False)
        width = num_fields * embedding_dim + len(self.pairs)
        self.mlp = MLP(width, hidden_units, dropout=dropout, batch_norm=batch_norm)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        products = apply_in_float32(_InnerProducts, vectors, self.pairs, self.places)
        logits: Tensor = self.mlp(vectors.flatten(start_dim=1), products).squeeze(1)
        return logits


class _InnerProducts(torch.autograd.Function):
    """<e_i, e_j> for i < j, without keeping the (F, F) matrices of a whole batch.

    Shape: (B, F, D) -> (B, F (F - 1) / 2)
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, pairs: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, places)
        out = vectors.new_empty(len(vectors), len(pairs))
        for part, rows in zip(vectors.split(BLOCK), out.split(BLOCK), strict=True):
            torch.index_select((part @ part.mT).flatten(start_dim=1), 1, pairs, out=rows)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        vectors, places = ctx.saved_tensors
        out = torch.empty_like(vectors)
        num_fields = vectors.shape[1]
        for part, rows, grad in zip(
            vectors.split(BLOCK), out.split(BLOCK), grads[0].split(BLOCK), strict=True
        ):
            of_matrix = grad.index_select(1, places).unflatten(1, (num_fields, num_fields))
            of_matrix.diagonal(dim1=1, dim2=2).zero_()
            torch.bmm(of_matrix, part, out=rows)
        return out, None, None
