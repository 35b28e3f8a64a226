"""Every tensor of a step lies on its device, checked without such a device.

A fake tensor has a shape, a type and the device that it claims; nothing is computed, but an
operation on tensors of two devices fails as it would on a GPU. Without a CUDA build torch cannot
differentiate what claims to be on CUDA, so the device is one that torch knows by name alone.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import binary_cross_entropy_with_logits

from modules.embedding import DistinctIds, EmbeddingTable
from modules.models import MODELS, build_model
from modules.optim import DeferredAdam, DenseAdam

ROWS, FIELDS, DIM, FEATURES, DISTINCT = 8, 4, 4, 50, 20
GPU = torch.device("fakegpu:0")  # registered in conftest.py


@pytest.mark.parametrize("optimizer", [DeferredAdam, DenseAdam])
@pytest.mark.parametrize("name", MODELS)
def test_forward_backward_and_update_mix_no_devices(
    name: str, optimizer: type[DeferredAdam] | type[DenseAdam]
) -> None:
    with FakeTensorMode():
        with GPU:
            model = build_model(name, FIELDS, embedding_dim=DIM)
        table = EmbeddingTable(
            FEATURES,
            DIM if model.uses_vectors else 0,
            first_order=bool(model.uses_weights),
            generator=torch.Generator(),
        )
        weight = torch.empty(table.weight.shape, device=GPU)
        shapes = (ROWS, FIELDS), (ROWS * FIELDS,), (DISTINCT + 1,)
        places = (torch.empty(*shape, dtype=torch.int32, device=GPU) for shape in shapes)
        batch = DistinctIds(torch.empty(DISTINCT, dtype=torch.int64, device=GPU), *places)
        adam = optimizer(weight, lr=1e-3, l2=1e-5)
        rows = adam.gather(batch.ids)
        logits = model(*table.embed(rows, batch))
        binary_cross_entropy_with_logits(logits, torch.empty(ROWS, device=GPU)).backward()
        adam.update(batch.ids, rows)
        adam.synchronize()
        gradients = [rows.grad, *(parameter.grad for parameter in model.parameters())]
        assert all(gradient is not None and gradient.device == GPU for gradient in gradients)


def test_a_mixed_operation_would_be_noticed() -> None:
    with FakeTensorMode(), pytest.raises(Exception, match="cpu"):
        torch.empty(2, 3, device=GPU) @ torch.empty(3, 2)
