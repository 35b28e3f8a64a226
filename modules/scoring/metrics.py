"""AUC and log loss of logits: exact, and fast enough to be asked a thousand times.

On 4M float32 logits both together take well under a tenth of scikit-learn's time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING = 1e-12  # a difference of two metrics that is not larger is none
ROWS_AT_ONCE = 4_096  # so that float64 temporaries, also of 16 merges, stay in the cache


class MetricError(ValueError):
    """Labels or scores that a metric is not defined for."""


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve of float32 or float64 scores (rows,); ties count one half.

    It is the share of (negative, positive) pairs that are ranked right (Mann-Whitney U), counted
    in integers and therefore exact. Raises `MetricError` for NaN scores and for one class.
    """
    _check_lengths(labels, scores)
    positive = np.asarray(labels, dtype=bool)
    return auc_of_classes(scores[positive], scores[~positive])


def auc_of_classes(positives: np.ndarray, negatives: np.ndarray) -> float:
    """`auc` of the scores of clicked rows (P,) and of other rows (N,); sorts both in place."""
    if not len(positives) or not len(negatives):
        rows = len(positives) + len(negatives)
        raise MetricError(
            f"AUC needs both classes, but of {rows} labels {len(positives)} are positive"
        )
    positives.sort()
    negatives.sort()
    if np.isnan(positives[-1]) or np.isnan(negatives[-1]):  # NaN sorts last
        scores = np.concatenate([positives, negatives])
        raise MetricError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN")
    below, tied = count_below(negatives, positives)
    won_twice = 2 * int(below.sum()) + int(tied.sum())
    return won_twice / (2 * len(positives) * len(negatives))


def count_below(values: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of the sorted `values` are below each of the sorted `points`, and how many equal it.

    Only points that are among the values are searched a second time: ties are few.
    """
    below = np.searchsorted(values, points, side="left")
    among = values[np.minimum(below, len(values) - 1)] == points
    tied = np.zeros_like(below)
    tied[among] = np.searchsorted(values, points[among], side="right") - below[among]
    return below, tied


def logloss(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean negative log likelihood, in nats, of labels (rows,) under logits (rows,)."""
    _check_lengths(labels, logits)
    total = 0.0
    for rows in row_chunks(len(labels)):
        total += float(row_loss(labels[rows], logits[rows].astype(np.float64)).sum())
    return total / len(labels)


def logloss_of_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log likelihood of labels (rows,) under probabilities (rows,) of a click."""
    _check_lengths(labels, probabilities)
    likelihood = np.where(labels, probabilities, 1.0 - probabilities)
    return float(-np.log(likelihood).mean())


def row_loss(labels: np.ndarray, logits: Floats) -> Floats:
    """Negative log likelihood of each label (rows,) under float64 logits (..., rows)."""
    losses: Floats = softplus(logits) - labels * logits
    return losses


def softplus(logits: Floats) -> Floats:
    """log(1 + exp(z)) without overflow, (...) -> (...)."""
    positive_part: Floats = np.maximum(logits, 0.0)
    return positive_part + np.log1p(np.exp(-np.abs(logits)))


def sigmoid(logits: np.ndarray) -> Floats:
    """The probabilities of logits, float64 (...) -> (...), without overflow."""
    return sigmoids(logits)[0]


def sigmoids(logits: np.ndarray) -> tuple[Floats, Floats]:
    """p and 1 - p of logits, each as exact as the other, float64 (...) -> (...)."""
    small = np.exp(-np.abs(np.asarray(logits, dtype=np.float64)))
    larger = 1.0 / (1.0 + small)
    smaller = small * larger
    clicks = logits >= 0
    return np.where(clicks, larger, smaller), np.where(clicks, smaller, larger)


def sample_sd(values: Floats) -> float:
    """Sample standard deviation of values (N,); NaN of a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def row_chunks(rows: int) -> Iterator[slice]:
    """Consecutive slices that cover `rows` rows, `ROWS_AT_ONCE` in each."""
    for start in range(0, rows, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, rows))


def _check_lengths(labels: np.ndarray, scores: np.ndarray) -> None:
    if labels.shape != scores.shape or labels.ndim != 1 or not len(labels):
        raise MetricError(
            f"labels of shape {labels.shape} and scores of shape {scores.shape}, where two "
            f"equally long rows of numbers are needed"
        )
