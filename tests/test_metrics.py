"""AUC and log loss against scikit-learn and against the definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from modules.scoring import metrics
from modules.scoring.metrics import MetricError, auc, logloss, logloss_of_probabilities, sigmoid

ROWS = 20_000  # more than one chunk


def planted(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Labels uint8 (rows,) and the logits float32 (rows,) that they were drawn with."""
    random = np.random.default_rng(0)
    logits = random.normal(-1.0, 2.0, rows).astype(np.float32)
    return (random.random(rows) < expit(logits)).astype(np.uint8), logits


def test_planted_rows_fill_several_chunks() -> None:
    assert ROWS > 2 * metrics.ROWS_AT_ONCE and ROWS % metrics.ROWS_AT_ONCE


@pytest.mark.parametrize(
    "scores",
    [
        lambda z: z,
        lambda z: z.astype(np.float64),
        lambda z: np.round(z, 1),  # many ties
        lambda z: np.where(z > 0, np.float32(1), np.float32(0)),
        lambda z: np.zeros_like(z),
        lambda z: np.where(z > 0, np.float32(0.0), np.float32(-0.0)),  # equal numbers
        lambda z: np.float32(1) + z * np.finfo(np.float32).eps,  # neighbouring floats
        lambda z: z * np.float32(1e37),
        lambda z: 1 + z.astype(np.float64) * 1e-15,  # told apart in float64 only
        lambda z: -z,
    ],
)
def test_auc_is_scikit_learns(scores: Callable[[np.ndarray], np.ndarray]) -> None:
    labels, logits = planted()
    assert auc(labels, scores(logits)) == pytest.approx(
        roc_auc_score(labels, scores(logits)), abs=1e-12
    )


def test_auc_counts_pairs() -> None:
    labels = np.array([1, 0, 1, 0, 0], np.uint8)
    scores = np.array([3, 1, 1, 4, -2], np.float32)
    # pairs won, per positive: 3 beats 1 and -2; 1 ties with 1 and beats -2
    assert auc(labels, scores) == (2 + 1.5) / 6


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, bool])
def test_labels_of_any_kind(kind: type) -> None:
    labels, logits = planted()
    assert auc(labels.astype(kind), logits) == auc(labels, logits)
    assert logloss(labels.astype(kind), logits) == logloss(labels, logits)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1, 1], [1.0, 2.0, 3.0], "of 3 labels 3 are positive"),
        ([0, 0], [1.0, 2.0], "of 2 labels 0 are positive"),
        ([0, 1, 1], [np.nan, 2.0, 3.0], "1 of 3 scores are NaN"),
        ([0, 1, 1], [0.0, np.nan, np.nan], "2 of 3 scores are NaN"),
        ([0, 1], [1.0, 2.0, 3.0], r"\(2,\).*\(3,\)"),
        ([], [], r"\(0,\)"),
    ],
)
def test_auc_refuses(labels: list[int], scores: list[float], message: str) -> None:
    with pytest.raises(MetricError, match=message):
        auc(np.array(labels, np.uint8), np.array(scores, np.float32))


def test_logloss_is_scikit_learns() -> None:
    labels, logits = planted()
    probabilities = expit(logits.astype(np.float64))
    expected = log_loss(labels, probabilities)
    assert logloss(labels, logits) == pytest.approx(expected, abs=1e-12)
    assert logloss_of_probabilities(labels, probabilities) == pytest.approx(expected, abs=1e-12)


def test_logloss_of_certain_predictions_is_finite() -> None:
    labels = np.array([1, 0, 0, 1], np.uint8)
    logits = np.array([-800, 800, -800, 800], np.float32)  # wrong, wrong, right, right
    assert logloss(labels, logits) == 400.0


def test_logloss_refuses_other_lengths() -> None:
    with pytest.raises(MetricError, match=r"\(2,\).*\(1,\)"):  # would broadcast
        logloss(np.array([0, 1]), np.zeros(1, np.float32))


def test_sigmoid_is_exact_in_both_tails() -> None:
    logits = np.array([-800, -40, -1e-9, 0, 0.3, 40, 800], np.float32)
    with np.errstate(over="raise"):
        np.testing.assert_allclose(sigmoid(logits), expit(logits.astype(np.float64)), rtol=1e-15)
