"""What a model costs: parameters and multiply-adds per row.

Matrix products are counted by torch's own flop counter. LR and FM have none, so elementwise
products count one multiply-add an output element and sums one an input element.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modules.embedding import Network

_aten = torch.ops.aten


def count_parameters(network: Network) -> dict[str, int]:
    """Numbers in the feature table, and in the model over it."""
    return {
        "table": network.table.weight.numel(),
        "dense": sum(parameter.numel() for parameter in network.model.parameters()),
    }


def count_macs_per_row(model: nn.Module, num_fields: int, embedding_dim: int) -> int:
    """Multiply-adds that one row costs in evaluation mode."""
    rows = 2  # batch normalisation and squeezes see a real batch
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    vectors = torch.zeros(rows, num_fields, embedding_dim, device=device)
    weights = torch.zeros(rows, num_fields, device=device)
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE) as counter:
        model(vectors, weights)
    model.train(was_training)
    return int(counter.get_total_flops() // 2 // rows)


def _outputs(*_args: Any, out_shape: tuple[int, ...], **_kwargs: Any) -> int:
    return 2 * prod(out_shape)


def _inputs(input_shape: tuple[int, ...], *_args: Any, **_kwargs: Any) -> int:
    return 2 * prod(input_shape)


_ELEMENTWISE = {_aten.mul: _outputs, _aten.pow: _outputs, _aten.sum: _inputs}
