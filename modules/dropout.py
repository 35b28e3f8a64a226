"""Dropout with draws that a CPU makes cheaply: torch's own take longer there than a small layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

DRAWS = 2**16  # values that a draw can take


class Dropout(nn.Module):
    """In training, each value is 0 with the probability `share`, else divided by 1 - share.

    Srivastava et al., JMLR 2014, with the division of torch's nn.Dropout. Any shape.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        if inputs.device.type != "cpu":
            return functional.dropout(inputs, self.share)
        return inputs * factors(draw_kept(inputs, self.share), self.share, inputs.dtype)

    def extra_repr(self) -> str:
        return f"share={self.share}"


def draw_kept(like: Tensor, share: float) -> Tensor:
    """False with the probability `share`, on a CPU to a multiple of 1 / DRAWS; shape of `like`.

    Follows torch.manual_seed.
    """
    if like.device.type != "cpu":
        return torch.empty_like(like, dtype=torch.bool).bernoulli_(1 - share)
    # Four draws of 16 bits in each word, for the price of one.
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[: like.numel()].view(like.shape)
    kept_values = min(round((1 - share) * DRAWS), DRAWS - 1)
    return draws < kept_values - DRAWS // 2


def factors(kept: Tensor, share: float, dtype: torch.dtype) -> Tensor:
    """0 where nothing is kept, else 1 / (1 - share), which keeps the expectation."""
    return kept.to(dtype).mul_(1 / (1 - share) if share < 1 else 0.0)
