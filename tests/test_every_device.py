"""What the CPU computes, every device of this machine computes: a GPU too, where there is one."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from data.loader import Loader
from data.schema import read_schema
from modules.config import resolve
from modules.models import MODELS, build_model
from modules.optim import DeferredAdam, DenseAdam
from modules.training import Streams, Trainer, build_network, train_member

DEVICES = [torch.device(name) for name in ("cpu", *["cuda"] * torch.cuda.is_available())]
QUICK = ["batch_size=256", "embedding_dim=4", "embedding_init=0.05", "hidden_units=16,8"]


@pytest.fixture(params=DEVICES, ids=str)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients(name: str, device: torch.device) -> None:
    torch.manual_seed(0)
    model = build_model(name, 5, embedding_dim=6)
    vectors, weights = torch.randn(32, 5, 6), torch.randn(32, 5)
    results = []
    for place in (torch.device("cpu"), device):
        placed = copy.deepcopy(model).to(place)
        inputs = [part.to(place).requires_grad_() for part in (vectors, weights)]
        logits = placed(*inputs)
        binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
        gradients = [tensor.grad for tensor in (*inputs, *placed.parameters())]
        results.append([logits, *(gradient for gradient in gradients if gradient is not None)])
    for expected, found in zip(*results, strict=True):
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["deepfm", "autoint"])  # in an MLP, and in attention too
def test_dropout_draws_where_the_model_is(name: str, device: torch.device) -> None:
    model = build_model(name, 5, embedding_dim=6, dropout=0.5).to(device)
    vectors = torch.randn(32, 5, 6, device=device, requires_grad=True)
    weights = torch.randn(32, 5, device=device)
    once, again = model(vectors, weights), model(vectors, weights)
    assert not torch.equal(once, again)
    (gradient,) = torch.autograd.grad(once.sum(), vectors)
    assert gradient.device == vectors.device and gradient.isfinite().all() and gradient.any()
    torch.manual_seed(1)
    drawn = model(vectors, weights)
    torch.manual_seed(1)
    assert torch.equal(drawn, model(vectors, weights))


@pytest.mark.parametrize("optimizer", [DeferredAdam, DenseAdam])
def test_optimisers_of_the_table(
    optimizer: type[DeferredAdam] | type[DenseAdam], device: torch.device
) -> None:
    def moved(place: torch.device) -> Tensor:
        random = torch.Generator().manual_seed(0)
        table = torch.randn(50, 3, generator=random).to(place)
        adam = optimizer(table, lr=0.01)
        for _ in range(300):  # past the step in which the nodes are coarsened
            ids = torch.randperm(50, generator=random)[:8].to(place)
            rows = adam.gather(ids)
            rows.grad = torch.randn(8, 3, generator=random).to(place)
            adam.update(ids, rows)
        adam.synchronize()
        return table.cpu()

    torch.testing.assert_close(moved(device), moved(torch.device("cpu")), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
def test_batches(encoded: Path, device: torch.device, resident: bool, shuffled: bool) -> None:
    def batches(place: torch.device | None, keep: bool) -> list[tuple[Tensor, ...]]:
        order = torch.Generator().manual_seed(1) if shuffled else None
        loader = Loader(
            encoded, "train", batch_size=500, generator=order, device=place, resident=keep
        )
        passes = [list(loader) for _ in range(2)]
        return [tuple(part.cpu() for part in batch) for each in passes for batch in each]

    for expected, found in zip(batches(None, False), batches(device, resident), strict=True):
        assert all(map(torch.equal, expected, found))


@pytest.mark.parametrize(
    "settings", [[], ["resident=true", "table_device=cpu"], ["precision=bf16"]], ids=str
)
def test_members(encoded: Path, tmp_path: Path, device: torch.device, settings: list[str]) -> None:
    def logits(place: torch.device, *more: str) -> np.ndarray:
        config = resolve("toy", "deepfm", overrides=[*QUICK, "lr=1e-3", *more])
        return train_member(config, encoded, tmp_path / f"{place}{more}", place).logits("test")

    np.testing.assert_allclose(
        logits(device, *settings), logits(torch.device("cpu"), "l2=0"), atol=0.02
    )


def test_a_step_waits_for_no_device(encoded: Path, tmp_path: Path, device: torch.device) -> None:
    schema = read_schema(encoded)
    config, streams = resolve("toy", "deepfm", overrides=QUICK), Streams.of(1)
    network = build_network(config, schema, streams).place(device, table_device=device)
    trainer = Trainer(config, schema, encoded, network, streams, tmp_path)
    first, second, *_ = map(
        trainer.prepare, Loader(encoded, "train", batch_size=256, schema=schema)
    )
    trainer.train_step(first)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        loss = trainer.train_step(second)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert loss.device.type == device.type
    assert loss.isfinite()
