"""The scaling curve and calibration on figures whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from modules.scoring.calibration import expected_calibration_error, reliability
from modules.scoring.curve import Curve, curve_table, fit_curve
from modules.scoring.metrics import sigmoid


def test_fit_finds_a_planted_curve() -> None:
    k = np.arange(1, 8)
    curve = fit_curve(k, 0.44 + 0.012 / k)
    assert (curve.limit, curve.scale) == pytest.approx((0.44, 0.012))
    assert curve.residual < 1e-15
    bent = fit_curve(k, 0.44 + 0.012 / k + np.where(k == 3, 0.001, 0))
    assert 1e-4 < bent.residual < 1e-3


def test_enough_is_where_less_than_the_noise_is_left() -> None:
    curve = Curve(limit=0.44, scale=0.012, residual=0.0)
    assert curve.enough(0.0031) == 4  # 0.012 / 4 = 0.0030 is left, at 3 it is 0.0040
    assert curve.at(4) - curve.limit == pytest.approx(0.003)
    assert curve.enough(0.02) == 1
    assert curve.enough(0.0) == math.inf
    assert Curve(0.44, -0.001, 0.0).enough(0.0) == 1  # merging harms
    assert Curve(0.44, 1e-16, 0.0).enough(1e-17) == 1  # rounding


def test_table_fits_groups_with_two_sizes_in_one_pool() -> None:
    lines = [("fm", k, pool, 0.4 + 0.01 * s / k) for k in (1, 2, 3) for pool, s in POOL_SCALES]
    merged = pd.DataFrame([*lines, ("lr", 1, "prob", 0.5)], columns=COLUMNS)
    table = curve_table(merged, "prob", {"fm": 0.003, "lr": 0.001})
    assert list(table["group"]) == ["fm"] and table["sizes"].item() == 3
    assert table["scale"].item() == pytest.approx(0.02)
    assert table["enough"].item() == 7


POOL_SCALES = (("prob", 2), ("logit", 1))
COLUMNS = ["group", "k", "pool", "test_logloss"]


def test_calibrated_predictions_have_a_small_error_and_biased_ones_their_bias() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(-1, 1, 60_000)
    labels = (random.random(60_000) < sigmoid(logits)).astype(np.uint8)
    table = reliability(labels, logits)
    assert expected_calibration_error(table) < 0.006  # a bin's share has sd 0.007 at most
    assert table["rows"].sum() == 60_000 and table["rows"].max() - table["rows"].min() <= 1
    assert table["predicted"].is_monotonic_increasing
    certain = reliability(np.ones(100, np.uint8), np.zeros(100))
    assert expected_calibration_error(certain) == pytest.approx(0.5)


def test_rows_of_one_prediction_are_alike_whatever_their_order() -> None:
    logits = np.repeat(np.log([1 / 4, 2 / 3]), 500)  # probabilities of 0.2 and 0.4
    labels = np.zeros(1000, np.uint8)
    labels[:100] = labels[-200:] = 1
    for order in (np.arange(1000), np.arange(1000)[::-1], np.argsort(labels, kind="stable")):
        table = reliability(labels[order], logits[order])
        assert expected_calibration_error(table) == pytest.approx(0, abs=1e-12)


def test_bins_are_no_more_than_rows() -> None:
    table = reliability(np.array([0, 1], np.uint8), np.array([-1.0, 1.0]))
    assert list(table["rows"]) == [1, 1] and list(table["clicked"]) == [0, 1]
