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
    matrix_products._mm(torch.ones(40000, 96).T, torch.ones(40000, 16))  # a copy would cost more
    assert len(calls) == 2


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


# Logits and gradients of a model of the usual size, before and after; the products are counted.
BEFORE_AND_AFTER = """
import json, sys, torch
from torch.utils.flop_counter import FlopCounterMode
from modules import matrix_products
from modules.models import build_model

torch.set_num_threads(1)
torch.manual_seed(0)
model = build_model(sys.argv[1], 24, embedding_dim=16, **json.loads(sys.argv[2]))
vectors = (0.1 * torch.randn(512, 24, 16)).requires_grad_()
weights = torch.randn(512, 24).requires_grad_()

def run():
    model.zero_grad()
    vectors.grad = weights.grad = None
    with FlopCounterMode(display=False) as counter:
        logits = model(vectors, weights)
        logits.square().mean().backward()
    tensors = [logits.detach(), *(p.grad for p in (*model.parameters(), vectors, weights))]
    return [t for t in tensors if t is not None], counter.get_total_flops()

before, flops = run()
matrix_products.replace_matrix_products()
calls = []
real = matrix_products._by_onednn
matrix_products._by_onednn = lambda *args: calls.append(1) or real(*args)
after, flops_after = run()
assert flops_after == flops
for a, b in zip(before, after, strict=True):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
with torch.inference_mode():
    torch.testing.assert_close(model(vectors, weights), before[0], atol=1e-5, rtol=1e-4)
again, _ = run()
assert all(map(torch.equal, after, again))
print(len(calls))
"""


@pytest.mark.parametrize("name", MODELS)
def test_every_model_computes_the_same_with_them(name: str) -> None:
    settings = {} if name in ("lr", "fm") else {"hidden_units": [256, 128]}
    script = [BEFORE_AND_AFTER, name, json.dumps(settings)]
    command = [sys.executable, "-W", "error", "-c", *script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 0) == (name not in ("lr", "fm"))
