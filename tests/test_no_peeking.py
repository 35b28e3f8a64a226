"""Nothing is chosen or weighed by test scores: the order of the members is turned there."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from modules.runs import RunError
from modules.scoring.answer import answer
from modules.scoring.comparison import make_tables
from modules.scoring.members import Members, load_members, score_members
from modules.scoring.tables import Tables
from tests.fake_runs import FakeLog

MEMBERS = [("deepfm", 1), ("deepfm", 2), ("deepfm", 3), ("fm", 1), ("fm", 2)]
DEEPFM, FM = (0, 1, 2), (3, 4)  # their places
NOISE = (0.1, 0.3, 0.5, 0.7, 0.9)  # of each member on validation; on test of the last one first


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Five members, the first the best on validation and the worst on test, and so on."""
    root = tmp_path_factory.mktemp("runs")
    log = FakeLog(rows={"train": 0, "val": 1500, "test": 1500})
    for (model, seed), on_val, on_test in zip(MEMBERS, NOISE, reversed(NOISE), strict=True):
        logits = {
            "val": log.predictions(on_val)["val"],
            "test": log.predictions(on_test)["test"],
        }
        log.write_run(root, model, seed, predictions=logits)
    planted = load_members(root, "avazu")
    assert [(run.model, run.seed) for run in planted.runs] == MEMBERS
    assert np.all(np.diff(aucs(planted, "val")) < 0) and np.all(np.diff(aucs(planted, "test")) > 0)
    assert np.all(np.diff(losses(planted, "val")) > 0)
    assert np.all(np.diff(losses(planted, "test")) < 0)
    return planted


@pytest.fixture(scope="module")
def tables(members: Members) -> Tables:
    """Merged with weights, so that these are at work in every table."""
    return make_tables("avazu", members, pools=["weighted"], max_subsets=64, calibration=True)


def logits(members: Members, split: str) -> list[np.ndarray]:
    return [run.logits(split).astype(float) for run in members.runs]


def aucs(members: Members, split: str) -> list[float]:
    return [roc_auc_score(members.labels[split], z) for z in logits(members, split)]


def losses(members: Members, split: str) -> list[float]:
    return [log_loss(members.labels[split], expit(z)) for z in logits(members, split)]


def weighed_on_validation(members: Members) -> np.ndarray:
    """The test logits (rows,) of all members, weighed by the nats that they gain on validation."""
    labels = members.labels["val"]
    mean_rate = log_loss(labels, np.full(len(labels), labels.mean()))
    gained = [mean_rate - loss for loss in losses(members, "val")]
    assert min(gained) > 0
    return np.average(logits(members, "test"), axis=0, weights=gained)


def test_several_models_meet_the_base_of_the_model_best_on_validation(tables: Tables) -> None:
    assert set(tables.budget.query("group == 'all'")["base_model"]) == {"deepfm"}


def test_the_answer_is_about_the_model_best_on_validation(members: Members, tables: Tables) -> None:
    on_test = np.mean([aucs(members, "test")[i] for i in DEEPFM])
    said = f"The base, deepfm (the best on validation), has test AUC {on_test:.5f} "
    assert answer(tables).startswith(said)


def test_merges_are_shown_beside_their_member_best_on_validation(
    members: Members, tables: Tables
) -> None:
    whole = tables.merged.groupby("group").last()["best_on_val_auc"]
    for group, best in (("deepfm", 0), ("fm", 3), ("all", 0)):
        assert whole[group] == pytest.approx(aucs(members, "test")[best], abs=1e-9), group


def test_calibration_before_merging_is_that_of_the_member_best_on_validation(
    members: Members, tables: Tables
) -> None:
    for group, best in (("deepfm", 0), ("fm", 3), ("all", 0)):
        bins = tables.calibration.query(f"group == '{group}' and prediction == 'member'")
        ordered = np.sort(expit(logits(members, "test")[best]))
        expected = ordered.reshape(15, 100).mean(axis=1)
        np.testing.assert_allclose(bins["predicted"], expected, atol=1e-12, err_msg=group)


def test_the_better_of_a_pair_is_so_on_validation(members: Members, tables: Tables) -> None:
    labels, test = members.labels["test"], logits(members, "test")
    auc_gains, logloss_gains = [], []
    seeds = [run.seed for run in members.runs]
    for better, worse in product(DEEPFM, FM):
        if seeds[better] == seeds[worse]:
            continue
        merged = expit((test[better] + test[worse]) / 2)
        auc_gains.append(roc_auc_score(labels, merged) - aucs(members, "test")[better])
        logloss_gains.append(losses(members, "test")[better] - log_loss(labels, merged))
    (row,) = tables.diversity.query("first == 'deepfm' and second == 'fm'").to_dict("records")
    assert row["auc_gain_over_better"] == pytest.approx(np.mean(auc_gains), abs=1e-6)
    assert row["logloss_gain_over_better"] == pytest.approx(np.mean(logloss_gains), abs=1e-9)


@pytest.mark.parametrize("table", ["merged", "budget"])
def test_members_are_weighed_by_what_they_know_on_validation(
    members: Members, tables: Tables, table: str
) -> None:
    frame: pd.DataFrame = tables.frames()[table]
    row = frame[(frame["group"] == "all") & (frame["k"] == 5)].iloc[-1]
    labels, merged = members.labels["test"], expit(weighed_on_validation(members))
    assert row["test_logloss"] == pytest.approx(log_loss(labels, merged), abs=1e-9)
    assert row["test_auc"] == pytest.approx(roc_auc_score(labels, merged), abs=1e-6)


def test_the_answer_tells_of_as_many_chosen_members_as_a_model_has_seeds(tables: Tables) -> None:
    assert "; 3 members chosen on validation (" in answer(tables)  # deepfm's three, of 2 to 5


def test_changed_validation_predictions_are_refused(tmp_path: Path) -> None:
    folder = FakeLog().write_run(tmp_path, "fm", 1)
    np.save(folder / "val.npy", -np.load(folder / "val.npy"))
    with pytest.raises(RunError, match=r"fm/base/seed-1: val auc .* reported .* val\.npy"):
        score_members(load_members(tmp_path, "avazu"))
