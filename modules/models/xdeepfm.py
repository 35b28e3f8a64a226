"""xDeepFM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from modules.cin import CIN
from modules.layers import MLP


class XDeepFM(nn.Module):
    """xDeepFM (Lian et al., KDD 2018, arXiv 1803.05170): LR + CIN(e) + MLP(e).

    cin_units: vectors of every CIN layer. split_half: layers but the last hand half of them on and
    give the rest to the output, as in the authors' code. first_order: the LR term; its bias is
    the CIN's and the MLP's.
    NOTE[DIFF]: the CIN has biases, as in public implementations. It has no activation, as in the
    paper; some of them have a ReLU by default.
    Shape: vectors (B, F, D), weights (B, F) -> logits (B,)
    """

    uses_vectors = True

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int = 16,
        *,
        cin_units: Sequence[int] = (128, 128, 128),
        split_half: bool = False,
        hidden_units: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
        first_order: bool = True,
    ) -> None:
        super().__init__()
        self.uses_weights = first_order
        self.cin = CIN(num_fields, cin_units, split_half=split_half)
        self.mlp = MLP(
            num_fields * embedding_dim, hidden_units, dropout=dropout, batch_norm=batch_norm
        )

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        logits: Tensor = self.cin(vectors) + self.mlp(vectors.flatten(start_dim=1)).squeeze(1)
        return logits + weights.sum(dim=1) if self.uses_weights else logits
