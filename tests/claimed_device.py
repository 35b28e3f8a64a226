"""Runs a training step of every model on a device that tensors only claim to be on.

A fake tensor has a shape, a type and a device; nothing is computed, but an operation on tensors of
two devices fails as it would on a GPU. A torch built without CUDA cannot differentiate what claims
to be on CUDA, so the device is one that torch knows by name alone. It must be made known before
the first backward of a process, hence a script of its own: `test_devices.py` runs it.
"""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from modules.distinct import DistinctIds
from modules.embedding import EmbeddingTable
from modules.models import MODELS, build_model
from modules.optim import DeferredAdam, DenseAdam

ROWS, FIELDS, DIM, FEATURES, DISTINCT = 8, 4, 4, 50, 20


def step(
    name: str,
    optimizer: type[DeferredAdam] | type[DenseAdam],
    gpu: torch.device,
    table_device: torch.device,
) -> None:
    """Forward, backward, update and synchronisation; raise where devices are mixed."""
    with gpu:
        model = build_model(name, FIELDS, embedding_dim=DIM)
    table = EmbeddingTable(
        FEATURES,
        DIM if model.uses_vectors else 0,
        first_order=bool(model.uses_weights),
        generator=torch.Generator(),
    )
    weight = torch.empty(table.weight.shape, device=table_device)
    shapes = (ROWS, FIELDS), (ROWS * FIELDS,), (DISTINCT + 1,)
    places = (torch.empty(*shape, dtype=torch.int32, device=gpu) for shape in shapes)
    batch = DistinctIds(torch.empty(DISTINCT, dtype=torch.int64, device=table_device), *places)
    adam = optimizer(weight, lr=1e-3, l2=1e-5)
    rows = adam.gather(batch.ids)
    logits = model(*table.embed(rows.to(gpu), batch))
    binary_cross_entropy_with_logits(logits, torch.empty(ROWS, device=gpu)).backward()
    adam.update(batch.ids, rows)
    adam.synchronize()
    assert rows.grad is not None
    assert rows.grad.device == table_device
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.device == gpu


def notices_a_mixed_operation(gpu: torch.device) -> bool:
    try:
        torch.empty(2, 3, device=gpu) @ torch.empty(3, 2)
    except RuntimeError as error:
        return "cpu" in str(error)
    return False


def main() -> None:
    _setup_privateuseone_for_python_backend("fakegpu")
    gpu = torch.device("fakegpu:0")
    with FakeTensorMode():
        assert notices_a_mixed_operation(gpu)
        for name in MODELS:
            for optimizer in (DeferredAdam, DenseAdam):
                step(name, optimizer, gpu, table_device=gpu)
                step(name, optimizer, gpu, table_device=torch.device("cpu"))
                print(f"{name} {optimizer.__name__}: as asked", flush=True)


if __name__ == "__main__":
    main()
