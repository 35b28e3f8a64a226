"""Linear maps of all products of two groups of numbers, column by column.

The products are many times larger than what they are made of, so they are not kept for the
gradient but formed once more.

Shapes: F and N sizes of the groups, R columns, P = F (F + 1) / 2 pairs f <= i, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from modules.precision import apply_in_float32


def outer_map(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """out[o, r] = sum_{f, i} weight[o, f N + i] left[f, r] right[i, r].

    Shape: (O, F * N), (F, R), (N, R) -> (O, R)
    """
    out: Tensor = apply_in_float32(_OuterMap, weight, left, right, False)
    return out


def pair_map(weight: Tensor, x: Tensor) -> Tensor:
    """out[o, r] = sum_{f <= i} weight[o, p(f, i)] x[f, r] x[i, r], the pairs in the order of f.

    Shape: (O, P), (F, R) -> (O, R)
    """
    out: Tensor = apply_in_float32(_OuterMap, weight, x, x, True)
    return out


def pair_weights(weight: Tensor) -> Tensor:
    """The weights by which `pair_map` gives sum_{f, i} weight[o, f, i] x[f, r] x[i, r].

    Since x_f x_i = x_i x_f, half the products do. Shape: (O, F, F) -> (O, P)
    """
    size = weight.shape[1]
    f, i = torch.triu_indices(size, size, device=weight.device)
    folded = weight.triu() + weight.tril(-1).mT
    return folded.flatten(start_dim=1).index_select(1, f * size + i)


class _OuterMap(torch.autograd.Function):
    """The sum over all f and i or, where `pairs` is set, over f <= i."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, left: Tensor, right: Tensor, pairs: bool) -> Tensor:
        ctx.save_for_backward(weight, left, right)
        ctx.pairs = pairs
        return weight @ _products(left, right, pairs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (grad,) = grads  # (O, R)
        weight, left, right = ctx.saved_tensors
        products = _products(left, right, ctx.pairs)
        weight_grad = grad @ products.T
        del products  # before as much memory is taken for their gradient
        products_grad = weight.T @ grad
        left_grad, right_grad = torch.empty_like(left), torch.zeros_like(right)
        for f, (first, part) in enumerate(_parts(products_grad, left, right, ctx.pairs)):
            right_grad[first:].addcmul_(part, left[f])
            torch.sum(part.mul_(right[first:]), dim=0, out=left_grad[f])
        return weight_grad, left_grad, right_grad, None


def _products(left: Tensor, right: Tensor, pairs: bool) -> Tensor:
    """The products of left (F, R) and right (N, R), f after f: (F * N or P, R)."""
    size = len(left) * (len(left) + 1) // 2 if pairs else len(left) * len(right)
    products = left.new_empty(size, left.shape[1])
    for f, (first, part) in enumerate(_parts(products, left, right, pairs)):
        torch.mul(left[f], right[first:], out=part)
    return products


def _parts(
    products: Tensor, left: Tensor, right: Tensor, pairs: bool
) -> Iterator[tuple[int, Tensor]]:
    """For every f the first i, and the rows of `products` that belong to f."""
    firsts = [f if pairs else 0 for f in range(len(left))]
    return zip(firsts, products.split([len(right) - first for first in firsts]), strict=True)
