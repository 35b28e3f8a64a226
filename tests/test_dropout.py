"""Dropout: what is kept, and what is done with it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from modules.dropout import Dropout, draw_kept

ROWS = 100_003


def drop(share: float, inputs: Tensor, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    out: Tensor = Dropout(share)(inputs)
    return out


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.999])
def test_each_value_is_dropped_with_its_probability_whatever_its_neighbours(share: float) -> None:
    torch.manual_seed(3)
    kept = draw_kept(torch.empty(ROWS, 4), share).float() - (1 - share)
    sd = (share * (1 - share) / ROWS) ** 0.5
    assert kept.mean(dim=0).abs().max() < 5 * sd  # each of a word's four draws
    for one, other in itertools.combinations(range(4), 2):
        assert (kept[:, one] * kept[:, other]).mean().abs() < 5 * share * (1 - share) / ROWS**0.5
    assert (kept[1:] * kept[:-1]).mean().abs() < 5 * share * (1 - share) / ROWS**0.5


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 0), (7, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_kept_is_scaled(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = torch.randn(shape, dtype=dtype, requires_grad=True)
    out = drop(0.2, inputs)
    assert (out.shape, out.dtype) == (inputs.shape, dtype)
    assert torch.equal(out, torch.where(out == 0, 0, inputs * 1.25))
    (gradient,) = torch.autograd.grad(out.sum(), inputs)
    torch.testing.assert_close(gradient, torch.where(out == 0, 0, 1.25).to(dtype))


def test_a_seed_decides_what_is_kept() -> None:
    inputs = torch.randn(50, 3)
    assert torch.equal(drop(0.5, inputs), drop(0.5, inputs))
    assert not torch.equal(drop(0.5, inputs), drop(0.5, inputs, seed=2))


def test_the_ends() -> None:
    inputs = torch.randn(50, 3)
    assert not drop(1.0, inputs).any()
    assert torch.equal(Dropout(0.5).eval()(inputs), inputs)


def test_in_place_of_torchs_own() -> None:
    """As nn.Dropout in the mean and the spread of what comes out."""
    inputs = torch.ones(ROWS)
    ours, theirs = drop(0.3, inputs), nn.Dropout(0.3)(inputs)
    assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=0.02)
    assert float(ours.std()) == pytest.approx(float(theirs.std()), abs=0.02)
