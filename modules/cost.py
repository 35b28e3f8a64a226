"""What a model costs: parameters, multiply-adds per row, and latency.

Matrix products are counted by torch's own flop counter. LR and FM have none, so elementwise
products count one multiply-add an output element and sums one an input element.
"""

from __future__ import annotations

import time
from math import prod
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from data.schema import Schema
from modules.embedding import Network

LATENCY_ROWS = 4096
_REPEATS, _SECONDS = 15, 1.0  # of a measured latency: at most so many, and about so long

_aten = torch.ops.aten


def count_parameters(network: Network) -> dict[str, int]:
    """Numbers in the feature table, and in the model over it."""
    return {
        "table": network.table.weight.numel(),
        "dense": sum(parameter.numel() for parameter in network.model.parameters()),
    }


def count_macs_per_row(model: nn.Module, num_fields: int, embedding_dim: int) -> int:
    """Multiply-adds that one more row costs in evaluation mode.

    What a batch costs once, whatever its size (xDeepFM and DCN join weights first), is left out.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    was_training = model.training
    model.eval()
    few, more = (_count_macs(model, rows, num_fields, embedding_dim, device) for rows in (2, 3))
    model.train(was_training)
    return more - few


def measure_latency_ms(network: Network, schema: Schema) -> float:
    """Median milliseconds from 4096 rows of ids to their logits, the table's look-up included.

    By one worker, on the network's device and with torch's present number of threads. The ids are
    drawn uniformly from each field, which is harder on the caches than a real log.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack(
        [
            torch.randint(own.offset, own.offset + own.size, (LATENCY_ROWS,), generator=generator)
            for own in schema.fields
        ],
        dim=1,
    ).to(network.table.weight.device)
    network.eval()
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(2):  # the first calls choose kernels and allocate
            network(ids)
        while len(times) < 3 or (len(times) < _REPEATS and sum(times) < _SECONDS):
            _wait_for(network.device)
            started = time.perf_counter()
            network(ids)
            _wait_for(network.device)
            times.append(time.perf_counter() - started)
    return 1000 * median(times)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _count_macs(
    model: nn.Module, rows: int, num_fields: int, embedding_dim: int, device: torch.device
) -> int:
    vectors = torch.zeros(rows, num_fields, embedding_dim, device=device)
    weights = torch.zeros(rows, num_fields, device=device)
    counter = FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE)
    with torch.enable_grad(), counter:  # without, it fails on a parameter given to a module
        model(vectors, weights)
    return int(counter.get_total_flops()) // 2


def _outputs(*_args: Any, out_shape: tuple[int, ...], **_kwargs: Any) -> int:
    return 2 * prod(out_shape)


def _inputs(input_shape: tuple[int, ...], *_args: Any, **_kwargs: Any) -> int:
    return 2 * prod(input_shape)


_ELEMENTWISE = {
    _aten.mul: _outputs,
    _aten.pow: _outputs,
    _aten.sum: _inputs,
    _aten.linalg_vector_norm: _inputs,
}
