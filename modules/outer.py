"""Linear maps of all products of two groups of numbers, without ever holding all the products.

out[o, r] = sum_{f, i} weight[o, f, i] left[f, r] right[i, r] is one matrix product, of the weights
with the outer product of every column r; but the outer products are many times larger than what
they are made of. They are formed for a block of columns at a time, in a buffer that stays in the
processor's cache, and once more for the gradient.

Shapes: R columns, O outputs, F and N sizes of the two groups, P products of a column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from modules.precision import apply_in_float32

CPU_BLOCK, GPU_BLOCK = 2**21, 2**27  # products formed at a time


def bilinear_map(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """out[o, r] = sum_{f, i} weight[o, f, i] left[f, r] right[i, r].

    Shape: (O, F, N), (F, R), (N, R) -> (O, R)
    """
    out: Tensor = apply_in_float32(_OuterMap, weight, left, right, False)
    return out


def quadratic_map(weight: Tensor, x: Tensor) -> Tensor:
    """out[o, r] = sum_{f, i} weight[o, f, i] x[f, r] x[i, r].

    Since x_f x_i = x_i x_f, only the products with f <= i are formed: half the work.
    Shape: (O, F, F), (F, R) -> (O, R)
    """
    folded = weight.triu() + weight.tril(-1).mT
    out: Tensor = apply_in_float32(_OuterMap, folded, x, x, True)
    return out


class _OuterMap(torch.autograd.Function):
    """The sum over all f and i or, where `triangular` is set, over f <= i."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, left: Tensor, right: Tensor, triangular: bool) -> Tensor:
        ctx.save_for_backward(weight, left, right)
        ctx.firsts = [f if triangular else 0 for f in range(len(left))]
        packed = _pack(weight, ctx.firsts)
        out = left.new_empty(len(weight), left.shape[1])
        for columns, products in _blocks(packed, left):
            _multiply(left[:, columns], right[:, columns], ctx.firsts, out=products)
            torch.mm(packed, products, out=out[:, columns])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (grad,) = grads  # (O, R)
        weight, left, right = ctx.saved_tensors
        packed = _pack(weight, ctx.firsts)
        packed_grad = torch.zeros_like(packed)
        left_grad, right_grad = torch.empty_like(left), torch.zeros_like(right)
        for columns, products in _blocks(packed, left):
            of_left, of_right = left[:, columns], right[:, columns]
            _multiply(of_left, of_right, ctx.firsts, out=products)
            packed_grad += grad[:, columns] @ products.T
            torch.mm(packed.T, grad[:, columns], out=products)  # now the products' gradient
            for f, (first, part) in enumerate(_parts(products, len(right), ctx.firsts)):
                right_grad[first:, columns].addcmul_(part, of_left[f])
                torch.sum(part.mul_(of_right[first:]), dim=0, out=left_grad[f, columns])
        weight_grad = torch.zeros_like(weight)
        for f, (first, part) in enumerate(_parts(packed_grad.T, len(right), ctx.firsts)):
            weight_grad[:, f, first:] = part.T
        return weight_grad, left_grad, right_grad, None


def _pack(weight: Tensor, firsts: list[int]) -> Tensor:
    """The weights (O, P) of the products that are formed, f after f."""
    return torch.cat([weight[:, f, first:] for f, first in enumerate(firsts)], dim=1)


def _blocks(packed: Tensor, left: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Every block of columns, and a buffer (P, columns) that the next block uses again."""
    num_products, num_columns = packed.shape[1], left.shape[1]
    block = CPU_BLOCK if left.device.type == "cpu" else GPU_BLOCK
    width = min(num_columns, max(1, block // num_products))
    buffer = left.new_empty(num_products, width)
    for start in range(0, num_columns, width):
        columns = slice(start, min(start + width, num_columns))
        yield columns, buffer[:, : columns.stop - start]


def _parts(products: Tensor, size: int, firsts: list[int]) -> Iterator[tuple[int, Tensor]]:
    """For every f the first i, and the rows of `products` (P, ...) that belong to f."""
    return zip(firsts, products.split([size - first for first in firsts]), strict=True)


def _multiply(left: Tensor, right: Tensor, firsts: list[int], out: Tensor) -> None:
    """The products of left (F, columns) and right (N, columns) into out (P, columns)."""
    for f, (first, part) in enumerate(_parts(out, len(right), firsts)):
        torch.mul(left[f], right[first:], out=part)
