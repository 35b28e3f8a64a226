"""Inner products of all pairs of fields. Shapes: B rows, F fields, D embedding dimension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modules.precision import apply_in_float32

BLOCK = 256  # rows whose matrices of all products stay in the processor's cache


class WithInnerProducts(nn.Module):
    """[e, <e_i, e_j> for i < j], without keeping the (F, F) matrices of a whole batch.

    Shape: (B, F, D) -> (B, F * D + F (F - 1) / 2)
    """

    pairs: Tensor  # (F (F - 1) / 2,): where a pair i < j is in a flattened (F, F) matrix
    places: Tensor  # (F * F,): where both (i, j) and (j, i) are among the pairs

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        i, j = torch.triu_indices(num_fields, num_fields, offset=1)
        places = torch.zeros(num_fields, num_fields, dtype=torch.long)
        places[i, j] = places[j, i] = torch.arange(len(i))
        self.register_buffer("pairs", i * num_fields + j, persistent=False)
        self.register_buffer("places", places.flatten(), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        if not len(self.pairs):  # of one field
            return vectors.flatten(start_dim=1)
        joined: Tensor = apply_in_float32(_WithInnerProducts, vectors, self.pairs, self.places)
        return joined


class _WithInnerProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, pairs: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, places)
        flat = vectors.flatten(start_dim=1)
        out = flat.new_empty(len(flat), flat.shape[1] + len(pairs))
        out[:, : flat.shape[1]] = flat
        for part, rows in zip(vectors.split(BLOCK), out.split(BLOCK), strict=True):
            products = (part @ part.mT).flatten(start_dim=1)  # (rows, F * F)
            rows[:, flat.shape[1] :] = products.gather(1, pairs.expand(len(part), -1))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        vectors, places = ctx.saved_tensors
        out = torch.empty_like(vectors)
        _, num_fields, dim = vectors.shape
        for part, rows, grad in zip(
            vectors.split(BLOCK), out.split(BLOCK), grads[0].split(BLOCK), strict=True
        ):
            of_vectors, of_products = grad.tensor_split([num_fields * dim], dim=1)
            of_pairs = of_products.gather(1, places.expand(len(part), -1))
            of_matrix = of_pairs.unflatten(1, (num_fields, num_fields))
            of_matrix.diagonal(dim1=1, dim2=2).zero_()
            torch.baddbmm(of_vectors.unflatten(1, (num_fields, dim)), of_matrix, part, out=rows)
        return out, None, None
