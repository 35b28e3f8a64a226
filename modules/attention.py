"""Self-attention over the few fields of many rows.

torch's own kernels are made for long sequences. Here a sequence is a row's fields: everything
between input and output is small for a block of rows. Of that the softmax's values are kept for the
gradient, F * F numbers a row and head; the projections are faster computed again than written
and read.

Shapes: B rows, F fields, C and A width of input and output, A / H width of one of H heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.dropout import draw_kept, factors
from modules.precision import apply_in_float32

CPU_BLOCK, GPU_BLOCK = 2**17, 2**25  # scores at a time: on a CPU as many as its cache holds


class SelfAttention(nn.Module):
    """ReLU(multi-head self-attention over the fields + residual).

    The residual is projected where the widths differ. Shape: (B, F, input_dim) -> (B, F, dim)
    """

    def __init__(
        self, input_dim: int, dim: int, heads: int, *, scale: bool, dropout: float
    ) -> None:
        super().__init__()
        if dim % heads != 0:
            raise ValueError(f"attention_dim={dim} is not a multiple of heads={heads}")
        self.dim = dim
        self.heads = heads
        self.scale = (dim // heads) ** -0.5 if scale else 1.0
        self.dropout = dropout
        self.projects_residual = input_dim != dim
        # query, key, value and perhaps the residual, in one matrix product
        self.projection = nn.Linear(input_dim, (3 + self.projects_residual) * dim, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        weight, dropout = self.projection.weight, self.dropout if self.training else 0.0
        return self_attention(inputs, weight, self.dim, self.heads, self.scale, dropout)


def self_attention(
    inputs: Tensor, weight: Tensor, dim: int, heads: int, scale: float, dropout: float = 0.0
) -> Tensor:
    """ReLU(softmax(scale * Q K^T) V + R), head by head.

    weight: of the projections to Q, K and V and, as a fourth part, to the residual R; where there
    is no fourth part R are the inputs. dim: A. dropout: the share of the softmax's values that are
    0; the others are divided by 1 - dropout.
    Shape: (B, F, C), (3 A or 4 A, C) -> (B, F, A)
    """
    for_gradient = torch.is_grad_enabled()  # within a Function's forward it is always off
    out: Tensor = apply_in_float32(
        _SelfAttention, inputs, weight, dim, heads, scale, dropout, for_gradient
    )
    return out


class _SelfAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        dim: int,
        heads: int,
        scale: float,
        dropout: float,
        for_gradient: bool,
    ) -> Tensor:
        out = inputs.new_empty(*inputs.shape[:2], dim)
        saved = []  # of every block and head the softmax's values, and which dropout kept
        for rows in _blocks(inputs):
            projected = functional.linear(inputs[rows], weight)
            residual = projected[..., 3 * dim :] if len(weight) == 4 * dim else inputs[rows]
            for head in _heads(dim, heads):
                query, key, value = _parts(projected, dim, head)
                scores = query @ key.mT
                weights = torch.softmax(scores if scale == 1 else scores.mul_(scale), dim=2)
                if for_gradient:
                    saved.append(weights)
                if dropout > 0:
                    kept = draw_kept(weights, dropout)
                    saved.append(kept)
                    weights = weights * factors(kept, dropout, weights.dtype)
                torch.add(residual[..., head], weights @ value, out=out[rows, :, head])
            out[rows].relu_()
        ctx.save_for_backward(inputs, weight, out, *saved)
        ctx.heads, ctx.scale, ctx.dropout = heads, scale, dropout
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, out, *saved = ctx.saved_tensors
        dim = out.shape[2]
        inputs_grad, weight_grad = torch.empty_like(inputs), torch.zeros_like(weight)
        of_head = iter(saved)
        for rows in _blocks(inputs):
            projected = functional.linear(inputs[rows], weight)
            projected_grad = torch.empty_like(projected)
            grad = torch.ops.aten.threshold_backward(grads[0][rows], out[rows], 0)  # of the ReLU
            for head in _heads(dim, ctx.heads):
                query, key, value = _parts(projected, dim, head)
                into_query, into_key, into_value = _parts(projected_grad, dim, head)
                used = weights = next(of_head)
                weights_grad = grad[..., head] @ value.mT
                if ctx.dropout > 0:
                    of_weights = factors(next(of_head), ctx.dropout, weights.dtype)
                    used = weights * of_weights
                    weights_grad *= of_weights
                into_value[:] = used.mT @ grad[..., head]
                scores_grad = torch.ops.aten._softmax_backward_data(
                    weights_grad, weights, 2, weights.dtype
                )
                into_query[:] = scores_grad @ key
                into_key[:] = scores_grad.mT @ query
            projected_grad[..., : 2 * dim] *= ctx.scale
            projects_residual = len(weight) == 4 * dim
            if projects_residual:
                projected_grad[..., 3 * dim :] = grad
            flat = projected_grad.flatten(end_dim=1)
            weight_grad += flat.T @ inputs[rows].flatten(end_dim=1)
            inputs_grad[rows] = projected_grad @ weight
            if not projects_residual:
                inputs_grad[rows] += grad
        return inputs_grad, weight_grad, None, None, None, None, None


def _blocks(inputs: Tensor) -> Iterator[slice]:
    """Blocks of rows, of nearly the same size."""
    rows, fields = inputs.shape[:2]
    block = CPU_BLOCK if inputs.device.type == "cpu" else GPU_BLOCK
    count = max(1, math.ceil(rows / max(1, block // fields**2)))
    size = max(1, math.ceil(rows / count))
    return (slice(start, start + size) for start in range(0, rows, size))


def _heads(dim: int, heads: int) -> Iterator[slice]:
    """The columns of every head."""
    size = dim // heads
    return (slice(start, start + size) for start in range(0, dim, size))


def _parts(projected: Tensor, dim: int, head: slice) -> Iterator[Tensor]:
    """One head's queries, keys and values (rows, F, A / H), as views."""
    return (projected[..., part * dim :][..., head] for part in range(3))
