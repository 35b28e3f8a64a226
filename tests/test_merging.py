"""Merging against naive loops, and the identities that must hold."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, log_expit, logsumexp
from sklearn.metrics import log_loss, roc_auc_score

from modules.runs import RunError
from modules.scoring import merging, metrics
from modules.scoring.members import Members, load_members, score_members
from modules.scoring.merging import (
    POOLS,
    ambiguity,
    choose_subsets,
    equal_weights,
    merge_members,
    score_merged,
)
from modules.scoring.metrics import auc, logloss
from tests.fake_runs import FakeLog

BOTH = ("prob", "logit")


@st.composite
def members_and_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 (M, rows) of up to 5 members, and labels (rows,) of both classes."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(2, 12)))
    logits = draw(arrays(np.float32, shape, elements=st.floats(-690, 690, width=32)))
    labels = draw(arrays(np.uint8, shape[1], elements=st.integers(0, 1)))
    labels[:2] = 0, 1
    return logits, labels


def merge_one(pool: str, logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """AUC and log loss of all rows of `logits` merged with equal weight."""
    weights = equal_weights([range(len(logits))], len(logits))
    aucs, losses = score_merged(POOLS[pool], weights, list(logits), labels)
    return aucs[0], losses[0]


@pytest.mark.parametrize("pool", BOTH)
@settings(deadline=None)  # a busy machine is no failure
@given(members_and_labels())
def test_merged_logloss_is_never_above_the_mean_members(
    pool: str, case: tuple[np.ndarray, np.ndarray]
) -> None:
    logits, labels = case
    mean = np.mean([logloss(labels, member) for member in logits])
    assert merge_one(pool, logits, labels)[1] <= mean * (1 + 1e-12) + 1e-12


@settings(deadline=None)  # a busy machine is no failure
@given(members_and_labels())
def test_ambiguity_identity(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    mean = np.mean([logloss(labels, member) for member in logits])
    spread = ambiguity(equal_weights([range(len(logits))], len(logits)), list(logits))[0]
    assert merge_one("logit", logits, labels)[1] == pytest.approx(mean - spread, abs=1e-9)
    assert spread >= -1e-12


def test_ambiguity_is_the_mean_divergence_from_the_merged_prediction() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (4, 100)).astype(np.float32)
    p, merged = expit(logits.astype(float)), expit(logits.astype(float).mean(axis=0))
    divergence = merged * np.log(merged / p) + (1 - merged) * np.log((1 - merged) / (1 - p))
    spread = ambiguity(equal_weights([range(4)], 4), list(logits))[0]
    assert spread == pytest.approx(divergence.mean(), abs=1e-12)


def test_pools_are_the_means_that_their_names_say() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 200))
    weights = equal_weights([[0, 1, 2, 3, 4], [1, 3]], 5)
    for row, subset in enumerate(([0, 1, 2, 3, 4], [1, 3])):
        np.testing.assert_allclose(
            POOLS["logit"](weights, logits)[row], logits[subset].mean(axis=0), atol=1e-12
        )
        np.testing.assert_allclose(
            expit(POOLS["prob"](weights, logits)[row]),
            expit(logits[subset]).mean(axis=0),
            atol=1e-12,
        )


def test_probability_mean_stays_finite_where_probabilities_round_to_one() -> None:
    logits = np.array([[50.0, -300.0, 690.0], [60.0, -200.0, 690.0]])
    assert expit(50.0) == 1.0
    expected = logsumexp(log_expit(logits), axis=0) - logsumexp(log_expit(-logits), axis=0)
    merged = POOLS["prob"](equal_weights([[0, 1]], 2), logits)[0]
    np.testing.assert_allclose(merged, expected, rtol=1e-12)


@pytest.mark.parametrize("pool", BOTH)
def test_one_member_merged_is_the_member(pool: str) -> None:
    log = FakeLog()
    logits, labels = log.predictions(0.5)["test"], log.labels["test"]
    merged_auc, merged_logloss = merge_one(pool, logits[None], labels)
    assert merged_auc == pytest.approx(auc(labels, logits), abs=1e-12)
    assert merged_logloss == pytest.approx(logloss(labels, logits), abs=1e-12)


@pytest.mark.parametrize("pool", BOTH)
def test_permuting_members_changes_nothing(pool: str) -> None:
    log = FakeLog()
    logits = np.stack([log.predictions(0.5)["test"] for _ in range(6)])
    labels = log.labels["test"]
    shuffled = logits[[3, 0, 5, 1, 4, 2]]
    assert merge_one(pool, shuffled, labels) == pytest.approx(
        merge_one(pool, logits, labels), abs=1e-12
    )


def test_all_subsets_while_they_are_few() -> None:
    assert choose_subsets(5, 2, 10) == list(combinations(range(5), 2))
    assert choose_subsets(40, 40, 1) == [tuple(range(40))]


def test_else_a_repeatable_sample_of_distinct_subsets() -> None:
    chosen = choose_subsets(12, 4, 64)
    assert len(set(chosen)) == 64
    assert all(len(set(subset)) == 4 and set(subset) <= set(range(12)) for subset in chosen)
    assert chosen == choose_subsets(12, 4, 64)
    times = np.bincount(np.ravel(chosen), minlength=12)  # 64 * 4 / 12 = 21 expected of each
    assert times.min() > 8 and times.max() < 40


def make_members(root: Path, seeds: dict[str, int]) -> Members:
    log = FakeLog()
    for model, count in seeds.items():
        for seed in range(count):
            log.write_run(root, model, seed, noise=0.4 + 0.3 * (model == "fm"))
    return load_members(root, "avazu")


def naive_row(members: Members, runs: list[int], k: int, pool: str) -> dict[str, Any]:
    """A line of merged.csv, by loops and scikit-learn."""
    labels = members.labels
    val = [run.logits("val").astype(float) for run in members.runs]
    test = [run.logits("test").astype(float) for run in members.runs]
    auc_of = [roc_auc_score(labels["test"], z) for z in test]
    loss_of = [log_loss(labels["test"], expit(z)) for z in test]
    lines = []
    for subset in combinations(runs, k):
        if pool == "prob":
            merged = np.mean([expit(test[i]) for i in subset], axis=0)
        else:
            merged = expit(np.mean([test[i] for i in subset], axis=0))
        on_val = max(subset, key=lambda i: roc_auc_score(labels["val"], val[i]))
        lines.append(
            {
                "test_auc": roc_auc_score(labels["test"], merged),
                "test_logloss": log_loss(labels["test"], merged),
                "member_auc": np.mean([auc_of[i] for i in subset]),
                "member_logloss": np.mean([loss_of[i] for i in subset]),
                "best_member_auc": max(auc_of[i] for i in subset),
                "best_on_val_auc": auc_of[on_val],
            }
        )
    frame = pd.DataFrame(lines)
    frame["auc_gain"] = frame["test_auc"] - frame["member_auc"]
    frame["logloss_gain"] = frame["member_logloss"] - frame["test_logloss"]
    spread = frame.std()  # ddof = 1
    sds = ("test_auc", "test_logloss", "auc_gain", "logloss_gain")
    return {
        "subsets": len(lines),
        "subsets_possible": len(lines),
        **frame.mean(),
        **{f"{key}_sd": spread[key] for key in sds},
    }


def test_merged_table_is_that_of_naive_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "ROWS_AT_ONCE", 190)  # 500 rows: three chunks, the last short
    monkeypatch.setattr(merging, "SUBSETS_AT_ONCE", 4)  # 10 subsets: three blocks
    members = make_members(tmp_path, {"deepfm": 3, "fm": 2})
    merged = merge_members(members, score_members(members), pools=BOTH, max_subsets=10)
    groups = {"deepfm": [0, 1, 2], "fm": [3, 4], "all": [0, 1, 2, 3, 4]}
    lines = [
        (name, k, pool, runs)
        for name, runs in groups.items()
        for k in range(1, len(runs) + 1)
        for pool in BOTH
    ]
    assert [tuple(key) for key in merged[["group", "k", "pool"]].values] == [
        (name, k, pool) for name, k, pool, _ in lines
    ]
    for (_, row), (_, k, pool, runs) in zip(merged.iterrows(), lines, strict=True):
        for column, expected in naive_row(members, runs, k, pool).items():
            assert row[column] == pytest.approx(expected, abs=1e-9, nan_ok=True), column
    logit = merged[merged["pool"] == "logit"]
    np.testing.assert_allclose(logit["ambiguity"], logit["logloss_gain"], atol=1e-9)
    prob = merged[merged["pool"] == "prob"]
    np.testing.assert_array_equal(prob["ambiguity"], logit["ambiguity"])


def test_sampled_subsets_are_counted(tmp_path: Path) -> None:
    members = make_members(tmp_path, {"fm": 4})
    merged = merge_members(members, score_members(members), pools=["logit"], max_subsets=3)
    assert list(merged["subsets"]) == [3, 3, 3, 1]
    assert list(merged["subsets_possible"]) == [4, 6, 4, 1]
    assert list(merged["group"].unique()) == ["fm"]  # one model: `all` would repeat it


def test_a_broken_identity_stops_the_merge(tmp_path: Path) -> None:
    members = make_members(tmp_path, {"fm": 2})
    scores = score_members(members)
    scores.loc[1, "test_logloss"] += 1e-6
    with pytest.raises(RunError, match=r"group 'fm', K = 1: .* misses"):
        merge_members(members, scores, pools=["prob"], max_subsets=10)
