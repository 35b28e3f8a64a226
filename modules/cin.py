"""xDeepFM's compressed interaction network.

Shapes: B rows, F fields, D embedding dimension, H_k units of layer k, K layers; H_0 = F.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.outer import outer_map, pair_map, pair_weights

# Products formed at a time: few enough for the memory, enough to be worth starting threads for.
CPU_BLOCK, GPU_BLOCK = 2**22, 2**27


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
        if 0 in self.handed_on[:-1]:
            raise ValueError(f"cin_units={list(units)}: one unit has no half for split_half")
        self.given = [n - n // 2 if half else n for n, half in zip(units, split, strict=True)]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for size, inputs in zip(units, [num_fields, *self.handed_on[:-1]], strict=True):
            bound = (num_fields * inputs) ** -0.5  # as of a convolution over the products
            self.weights.append(torch.empty(size, num_fields, inputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(size).uniform_(-bound, bound))
        self.output = nn.Linear(sum(self.given), 1)

    def forward(self, vectors: Tensor) -> Tensor:
        *front, last = self._maps()
        if not front:
            maps = [last[-1]]
        else:
            tail = pair_weights(_joined(front.pop(), last))
            maps = [torch.cat([pair_weights(front[0]), tail])] if front else [tail]
            maps += [weight.flatten(start_dim=1) for weight in front[1:]]
        products = CPU_BLOCK if vectors.device.type == "cpu" else GPU_BLOCK
        widest = max(weight.shape[1] for weight in maps) * vectors.shape[2]
        given = [self._given(rows, *maps) for rows in vectors.split(max(1, products // widest))]
        return torch.cat(given) + self.output.bias

    def _given(self, vectors: Tensor, first: Tensor, *front: Tensor) -> Tensor:
        """What all layers give, (B,), by the maps of `forward`."""
        x0 = functional.pad(vectors, (0, 0, 0, 1), value=1.0)  # (B, F + 1, D)
        x0 = x0.transpose(0, 1).flatten(start_dim=1)  # (F + 1, B * D)
        if len(self.weights) == 1:
            given = (x0 * (first @ x0)).sum(dim=0)  # (B * D,)
        elif len(self.weights) == 2:
            given = (x0 * pair_map(first, x0)).sum(dim=0)
        else:
            size = self.handed_on[0] + 1
            x, total, of_tail = pair_map(first, x0).tensor_split([size, size + 1])
            for weight in front:
                x, given = outer_map(weight, x0, x).tensor_split([len(weight) - 1])
                total = total + given
            given = total.squeeze(0) + (x * of_tail).sum(dim=0)
        of_rows: Tensor = given.unflatten(0, (len(vectors), -1)).sum(dim=1)
        return of_rows

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
