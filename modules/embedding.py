"""The feature table: the only part of a network that knows feature ids.

Shapes: B rows, F fields, N features, U distinct ids of a batch, D embedding dimension,
W width of the table: D numbers a feature and, where the model has one, a first-order weight.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.distinct import DistinctIds
from modules.memory import in_huge_pages


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
        weight = in_huge_pages((num_features, embedding_dim + first_order))
        if init is None:
            bound = math.sqrt(6 / (num_features + embedding_dim))
            weight.uniform_(-bound, bound, generator=generator)
        else:
            weight.normal_(0, init, generator=generator)
        self.register_buffer("weight", weight)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Look up ids (B, F) without gradient: vectors (B, F, D), weights (B, F).

        Without first-order weights in the table the weights are zeros.
        """
        return self._split(functional.embedding(ids, self.weight))

    def embed(self, rows: Tensor, batch: DistinctIds) -> tuple[Tensor, Tensor]:
        """Look up a batch in its gathered rows (U, W): vectors (B, F, D), weights (B, F)."""
        vectors, weights = rows.split([self.embedding_dim, int(self.first_order)], dim=1)
        if self.embedding_dim:
            vectors = _look_up(vectors, batch)
        else:
            vectors = rows.new_zeros(*batch.place.shape, 0)
        if self.first_order:
            return vectors, _look_up(weights, batch).squeeze(2)
        return vectors, rows.new_zeros(()).expand(batch.place.shape)

    def _split(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        vectors = embedded[..., : self.embedding_dim]
        if self.first_order:
            return vectors, embedded[..., self.embedding_dim]
        return vectors, embedded.new_zeros(()).expand(embedded.shape[:-1])


class _LookUp(torch.autograd.Function):
    """Rows (U, C) of a batch -> (B, F, C), with a gradient that is one sum a row.

    The order of `DistinctIds` makes these sums segments, which embedding_bag adds on all cores
    and always in the same order; the gradient of an embedding takes eight times longer.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, batch: DistinctIds) -> Tensor:
        ctx.batch = batch
        return functional.embedding(batch.place, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients  # (B, F, C)
        per_row = functional.embedding_bag(
            ctx.batch.order,
            gradient.reshape(-1, gradient.shape[-1]),
            ctx.batch.offsets,
            mode="sum",
            include_last_offset=True,
        )
        return per_row, None


def _look_up(rows: Tensor, batch: DistinctIds) -> Tensor:
    embedded: Tensor = _LookUp.apply(rows, batch)  # type: ignore[no-untyped-call]
    return embedded


class Network(nn.Module):
    """A feature table and a model over it: ids (B, F) -> logits (B,)."""

    def __init__(self, table: EmbeddingTable, model: nn.Module) -> None:
        super().__init__()
        self.table = table
        self.model = model
        self.device = torch.device("cpu")  # of the model

    def place(self, device: torch.device, *, table_device: torch.device) -> Network:
        """Put the model on `device` and the table on `table_device`."""
        self.model.to(device)
        self.table.to(table_device)
        self.device = device
        return self

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B,), on the model's device, of ids (B, F) on the table's."""
        vectors, weights = self.table(ids)
        logits: Tensor = self.model(vectors.to(self.device), weights.to(self.device))
        return logits
