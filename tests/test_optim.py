"""The deferred Adam against a dense one in float64, and torch's own in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from modules.distinct import find_distinct
from modules.embedding import EmbeddingTable
from modules.optim import DeferredAdam, DenseAdam
from scripts.bench.exactness import ROWS, SCHEDULES, STEPS, Race, is_looked_at


@pytest.mark.parametrize(("lr", "schedule"), SCHEDULES.values())
def test_errors_are_no_larger_than_twice_those_of_float32(
    lr: float, schedule: Callable[[float, int], float]
) -> None:
    race = Race(seed=0, lr=lr)
    for step in range(STEPS):
        race.advance(schedule(lr, step))
        if is_looked_at(step):
            ours, torchs = race.errors()
            # 1e-7 is a rounding of one float32 operation.
            assert ours <= 2 * torchs + 1e-7, f"step {step}: {ours:.1e}, torch {torchs:.1e}"
    assert race.errors()[0] < 1e-5


def test_other_betas_and_no_momentum_at_all() -> None:
    for betas in ((0.8, 0.99), (0.9, 0.99), (0.0, 0.999), (0.95, 0.9999)):
        race = Race(seed=1, lr=1e-3, betas=betas)
        for _ in range(1200):
            race.advance(1e-3)
        ours, torchs = race.errors()
        assert ours <= 2 * torchs + 1e-7, betas


@pytest.mark.parametrize("at", [3, 150, 700])
def test_saved_and_restored_or_brought_up_to_date_in_the_middle(at: int) -> None:
    race = Race(seed=2, lr=1e-3)
    for step in range(1000):
        race.advance(1e-3)
        if step == at:
            race.deferred.synchronize()
            torch.testing.assert_close(
                race.table, race.deferred.gather(torch.arange(ROWS)).detach()
            )
        if step == at + 10:
            state = race.deferred.state_dict()
            fresh = DeferredAdam(race.table, lr=1e-3)
            fresh.load_state_dict(state)
            race.deferred = fresh
    ours, torchs = race.errors()
    assert ours <= 2 * torchs + 1e-7


def test_the_state_is_that_of_torch_adam() -> None:
    race = Race(seed=3, lr=1e-3)
    for _ in range(400):
        race.advance(1e-3)
    ours, theirs = race.deferred.state_dict(), race.adams[1].state_dict()["state"][0]
    assert ours["step"] == theirs["step"]
    for key in ("exp_avg", "exp_avg_sq"):
        exact = theirs[key]
        error = (ours[key].double() - exact).abs() / exact.abs().clamp(min=1e-20)
        assert error.max() < 1e-4, key


def test_rows_never_used_never_move_and_nothing_else_is_written() -> None:
    table = torch.ones(10, 3)
    optimizer = DeferredAdam(table, lr=0.1)
    ids = torch.tensor([7, 2])
    rows = optimizer.gather(ids)
    rows.grad = torch.ones(2, 3)
    optimizer.update(ids, rows)
    torch.testing.assert_close(table[ids], torch.full((2, 3), 0.9))
    optimizer.gather(torch.arange(10))  # a look changes nothing
    rest = torch.tensor([i for i in range(10) if i not in (2, 7)])
    assert (table[rest] == 1).all()


@pytest.mark.parametrize("make", [DeferredAdam, DenseAdam])
def test_ids_that_repeat_in_a_batch_count_once_with_their_summed_gradient(
    make: type[DeferredAdam] | type[DenseAdam],
) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, (50, 3), generator=generator) + torch.tensor([0, 6, 12])
    table = EmbeddingTable(18, 4, first_order=True, generator=generator, init=0.5)
    dense = table.weight.clone().requires_grad_()
    adam = torch.optim.Adam([dense], lr=0.1)
    optimizer = make(table.weight, lr=0.1)
    for _ in range(3):
        batch = find_distinct(ids, 18)
        rows = optimizer.gather(batch.ids)
        vectors, weights = table.embed(rows, batch)
        (vectors.prod(dim=1).sum() + weights.square().sum()).backward()
        optimizer.update(batch.ids, rows)
        embedded = dense[ids]
        adam.zero_grad()
        (embedded[..., :4].prod(dim=1).sum() + embedded[..., 4].square().sum()).backward()
        adam.step()
    optimizer.synchronize()
    torch.testing.assert_close(table.weight, dense.detach(), atol=1e-5, rtol=1e-5)


def test_distinct_ids_are_those_of_torch_unique() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 7, 500):
        ids = torch.randint(1000, (rows, 4), generator=generator)
        found = find_distinct(ids, 1000)
        assert torch.equal(found.ids, ids.unique())
        assert torch.equal(found.ids[found.place], ids)
        flat, segments = ids.reshape(-1), found.offsets.diff()
        assert torch.equal(flat[found.order], found.ids.repeat_interleave(segments))
        assert torch.equal(found.order.sort().values, torch.arange(ids.numel(), dtype=torch.int32))


def test_an_id_out_of_range_is_refused() -> None:
    for wrong in (-1, 10):
        with pytest.raises(IndexError, match="rows 0 to 9"):
            find_distinct(torch.tensor([[3, 4], [3, wrong]]), 10)
