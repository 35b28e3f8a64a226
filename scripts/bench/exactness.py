"""How exact the deferred Adam of the feature table is.

    python scripts/bench/exactness.py

Largest error relative to the largest parameter, against a dense Adam in float64, ours and that of
torch's own dense Adam in float32 on the same gradients. One JSON line a figure; a ratio above 1
means that ours is nearer. The worst of all looks within a range of steps is printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.optim import DeferredAdam

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


SCHEDULES: dict[str, tuple[float, Callable[[float, int], float]]] = {
    "lr 1e-3 with drops": (1e-3, drops),
    "lr 1e-2": (1e-2, lambda lr, _: lr),
}
STEPS = 3000


def is_looked_at(step: int) -> bool:
    """Every step of the first hundred, where bias correction changes fastest, then every 50th."""
    return step < 100 or step % 50 == 49


def main() -> None:
    for name, (lr, schedule) in SCHEDULES.items():
        race = Race(seed=0, lr=lr)
        looks: dict[int, tuple[float, float]] = {}
        for step in range(STEPS):
            race.advance(schedule(lr, step))
            if is_looked_at(step):
                looks[step] = race.errors()
        for first, last in ((0, 100), (100, STEPS)):
            ours, torchs = (
                max(errors[who] for step, errors in looks.items() if first <= step < last)
                for who in (0, 1)
            )
            row = {
                "name": f"deferred_adam/{name}/steps {first + 1} to {last}",
                "ours": ours,
                "reference": torchs,
                "ratio": torchs / ours,
                "unit": "largest error / largest parameter",
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
