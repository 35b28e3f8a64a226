"""DeepFM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from modules.layers import MLP
from modules.models.fm import FM


class DeepFM(nn.Module):
    """DeepFM (Guo et al., IJCAI 2017, arXiv 1703.04247): FM(e) + MLP(e) on shared embeddings.

    first_order: the FM's LR term; without it this is the official code's form.
    NOTE[DIFF]: dropout is 0 by default, as in the official runs (the paper has 0.5).
    Shape: vectors (B, F, D), weights (B, F) -> logits (B,)
    """

    uses_vectors = True

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int = 16,
        *,
        hidden_units: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
        first_order: bool = True,
    ) -> None:
        super().__init__()
        self.fm = FM(num_fields, embedding_dim, first_order=first_order)
        self.uses_weights = first_order
        self.mlp = MLP(
            num_fields * embedding_dim, hidden_units, dropout=dropout, batch_norm=batch_norm
        )

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        deep = self.mlp(vectors.flatten(start_dim=1)).squeeze(1)  # (B,)
        logits: Tensor = self.fm(vectors, weights) + deep
        return logits
