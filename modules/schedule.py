"""Learning rates over a training, as factors of the configured one."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "plateau"]

PLATEAU_FACTOR = 0.1


class LearningRate:
    """The learning rate of every step.

    linear and cosine fall to zero over `total_steps`: lr (1 - u) and lr (1 + cos(pi u)) / 2 (SGDR,
    arXiv 1608.03983) at the share u of the steps after the warm-up. plateau: a tenth after every
    epoch that was no better than the best. All rise linearly over the first `warmup_steps`.
    """

    def __init__(self, lr: float, schedule: Schedule, *, warmup_steps: int, total_steps: int):
        self._lr = lr
        self._schedule = schedule
        self._warmup_steps = warmup_steps
        self._total_steps = max(total_steps, warmup_steps + 1)

    def at(self, step: int) -> float:
        """Of the step after `step` steps."""
        if step < self._warmup_steps:
            return self._lr * (step + 1) / self._warmup_steps
        share = (step - self._warmup_steps) / (self._total_steps - self._warmup_steps)
        if self._schedule == "linear":
            return self._lr * (1 - share)
        if self._schedule == "cosine":
            return self._lr * (1 + math.cos(math.pi * share)) / 2
        return self._lr

    def end_epoch(self, *, improved: bool) -> None:
        """Tell whether the epoch that ended was the best so far."""
        if self._schedule == "plateau" and not improved:
            self._lr *= PLATEAU_FACTOR
