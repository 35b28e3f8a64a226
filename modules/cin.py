"""xDeepFM's compressed interaction network.

Shapes: B rows, F fields, D embedding dimension, H_k units of layer k, K layers; H_0 = F.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.outer import bilinear_map, quadratic_map


class CIN(nn.Module):
    """x^k_o = sum_{f,i} W^k_{ofi} (x^0_f * x^{k-1}_i) + b^k_o; linear in sum_d x^k of all k.

    With split_half, all layers but the last hand on their first half only, and give only the rest
    to the output.

    Two things save most of the work. A constant 1 is one more vector of x^0 and of every x^k, so
    that biases and sums are products as well. And what is only summed up is never formed: layer k
    gives the output x^0 . S^k x^{k-1}, where S^k is W^k summed by the output's weights. With the
    formula of x^{K-1} put into that of layer K, the last two layers give x^{K-2} . T(x^0, x^0), so
    that three layers cost two maps of the products of x^0 with itself.
    Shape: (B, F, D) -> (B,)
    """

    def __init__(self, num_fields: int, units: Sequence[int], *, split_half: bool = False) -> None:
        super().__init__()
        if not units:
            raise ValueError("cin_units names no layer")
        split = [split_half] * (len(units) - 1) + [False]
        self.handed_on = [n // 2 if half else n for n, half in zip(units, split, strict=True)]
        self.given = [n - n // 2 if half else n for n, half in zip(units, split, strict=True)]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for size, inputs in zip(units, [num_fields, *self.handed_on[:-1]], strict=True):
            bound = (num_fields * inputs) ** -0.5  # as of a convolution over the products
            self.weights.append(torch.empty(size, num_fields, inputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(size).uniform_(-bound, bound))
        self.output = nn.Linear(sum(self.given), 1)

    def forward(self, vectors: Tensor) -> Tensor:
        x0 = functional.pad(vectors, (0, 0, 0, 1), value=1.0)  # (B, F + 1, D)
        x0 = x0.transpose(0, 1).flatten(start_dim=1)  # (F + 1, B * D)
        *front, last = self._maps()
        if not front:
            given = (x0 * (last[-1] @ x0)).sum(dim=0)  # (B * D,)
        elif len(front) == 1:
            given = (x0 * quadratic_map(_joined(front[0], last), x0)).sum(dim=0)
        else:
            tail = _joined(front.pop(), last)
            both = quadratic_map(torch.cat([front[0], tail]), x0)
            x, of_tail = both.split([len(front[0]), len(tail)])  # (H_1 + 2, B * D), ...
            given = x[-1]
            for weight in front[1:]:
                x = bilinear_map(weight, x0, x[:-1])
                given = given + x[-1]
            given = given + (x[:-1] * of_tail).sum(dim=0)
        logits: Tensor = given.unflatten(0, (len(vectors), -1)).sum(dim=1) + self.output.bias
        return logits

    def _maps(self) -> list[Tensor]:
        """Of every layer the map of x^0 and x^{k-1} to what it hands on, 1, and what it gives."""
        maps = []
        of_output = self.output.weight[0].split(self.given)
        for weight, bias, output, size in zip(
            self.weights, self.biases, of_output, self.handed_on, strict=True
        ):
            affine = functional.pad(weight, (0, 1, 0, 1))  # (H_k, F + 1, H_{k-1} + 1)
            affine[:, -1, -1] = bias
            one = torch.zeros_like(affine[:1])
            one[:, -1, -1] = 1
            given = torch.einsum("o,ofi->fi", output, affine[-len(output) :])  # S^k
            maps.append(torch.cat([affine[:size], one, given[None]]))
        return maps


def _joined(before: Tensor, last: Tensor) -> Tensor:
    """T of the last two layers' maps: (H_{K-2} + 1, F + 1, F + 1)."""
    of_before = functional.pad(last[-1], (0, 1))  # (F + 1, H_{K-1} + 2)
    of_before[-1, -1] = 1  # what the layer before gives is only added
    return torch.einsum("ofi,go->ifg", before, of_before)
