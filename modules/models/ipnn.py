"""Inner product-based neural network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from modules.inner import WithInnerProducts
from modules.layers import MLP


class IPNN(nn.Module):
    """IPNN (Qu et al., ICDM 2016, arXiv 1611.00144): MLP([e, <e_i, e_j> for i < j]).

    NOTE[DIFF]: the products enter the first layer as they are, as in the official code; the paper
    factorises that layer's weights for them.
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
        self.products = WithInnerProducts(num_fields)
        width = num_fields * embedding_dim + len(self.products.pairs)
        self.mlp = MLP(width, hidden_units, dropout=dropout, batch_norm=batch_norm)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        logits: Tensor = self.mlp(self.products(vectors)).squeeze(1)
        return logits
