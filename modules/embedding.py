"""The feature table: the only part of a network that knows feature ids.

Shapes: B rows, F fields, N features, U distinct ids of a batch, D embedding dimension,
W width of the table: D numbers a feature and, where the model has one, a first-order weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class EmbeddingTable(nn.Module):
    """One row a feature: its embedding vector and, in the last column, its first-order weight.

    A training step gathers the batch's distinct rows as a leaf tensor, so that their gradient
    arrives as (U, W) and nothing of the table's size is touched; the table itself is updated by
    its optimiser (`modules.optim`), never by autograd.

    init: standard deviation of a normal distribution, or None for the official initialisation,
    Xavier-uniform over the whole table: U(-b, b), b = sqrt(6 / (N + D)).
    """

    weight: Tensor

    def __init__(
        self,
        num_features: int,
        embedding_dim: int,
        *,
        first_order: bool,
        generator: torch.Generator,
        init: float | None = None,
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.first_order = first_order
        weight = torch.empty(num_features, embedding_dim + first_order)
        if init is None:
            bound = math.sqrt(6 / (num_features + embedding_dim))
            weight.uniform_(-bound, bound, generator=generator)
        else:
            weight.normal_(0, init, generator=generator)
        self.register_buffer("weight", weight)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Look up ids (B, F) without gradient: vectors (B, F, D), weights (B, F)."""
        return self.embed(self.weight, ids)

    def embed(self, rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Look up index (B, F) in rows (U, W): vectors (B, F, D), weights (B, F).

        Without first-order weights in the table the weights are zeros.
        """
        embedded = functional.embedding(index, rows)  # (B, F, W)
        vectors = embedded[..., : self.embedding_dim]
        if self.first_order:
            return vectors, embedded[..., self.embedding_dim]
        return vectors, embedded.new_zeros(()).expand(index.shape)


class Network(nn.Module):
    """A feature table and a model over it: ids (B, F) -> logits (B,)."""

    def __init__(self, table: EmbeddingTable, model: nn.Module) -> None:
        super().__init__()
        self.table = table
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        vectors, weights = self.table(ids)
        logits: Tensor = self.model(vectors, weights)
        return logits
