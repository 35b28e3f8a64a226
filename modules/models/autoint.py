"""AutoInt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from modules.attention import self_attention
from modules.layers import MLP


class SelfAttention(nn.Module):
    """ReLU(multi-head self-attention over the fields + residual).

    The residual is projected where the widths differ. Shape: (B, F, input_dim) -> (B, F, dim)
    """

    def __init__(
        self, input_dim: int, dim: int, heads: int, *, scale: bool, dropout: float
    ) -> None:
        super().__init__()
        if dim % heads != 0:
            raise ValueError(f"attention_dim={dim} is not a multiple of heads={heads}")
        self.heads = heads
        self.scale = (dim // heads) ** -0.5 if scale else 1.0
        self.dropout = dropout
        self.projects_residual = input_dim != dim
        # query, key, value and perhaps the residual, in one matrix product
        self.projection = nn.Linear(input_dim, (3 + self.projects_residual) * dim, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if not (self.training and self.dropout > 0):
            return self_attention(inputs, self.projection.weight, self.heads, self.scale)
        parts = self.projection(inputs).chunk(3 + self.projects_residual, dim=2)
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts[:3]
        )  # (B, heads, F, dim / heads)
        attended = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout, scale=self.scale
        )
        residual = parts[3] if self.projects_residual else inputs
        return functional.relu(attended.transpose(1, 2).flatten(start_dim=2) + residual)


class AutoInt(nn.Module):
    """AutoInt (Song et al., CIKM 2019, arXiv 1810.11921): linear(self-attention over e) + MLP(e).

    attention_dim: of all heads together. scale: divide the scores by sqrt(attention_dim / heads);
    the paper does not. mlp: the paper's AutoInt+; without it, AutoInt.
    first_order: the LR term, an option of public implementations.
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
