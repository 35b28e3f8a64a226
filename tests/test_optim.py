"""The deferred Adam against a dense one in float64, and torch's own in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modules.embedding import DistinctFinder, EmbeddingTable
from modules.optim import DeferredAdam, DenseAdam

ROWS, WIDTH = 240, 4
# Every step, every third, .. every thousandth, only the first, never: a sixth of the rows each,
# and every other row of the last sixth has no gradient at all.
PERIODS = torch.tensor([1, 3, 20, 300, 1000, 10**9])[torch.arange(ROWS) % 6]
OFTEN = torch.arange(ROWS) % 7


class Race:
    """The same gradients for three optimisers: deferred, torch's in float32 and in float64."""

    def __init__(self, seed: int, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.lr = lr
        start = 0.01 * self.normal(ROWS, WIDTH)
        # From one gradient scale of 1 down to one of 1e-9, near Adam's epsilon.
        self.scale = 10 ** (-9 * torch.rand(ROWS, 1, generator=self.random, dtype=torch.float64))
        self.dense = {
            dtype: start.to(dtype).requires_grad_() for dtype in (torch.float32, torch.float64)
        }
        self.adams = [
            torch.optim.Adam([table], lr=lr, betas=betas) for table in self.dense.values()
        ]
        self.table = start.float()
        self.deferred = DeferredAdam(self.table, lr=lr, betas=betas)
        self.step = 0

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def advance(self, lr: float) -> None:
        """One step at learning rate `lr`."""
        used = self.step % PERIODS == OFTEN % PERIODS.clamp(max=7)
        used[5::12] = self.step == 0
        used[11::12] = False
        ids = used.nonzero()[:, 0]
        gradient = ((self.normal(len(ids), WIDTH) + 0.3) * self.scale[ids]).float()
        for adam, (dtype, table) in zip(self.adams, self.dense.items(), strict=True):
            table.grad = torch.zeros(ROWS, WIDTH, dtype=dtype).index_copy(
                0, ids, gradient.to(dtype)
            )
            adam.param_groups[0]["lr"] = lr
            adam.step()
        self.deferred.lr = lr
        rows = self.deferred.gather(ids)
        rows.grad = gradient
        self.deferred.update(ids, rows)
        self.step += 1

    def errors(self) -> tuple[float, float]:
        """Largest error of the deferred and of torch's float32 table, by the largest parameter.

        The rows at rest are read without writing them back.
        """
        exact = self.dense[torch.float64].detach()
        ours = self.deferred.gather(torch.arange(ROWS)).detach()
        scale = exact.abs().max()
        torchs = self.dense[torch.float32].detach()
        return tuple(
            float((table.double() - exact).abs().max() / scale) for table in (ours, torchs)
        )  # type: ignore[return-value]


def drops(lr: float, step: int) -> float:
    """A learning rate with drops and rises."""
    return lr * (0.1 if step > 1500 else 1.0) * (0.3 if step % 500 > 400 else 1.0)


@pytest.mark.parametrize(("lr", "schedule"), [(1e-3, drops), (1e-2, lambda lr, _: lr)])
def test_errors_are_no_larger_than_twice_those_of_float32(
    lr: float, schedule: Callable[[float, int], float]
) -> None:
    race = Race(seed=0, lr=lr)
    for step in range(3000):
        race.advance(schedule(lr, step))
        if step < 100 or step % 50 == 49:
            ours, torchs = race.errors()
            # 1e-7 is a rounding of one float32 operation.
            assert ours <= 2 * torchs + 1e-7, f"step {step}: {ours:.1e}, torch {torchs:.1e}"
    assert race.errors()[0] < 1e-5


def test_other_betas_and_no_momentum_at_all() -> None:
    for betas in ((0.8, 0.99), (0.0, 0.999), (0.95, 0.9999)):
        race = Race(seed=1, lr=1e-3, betas=betas)
        for _ in range(600):
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
    optimizer, finder = make(table.weight, lr=0.1), DistinctFinder(18)
    for _ in range(3):
        batch = finder.find(ids)
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
    finder = DistinctFinder(1000)
    for rows in (1, 7, 500):
        ids = torch.randint(1000, (rows, 4), generator=generator)
        found = finder.find(ids)
        assert torch.equal(found.ids.sort().values, ids.unique())
        assert torch.equal(found.ids[found.place], ids)
        flat, segments = ids.reshape(-1), found.offsets.diff()
        assert torch.equal(flat[found.order], found.ids.repeat_interleave(segments))
        assert torch.equal(found.order.sort().values, torch.arange(ids.numel(), dtype=torch.int32))
