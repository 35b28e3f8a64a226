"""RankMixer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.layers import MLP, PerTokenLinear

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


class _InBlocks(nn.Sequential):
    """Layers in a row; on a CPU some rows at a time, which stay in the cache.

    They are cut here, behind whatever hands the layers the rows of several embedding sets.
    Shape: (T, B, width) -> (T, B, width)
    """

    def forward(self, x: Tensor) -> Tensor:
        layers: Callable[[Tensor], Tensor] = super().forward
        rows = CPU_BLOCK if x.device.type == "cpu" else x.shape[1]
        blocks = [layers(part).transpose(0, 1) for part in x.split(rows, dim=1)]
        return torch.cat(blocks).transpose(0, 1)  # row by row in memory, as the MLP takes them


class RankMixer(nn.Module):
    """RankMixer (Zhu et al., CIKM 2025, arXiv 2507.15551): MLP(token mixing and per-token FFNs).

    expansion: hidden width of a token's FFN, in widths of a token.
    NOTE[DIFF]: every field is a token, as in the official code; the paper groups features.
    NOTE[DIFF]: each token is normalised by itself, as in the paper. The official code normalises
    over the batch, without weight and bias, so that a row's score depends on the rows beside it.
    NOTE[DIFF]: all tokens together enter the MLP, as in the official code; the paper averages them
    first. The paper's sparse mixture of experts is left out.
    NOTE[DIFF]: mixing needs a width that the number of tokens divides. Where embedding_dim is not
    one, a linear map takes the vectors to the next one; the official code refuses them.
    Shape: vectors (B, F, D), weights (B, F) unused -> logits (B,)
    """

    uses_vectors = True
    uses_weights = False

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int = 16,
        *,
        layers: int = 3,
        expansion: int = 2,
        hidden_units: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        width = -(-embedding_dim // num_fields) * num_fields
        self.widen = nn.Identity() if width == embedding_dim else nn.Linear(embedding_dim, width)
        self.layers = _InBlocks(
            *(RankMixerLayer(num_fields, width, expansion) for _ in range(layers))
        )
        self.mlp = MLP(num_fields * width, hidden_units, dropout=dropout, batch_norm=batch_norm)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        tokens = self.widen(vectors).transpose(0, 1)  # (T = F, B, width)
        mixed = self.layers(tokens).transpose(0, 1)
        logits: Tensor = self.mlp(mixed.flatten(start_dim=1)).squeeze(1)
        return logits
