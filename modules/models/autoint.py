"""AutoInt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from modules.attention import SelfAttention
from modules.layers import MLP


class AutoInt(nn.Module):
    """AutoInt (Song et al., CIKM 2019, arXiv 1810.11921): linear(self-attention over e) + MLP(e).

    attention_dim: of all heads together. scale: divide the scores by sqrt(attention_dim / heads);
    the paper does not. mlp: the paper's AutoInt+; without it, AutoInt.
    first_order: the LR term, an option of public implementations.
    NOTE[DIFF]: the formulas are the paper's. The authors' code also has a ReLU and a bias in each
    projection, and layer normalisation.
    Shape: vectors (B, F, D), weights (B, F) -> logits (B,)
    """

    uses_vectors = True

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int = 16,
        *,
        attention_layers: int = 3,
        heads: int = 2,
        attention_dim: int = 32,
        scale: bool = False,
        mlp: bool = True,
        hidden_units: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
        first_order: bool = False,
    ) -> None:
        super().__init__()
        self.uses_weights = first_order
        dims = [embedding_dim] + attention_layers * [attention_dim]
        self.attention = nn.Sequential(
            *(
                SelfAttention(before, after, heads, scale=scale, dropout=dropout)
                for before, after in itertools.pairwise(dims)
            )
        )
        self.output = nn.Linear(num_fields * dims[-1], 1)
        width = num_fields * embedding_dim
        self.mlp = MLP(width, hidden_units, dropout=dropout, batch_norm=batch_norm) if mlp else None

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        logits: Tensor = self.output(self.attention(vectors).flatten(start_dim=1)).squeeze(1)
        if self.mlp is not None:
            logits = logits + self.mlp(vectors.flatten(start_dim=1)).squeeze(1)
        if self.uses_weights:
            logits = logits + weights.sum(dim=1)
        return logits
