"""FNN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from modules.layers import MLP


class FNN(nn.Module):
    """FNN (Zhang et al., ECIR 2016, arXiv 1601.02376): MLP(e).

    NOTE[DIFF]: the embeddings are learnt with the MLP, as in the official code and every recent
    comparison; the paper pre-trains them with an FM.
    Shape: vectors (B, F, D), weights (B, F) unused -> logits (B,)
    """

    uses_vectors = True
    uses_weights = False

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int = 16,
        *,
        hidden_units: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.mlp = MLP(
            num_fields * embedding_dim, hidden_units, dropout=dropout, batch_norm=batch_norm
        )

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        logits: Tensor = self.mlp(vectors.flatten(start_dim=1)).squeeze(1)
        return logits
