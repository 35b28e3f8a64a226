"""Paired intervals against the definition, another implementation and a bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import roc_auc_score

from modules.scoring.metrics import MetricError, auc, logloss
from modules.scoring.significance import Z95, auc_difference, logloss_gain, profile
from tests.fake_runs import FakeLog

# The example of DeLong et al. 1988, as the manual of SAS/STAT lists it (PROC LOGISTIC, "Comparing
# ROC Curves"): 43 patients' albumin, total protein, K-G score, and whether surgery helped.
PATIENTS = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1   3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1   3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0   4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1   2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1   2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""


def planted(rows: int = 300, decimals: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two contenders' logits on the same rows."""
    log = FakeLog(5, rows={"train": 0, "val": 10, "test": rows})
    better, worse = (log.predictions(noise)["test"].round(decimals) for noise in (0.3, 1.2))
    return log.labels["test"], better, worse


def naive_delong(labels: np.ndarray, *scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUCs and their covariance matrix by DeLong et al. 1988, equations 1 to 7, pair by pair."""
    wins, losses = [], []
    for score in scores:
        x, y = score[labels == 1], score[labels == 0]
        psi = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])
        wins.append(psi.mean(axis=1))
        losses.append(psi.mean(axis=0))
    covariance = np.cov(wins) / len(wins[0]) + np.cov(losses) / len(losses[0])
    return np.mean(wins, axis=1), covariance


@pytest.mark.parametrize("decimals", [6, 1, 0])  # 0: nearly all rows are tied
def test_auc_difference_is_delongs(decimals: int) -> None:
    labels, better, worse = planted(decimals=decimals)
    aucs, covariance = naive_delong(labels, better, worse)
    difference = auc_difference(profile([better], labels), profile([worse], labels))
    assert difference.value == pytest.approx(aucs[0] - aucs[1], abs=1e-12)
    contrast = np.array([1, -1])
    assert difference.error == pytest.approx(np.sqrt(contrast @ covariance @ contrast), abs=1e-12)
    assert difference.high - difference.low == pytest.approx(2 * Z95 * difference.error)


def test_auc_differences_are_those_of_another_implementation() -> None:
    """Expected: github.com/yandexdataschool/roc_comparison, by the midranks of Sun and Xu."""
    albumin, protein, score, helped = np.array(PATIENTS.split(), np.float32).reshape(-1, 4).T
    of_score = profile([-score], helped)  # a low score is the good one
    assert of_score.aucs[0] == pytest.approx(0.72580645, abs=1e-8)
    for values, auc_of_values, difference, error in (
        (albumin, 0.73655914, 0.01075269, 0.09534362),
        (protein, 0.64784946, -0.07795699, 0.10460959),
    ):
        one = profile([values], helped)
        assert one.aucs[0] == pytest.approx(auc_of_values, abs=1e-8)
        found = auc_difference(one, of_score)
        assert (found.value, found.error) == pytest.approx((difference, error), abs=1e-8)


def test_difference_of_mean_aucs_is_delongs_for_that_contrast() -> None:
    labels, better, worse = planted()
    third = FakeLog(9, rows={"train": 0, "val": 10, "test": 300}).predictions(2.0)["test"]
    aucs, covariance = naive_delong(labels, better, third, worse)
    contrast = np.array([0.5, 0.5, -1])
    mean = profile([better, third], labels)
    difference = auc_difference(mean, profile([worse], labels))
    assert difference.value == pytest.approx(contrast @ aucs, abs=1e-12)
    assert difference.error == pytest.approx(np.sqrt(contrast @ covariance @ contrast), abs=1e-12)
    assert mean.aucs == pytest.approx(aucs[:2], abs=1e-12)


def test_auc_difference_varies_as_much_as_a_bootstrap_says() -> None:
    labels, better, worse = planted(1500)
    random = np.random.default_rng(0)
    differences = []
    for _ in range(400):
        rows = random.integers(0, len(labels), len(labels))
        differences.append(auc(labels[rows], better[rows]) - auc(labels[rows], worse[rows]))
    error = auc_difference(profile([better], labels), profile([worse], labels)).error
    assert np.std(differences) == pytest.approx(error, rel=0.15)  # sd of 400: 3.5 %


def test_a_contender_does_not_differ_from_itself() -> None:
    labels, better, _ = planted()
    mine = profile([better], labels)
    assert (auc_difference(mine, mine).value, auc_difference(mine, mine).error) == (0, 0)
    assert logloss_gain(mine, mine).value == 0


def test_the_order_of_predictions_changes_nothing() -> None:
    labels, better, worse = planted()
    one, other = profile([better, worse], labels), profile([worse, better], labels)
    assert auc_difference(one, other).value == pytest.approx(0, abs=1e-15)


def test_profile_has_the_metrics() -> None:
    labels, better, worse = planted()
    mean = profile([better, worse, worse], labels)
    assert mean.aucs == pytest.approx([roc_auc_score(labels, z) for z in (better, worse, worse)])
    assert mean.loglosses == pytest.approx([logloss(labels, z) for z in (better, worse, worse)])
    assert mean.wins.mean() == pytest.approx(mean.losses.mean()) == pytest.approx(mean.aucs.mean())


def test_logloss_gain_is_the_paired_t_statistic() -> None:
    labels, better, worse = planted()
    one, other = profile([better], labels), profile([worse], labels)
    gain = logloss_gain(one, other)
    assert gain.value == pytest.approx(logloss(labels, worse) - logloss(labels, better))
    assert gain.value / gain.error == pytest.approx(ttest_rel(other.nats, one.nats).statistic)


def test_one_class_is_refused() -> None:
    with pytest.raises(MetricError, match="1 are positive and 2 are not"):
        profile([np.zeros(3, np.float32)], np.array([0, 1, 0], np.uint8))
