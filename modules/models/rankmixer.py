"""RankMixer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from modules.layers import MLP
from modules.mixing import InBlocks, RankMixerLayer


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
        self.layers = InBlocks(
            *(RankMixerLayer(num_fields, width, expansion) for _ in range(layers))
        )
        self.mlp = MLP(num_fields * width, hidden_units, dropout=dropout, batch_norm=batch_norm)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        tokens = self.widen(vectors).transpose(0, 1)  # (T = F, B, width)
        mixed = self.layers(tokens).transpose(0, 1)
        logits: Tensor = self.mlp(mixed.flatten(start_dim=1)).squeeze(1)
        return logits
