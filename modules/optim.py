"""Optimisers of the feature table.

Each offers `gather` (the up-to-date rows of some ids), `update` (move these rows by their
gradient) and `synchronize` (bring every row up to date, before the table is read as a whole).
Shapes: N features, U distinct ids of a batch, W width of the table.
"""

from __future__ import annotations

import torch
from torch import Tensor


class DenseAdam:
    """torch's own Adam over the whole table, as in the official code.

    Momentum moves the rows that a batch did not use, too, so every step costs the whole table.
    l2: Adam's coupled weight decay; it pulls unused rows to zero as well.
    """

    def __init__(self, table: Tensor, *, lr: float, l2: float = 0.0) -> None:
        self._table = table
        table.grad = torch.zeros_like(table)
        self._adam = torch.optim.Adam([table], lr=lr, weight_decay=l2, fused=True)

    def gather(self, ids: Tensor) -> Tensor:
        """The rows (U, W) of distinct ids (U,), as a leaf that collects their gradient."""
        return self._table[ids].requires_grad_()

    def update(self, ids: Tensor, rows: Tensor) -> None:
        """One step from the gradient of `rows` (U, W), gathered for distinct ids (U,)."""
        gradient = self._table.grad
        assert gradient is not None
        assert rows.grad is not None
        gradient.index_copy_(0, ids, rows.grad)
        self._adam.step()
        gradient.index_fill_(0, ids, 0)

    def synchronize(self) -> None:
        """Every row is up to date after every step."""
