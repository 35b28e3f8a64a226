"""The learning rate of every step."""

from __future__ import annotations

import pytest

from modules.schedule import LearningRate


def rates(schedule: str, warmup_steps: int = 0, total_steps: int = 4) -> list[float]:
    rate = LearningRate(2.0, schedule, warmup_steps=warmup_steps, total_steps=total_steps)  # type: ignore[arg-type]
    return [rate.at(step) for step in range(total_steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [2, 2, 2, 2]),
        ("plateau", [2, 2, 2, 2]),
        ("linear", [2, 1.5, 1, 0.5]),
        ("cosine", [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5]),
    ],
)
def test_a_schedule_is_its_formula(schedule: str, expected: list[float]) -> None:
    assert rates(schedule) == pytest.approx(expected)


def test_all_schedules_begin_after_the_warm_up() -> None:
    assert rates("constant", 2) == pytest.approx([1, 2, 2, 2])
    assert rates("linear", 2) == pytest.approx([1, 2, 2, 1])
    assert rates("cosine", 4) == pytest.approx([0.5, 1, 1.5, 2])  # nothing is left to fall


def test_only_plateau_follows_the_epochs() -> None:
    for schedule, after in (("constant", 2.0), ("plateau", 0.2)):
        rate = LearningRate(2.0, schedule, warmup_steps=0, total_steps=4)  # type: ignore[arg-type]
        rate.end_epoch(improved=True)
        assert rate.at(1) == 2.0
        rate.end_epoch(improved=False)
        assert rate.at(2) == pytest.approx(after)
