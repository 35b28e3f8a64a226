"""Matrix products by oneDNN: the same numbers, for every shape and layout, in every model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modules import matrix_products
from modules.models import MODELS

ROOT = Path(__file__).parents[1]
SHAPES = [(1024, 64, 64), (129, 780, 256), (2, 780, 4096), (40000, 16, 16), (256, 20000, 128)]


def matrices(rows: int, inner: int, columns: int) -> list[tuple[Tensor, Tensor]]:
    """Two matrices, as they are, stored by columns, and as a part of wider ones."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, inner, generator=generator)
    right = torch.randn(inner, columns, generator=generator)
    by_columns = left.T.contiguous().T, right.T.contiguous().T
    parts = torch.cat([left, left], dim=1)[:, inner:], torch.cat([right, right], dim=1)[:, :columns]
    return [(left, right), by_columns, (by_columns[0], right), parts]


@pytest.mark.parametrize("shape", [*SHAPES, (64, 64, 64), (1024, 128, 1), (0, 8, 8)])
def test_products_are_those_of_float64(shape: tuple[int, int, int]) -> None:
    for left, right in matrices(*shape):
        exact = left.double() @ right.double()
        bias = torch.randn(shape[2], generator=torch.Generator().manual_seed(1))
        close = {"atol": 1e-5 * shape[1] ** 0.5, "rtol": 1e-5}
        product = matrix_products._mm(left, right)
        torch.testing.assert_close(product.double(), exact, **close)
        assert product.is_contiguous()
        for whole in (bias, bias.expand(shape[0], -1), torch.randn(shape[0], 1)):
            added = matrix_products._addmm(whole, left, right)
            torch.testing.assert_close(added.double(), exact + whole, **close)
        scaled = matrix_products._addmm(bias, left, right, beta=0.5, alpha=2)
        torch.testing.assert_close(scaled.double(), 2 * exact + 0.5 * bias, **close)


def test_large_products_are_onednns_and_small_or_other_ones_torchs_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Tensor] = []
    real = matrix_products._by_onednn

    def watched(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        calls.append(left)
        return real(left, right, bias)

    monkeypatch.setattr(matrix_products, "_by_onednn", watched)
    left, right = torch.ones(512, 128), torch.ones(128, 256)
    matrix_products._mm(left, right)
    matrix_products._addmm(torch.ones(256), left, right)
    assert len(calls) == 2
    matrix_products._mm(left.double(), right.double())
    matrix_products._mm(left.bfloat16(), right.bfloat16())
    matrix_products._mm(left[:4], right[:, :16])
    matrix_products._mm(left, torch.ones(128, 512)[:, :256])  # oneDNN would take seconds
    matrix_products._mm(torch.ones(512, 256)[:, :128], right)
    matrix_products._mm(torch.ones(40000, 96).T, torch.ones(40000, 16))  # a copy would cost more
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("name", "avx512", "slow"),
    [
        ("AMD EPYC 9B45", True, True),
        ("AMD EPYC 7763", False, False),
        ("Intel(R) Xeon(R) Processor @ 2.80GHz", True, False),
        (None, None, False),  # another architecture says less
    ],
)
def test_only_amds_processors_with_avx512_need_them(
    name: str | None, avx512: bool | None, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {} if name is None else {"cpu_name": name, "avx512_f": avx512}
    replaced: list[bool] = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: said)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(matrix_products, "replace_matrix_products", lambda: replaced.append(True))
    matrix_products.use_fast_matrix_products()
    assert bool(replaced) == slow


@pytest.mark.parametrize("shapes", [((3000, 400), (500, 600)), ((400,), (400, 600))])
def test_matrices_that_do_not_fit_are_refused_as_by_torch(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    left, right = (torch.ones(shape) for shape in shapes)
    with pytest.raises(RuntimeError) as torchs:
        torch.mm(left, right)
    with pytest.raises(RuntimeError) as ours:
        matrix_products._mm(left, right)
    assert str(ours.value) == str(torchs.value)


# Logits and gradients of every model, by torch's own products and then by oneDNN's. In a process of
# its own, as the products stay replaced.
BEFORE_AND_AFTER = """
import json, torch
from torch.utils.flop_counter import FlopCounterMode
from modules import matrix_products
from modules.models import MODELS, build_model

torch.set_num_threads(1)
torch.manual_seed(0)
vectors = (0.1 * torch.randn(512, 24, 16)).requires_grad_()
weights = torch.randn(512, 24).requires_grad_()

def build(name):
    settings = {} if name in ("lr", "fm") else {"hidden_units": (256, 128)}
    return build_model(name, 24, embedding_dim=16, **settings)

def run(model):
    inputs = [p for p in (*model.parameters(), vectors, weights)]
    for tensor in inputs:
        tensor.grad = None
    with FlopCounterMode(display=False) as counter:
        logits = model(vectors, weights)
        logits.square().mean().backward()
    gradients = [tensor.grad for tensor in inputs if tensor.grad is not None]
    return [logits.detach(), *gradients], counter.get_total_flops()

models = {name: build(name) for name in MODELS}
before = {name: run(model) for name, model in models.items()}
matrix_products.replace_matrix_products()
calls, real = [], matrix_products._by_onednn
matrix_products._by_onednn = lambda *args: calls.append(1) or real(*args)
found = {}
for name, model in models.items():
    calls.clear()
    after = run(model)
    found[name] = len(calls)
    assert after[1] == before[name][1], name
    torch.testing.assert_close(after[0][0], before[name][0][0], atol=1e-5, rtol=1e-4, msg=name)
    for ours, torchs in zip(after[0], before[name][0], strict=True):
        # Rounding may turn a ReLU on or off for one row of the 512.
        assert (ours - torchs).norm() < 5e-2 * torchs.norm(), name
    assert all(map(torch.equal, after[0], run(model)[0])), name
    with torch.inference_mode():
        logits = model(vectors, weights)
        torch.testing.assert_close(logits, before[name][0][0], atol=1e-5, rtol=1e-4, msg=name)
print(json.dumps(found))
"""


def test_every_model_computes_the_same_with_them_and_the_same_again() -> None:
    command = [sys.executable, "-W", "error", "-c", BEFORE_AND_AFTER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout)
    assert [name for name in MODELS if calls[name] == 0] == ["lr", "fm"]
