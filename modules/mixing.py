"""RankMixer's layers. Shapes: T tokens, B rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.layers import PerTokenLinear

CPU_BLOCK = 256  # rows whose tokens stay in the processor's cache from step to step


class RankMixerLayer(nn.Module):
    """s = LayerNorm(mix(x) + x), then LayerNorm(FFN(s) + s) with its own FFN for each token.

    mix: as many heads as tokens; new token h is the h-th slice of all tokens.
    Shape: (T, B, width) -> (T, B, width), where T divides width
    """

    def __init__(self, tokens: int, width: int, expansion: int) -> None:
        super().__init__()
        self.expand = PerTokenLinear(tokens, width, expansion * width)
        self.contract = PerTokenLinear(tokens, expansion * width, width)
        self.mix_norm = nn.LayerNorm(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        slices = x.unflatten(2, (len(x), -1))  # (T, B, heads, width / heads)
        mixed = slices.permute(2, 1, 0, 3).flatten(start_dim=2)  # (T = heads, B, width)
        x = self.mix_norm(mixed + x)
        normed: Tensor = self.norm(x + self.contract(functional.gelu(self.expand(x))))
        return normed


class InBlocks(nn.Sequential):
    """Layers in a row; on a CPU some rows at a time, which stay in the cache.

    They are cut here, behind whatever hands the layers the rows of several embedding sets.
    Shape: (T, B, width) -> (T, B, width)
    """

    def forward(self, x: Tensor) -> Tensor:
        layers: Callable[[Tensor], Tensor] = super().forward
        rows = CPU_BLOCK if x.device.type == "cpu" else x.shape[1]
        blocks = [layers(part).transpose(0, 1) for part in x.split(rows, dim=1)]
        return torch.cat(blocks).transpose(0, 1)  # row by row in memory, as the MLP takes them
