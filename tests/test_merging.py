"""Merging against naive loops, and the identities that must hold."""

from __future__ import annotations

from collections.abc import Sequence
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
from modules.scoring import groups, merging, metrics
from modules.scoring.groups import balanced_subsets, choose_subsets, make_groups
from modules.scoring.layout import short
from modules.scoring.members import Members, load_members, score_members
from modules.scoring.merging import ambiguity, merge_members, score_merged
from modules.scoring.metrics import auc, logloss, softplus
from modules.scoring.pools import (
    POOLS,
    double_ranks,
    equal_weights,
    information_weights,
    logit_mean,
    main_pool,
    rank_sum,
)
from modules.scoring.report_tables import gain_table
from modules.scoring.selection import best_choices, forward_selection, greedy_weights
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
    scored = score_merged(POOLS[pool].mean, weights, list(logits), labels)
    return scored.auc[0], scored.logloss[0]


def spread_of(logits: np.ndarray, labels: np.ndarray) -> float:
    """The ambiguity of all rows of `logits` merged with equal weight."""
    weights = equal_weights([range(len(logits))], len(logits))
    merged = score_merged(logit_mean, weights, list(logits), labels)
    alone = np.array([softplus(member.astype(float)).mean() for member in logits])
    return float(ambiguity(weights, alone, merged.softplus)[0])


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
    spread = spread_of(logits, labels)
    assert merge_one("logit", logits, labels)[1] == pytest.approx(mean - spread, abs=1e-9)
    assert spread >= -1e-12


def test_ambiguity_is_the_mean_divergence_from_the_merged_prediction() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (4, 100)).astype(np.float32)
    p, merged = expit(logits.astype(float)), expit(logits.astype(float).mean(axis=0))
    divergence = merged * np.log(merged / p) + (1 - merged) * np.log((1 - merged) / (1 - p))
    labels = np.tile(np.array([0, 1], np.uint8), 50)
    assert spread_of(logits, labels) == pytest.approx(divergence.mean(), abs=1e-12)


def test_pools_are_the_means_that_their_names_say() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 200))
    weights = equal_weights([[0, 1, 2, 3, 4], [1, 3]], 5)
    for row, subset in enumerate(([0, 1, 2, 3, 4], [1, 3])):
        np.testing.assert_allclose(
            POOLS["logit"].mean(weights, logits)[row], logits[subset].mean(axis=0), atol=1e-12
        )
        np.testing.assert_allclose(
            expit(POOLS["prob"].mean(weights, logits)[row]),
            expit(logits[subset]).mean(axis=0),
            atol=1e-12,
        )


def test_probability_mean_stays_finite_where_probabilities_round_to_one() -> None:
    logits = np.array([[50.0, -300.0, 690.0], [60.0, -200.0, 690.0]])
    assert expit(50.0) == 1.0
    expected = logsumexp(log_expit(logits), axis=0) - logsumexp(log_expit(-logits), axis=0)
    merged = POOLS["prob"].mean(equal_weights([[0, 1]], 2), logits)[0]
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


@pytest.mark.parametrize(("members", "k"), [(6, 2), (7, 3), (12, 11), (21, 8)])
def test_balanced_subsets_count_all_members_alike(members: int, k: int) -> None:
    subsets = balanced_subsets(members, k, 10)
    assert len(set(subsets)) == len(subsets) == members
    assert all(list(subset) == sorted(set(subset)) for subset in subsets)
    assert np.bincount(np.concatenate(subsets)).tolist() == members * [k]
    assert balanced_subsets(5, 2, 10) == list(combinations(range(5), 2))


def make_members(root: Path, seeds: dict[str, int]) -> Members:
    log = FakeLog()
    for model, count in seeds.items():
        for seed in range(count):
            log.write_run(root, model, seed, noise=0.4 + 0.3 * (model == "fm"))
    return load_members(root, "avazu")


def merge_all(
    members: Members, pools: Sequence[str], max_subsets: int, scores: pd.DataFrame | None = None
) -> pd.DataFrame:
    scores = score_members(members) if scores is None else scores
    merges = make_groups(members, scores, max_subsets)
    return merge_members(members, scores, merges, pools=pools)


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
    monkeypatch.setattr(merging, "MERGES_AT_ONCE", 4)  # 10 subsets: three blocks
    members = make_members(tmp_path, {"deepfm": 3, "fm": 2})
    merged = merge_all(members, BOTH, 10)
    merged = merged[~merged["group"].isin(["mixed", "selected"])].reset_index(drop=True)
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
    merged = merge_all(members, ["logit"], 3)
    assert list(merged["subsets"]) == [3, 3, 3, 1]
    assert list(merged["subsets_possible"]) == [4, 6, 4, 1]
    assert list(merged["group"].unique()) == ["fm"]  # one model: `all` would repeat it


def test_a_broken_identity_stops_the_merge(tmp_path: Path) -> None:
    members = make_members(tmp_path, {"fm": 2})
    scores = score_members(members)
    scores.loc[1, "test_logloss"] += 1e-6
    with pytest.raises(RunError, match=r"group 'fm', K = 1: .* misses"):
        merge_all(members, ["prob"], 10, scores)


def test_the_ambiguity_is_all_that_the_logit_mean_gains(tmp_path: Path) -> None:
    merged = merge_all(make_members(tmp_path, {"deepfm": 3, "fm": 2}), ["logit"], 10)
    np.testing.assert_allclose(merged["ambiguity"], merged["logloss_gain"], atol=1e-9)
    np.testing.assert_allclose(merged[merged["k"] > 1]["explained"], 1.0, atol=1e-5)


@pytest.mark.parametrize("pool", ["weighted", "greedy"])
def test_pools_that_prefer_members_gain_over_the_plain_mean_member(
    tmp_path: Path, pool: str
) -> None:
    members = make_members(tmp_path, {"deepfm": 3, "fm": 2})
    scores = score_members(members)
    merged = merge_all(members, [pool], 10).query("group == 'all' and k == 5").iloc[0]
    assert merged["member_auc"] == pytest.approx(scores["test_auc"].mean(), abs=1e-12)
    assert merged["member_logloss"] == pytest.approx(scores["test_logloss"].mean(), abs=1e-12)
    gain = merged["member_logloss"] - merged["test_logloss"]
    assert merged["logloss_gain"] == pytest.approx(gain, abs=1e-12)
    assert merged["ambiguity"] != pytest.approx(gain, rel=0.01)  # some count more than others
    assert merged["explained"] == pytest.approx(merged["ambiguity"] / gain, abs=1e-9)


@pytest.mark.parametrize("pool", ["weighted", "greedy"])
def test_the_best_member_is_that_of_the_group_though_a_pool_leaves_it_out(
    tmp_path: Path, pool: str
) -> None:
    log = FakeLog()
    for seed in range(3):
        log.write_run(tmp_path, "deepfm", seed)
    sure = {split: 20 * z for split, z in log.predictions(0.1).items()}  # a good order, no more
    log.write_run(tmp_path, "fm", 0, predictions=sure)
    members = load_members(tmp_path, "avazu")
    scores = score_members(members)
    best = scores.loc[scores["model"] == "fm", "test_auc"].item()
    assert best == scores["test_auc"].max()
    merged = merge_all(members, [pool], 10).query("group == 'all' and k == 4").iloc[0]
    assert merged["members_used"] < 4
    assert merged["best_member_auc"] == merged["best_on_val_auc"] == best


def test_subsets_are_counted_by_a_pool_that_takes_all(tmp_path: Path) -> None:
    merged = merge_all(make_members(tmp_path, {"fm": 4}), ["greedy", "prob"], 3)
    counted = [row[2] for row in gain_table(merged).rows]
    assert counted == ["3 of 4", "3 of 6", "3 of 4", "1 of 1"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (1000, "1k"), (194_584, "195k"), (999_600, "1M"), (999_950_000, "1G")],
)
def test_short_counts(count: float, text: str) -> None:
    assert short(count) == text


def test_a_rank_mean_has_an_auc_only(tmp_path: Path) -> None:
    merged = merge_all(make_members(tmp_path, {"deepfm": 3, "fm": 2}), list(POOLS), 10)
    assert merged.loc[merged["pool"] == "rank", "test_logloss"].isna().all()
    assert merged.loc[merged["pool"] == "rank", "test_auc"].notna().all()


def test_one_member_is_itself_in_every_pool(tmp_path: Path) -> None:
    members = make_members(tmp_path, {"fm": 3})
    merged = merge_all(members, list(POOLS), 10)
    scores = score_members(members)
    alone = merged[(merged["k"] == 1) & (merged["pool"] != "greedy")]
    np.testing.assert_allclose(alone["test_auc"], scores["test_auc"].mean(), atol=1e-12)
    greedy = merged[(merged["k"] == 1) & (merged["pool"] == "greedy")].iloc[0]
    best = scores.loc[scores["val_logloss"].idxmin()]
    assert greedy["test_logloss"] == pytest.approx(best["test_logloss"], abs=1e-12)


def test_a_merge_costs_the_sum_of_its_members(tmp_path: Path) -> None:
    log = FakeLog()
    for seed, (macs, latency) in enumerate([(100, 1.0), (300, 5.0)]):
        log.write_run(tmp_path, "fm", seed, macs=macs, latency=latency)
    merged = merge_all(load_members(tmp_path, "avazu"), ["logit"], 10)
    both = merged[merged["k"] == 2].iloc[0]
    assert both["macs_per_row"] == 400 and both["parameters"] == 2 * 10_500
    assert both["latency_ms"] == 6.0 and both["latency_parallel_ms"] == 5.0
    assert list(merged["macs_per_row"]) == [200, 400]  # K = 1: the mean member


def test_groups_of_several_models_are_chosen_on_validation(tmp_path: Path) -> None:
    members = make_members(tmp_path, {"deepfm": 3, "fm": 2})
    scores = score_members(members)
    mixed, selected = make_groups(members, scores, 10)[2:4]
    assert (mixed.name, selected.name) == ("mixed", "selected")
    val = [run.logits("val").astype(float) for run in members.runs]
    labels = members.labels["val"]
    loss = {
        subset: log_loss(labels, expit(np.mean([val[i] for i in subset], axis=0)))
        for k in range(1, 6)
        for subset in combinations(range(5), k)
    }
    # deepfm is 0, 1, 2 and fm 3, 4; both have two seeds, and merged are members of different ones
    best = min(([0, 1], [3, 4]), key=lambda places: np.mean([loss[i,] for i in places]))
    assert mixed.subsets[1] == [(best[0],), (best[1],)]
    assert sorted(sorted(subset) for subset in mixed.subsets[2]) == [[0, 4], [1, 3]]
    for k in range(1, 6):
        (subset,) = selected.subsets[k]
        before = set(subset[:-1])
        rivals = [{*before, i} for i in range(5) if i not in before]
        expected = min(rivals, key=lambda rival: loss[tuple(sorted(rival))])
        assert set(subset) == expected


def test_models_are_the_best_of_all_choices_of_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FakeLog()
    good, bad = log.predictions(0.6), log.predictions(1.5)
    opposite = {split: 2 * log.true_logits[split] - z for split, z in bad.items()}
    for seed in (0, 1):
        for model, logits in (("deepfm", bad), ("fm", good), ("lr", opposite)):
            predictions = {split: z.astype(np.float32) for split, z in logits.items()}
            log.write_run(tmp_path, model, seed, predictions=predictions)
    members = load_members(tmp_path, "avazu")
    scores = score_members(members)
    fm, rivals = (2, 3), [(0, 5), (1, 4)]  # the errors of deepfm and lr cancel each other
    mixed = make_groups(members, scores, 10)[3]
    assert mixed.subsets == {1: [(2,), (3,)], 2: rivals, 3: [(0, 3, 4), (1, 2, 5)]}
    assert mixed.members == list(range(6))
    monkeypatch.setattr(groups, "MAX_EXHAUSTIVE", 2)
    one_after_another = make_groups(members, scores, 10)[3].subsets[2]
    assert [fm[seed] in subset for seed, subset in enumerate(one_after_another)] == [True, True]


def test_best_choices_are_those_of_a_naive_search() -> None:
    log = FakeLog(5)
    candidates = [[log.predictions(noise)["val"] for _ in range(3)] for noise in (0.9, 1, 1.1, 1.2)]
    labels = log.labels["val"]
    for size, best in enumerate(best_choices(candidates, labels), start=1):
        loss = {
            choice: np.mean([
                log_loss(labels, expit(np.mean(
                    [candidates[c][(r + place) % 3] for place, c in enumerate(choice)], axis=0
                )))
                for r in range(3)
            ])
            for choice in combinations(range(4), size)
        }  # fmt: skip
        assert best == min(loss, key=lambda choice: loss[choice])


def test_models_are_chosen_by_merges_of_different_seeds() -> None:
    log = FakeLog()
    true, labels = log.true_logits["val"], log.labels["val"]
    errors = [log.predictions(0.8)["val"] - true for _ in range(3)]
    first = [true + error for error in errors]
    second = [true - 1.5 * errors[r - 1] for r in range(3)]  # of the seed before
    third = [log.predictions(0.95)["val"] for _ in range(3)]
    candidates = [first, second, third]
    assert best_choices(candidates, labels)[1] == (0, 1)
    picks, losses = forward_selection(candidates, labels, 3, repeat=False)
    assert picks == [0, 1, 2]
    merges = [(first[r] + second[(r + 1) % 3] + third[(r + 2) % 3]) / 3 for r in range(3)]
    assert losses[2] == pytest.approx(np.mean([logloss(labels, z) for z in merges]), abs=1e-6)


def test_greedy_selection_is_never_worse_than_the_best_member_on_validation() -> None:
    for seed in range(20):
        log = FakeLog(seed)
        noises = log.random.uniform(0.1, 3.0, 6)
        members = [log.predictions(noise)["val"] for noise in noises]
        labels = log.labels["val"]
        weights = greedy_weights(members, labels, 8)
        losses = score_merged(logit_mean, weights, members, labels).logloss
        best = min(logloss(labels, member) for member in members)
        assert losses[0] == pytest.approx(best, abs=1e-12)
        assert (np.diff(losses) <= 1e-12).all()
        np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_greedy_picks_are_those_of_a_naive_search_with_replacement() -> None:
    log = FakeLog(3)
    members = [log.predictions(noise)["val"].astype(float) for noise in (0.4, 1.0, 2.0)]
    labels = log.labels["val"]
    picks, losses = forward_selection([[z] for z in members], labels, 6, repeat=True)
    bag: list[int] = []
    for pick, loss in zip(picks, losses, strict=True):
        tried = [
            log_loss(labels, expit(np.mean([members[i] for i in [*bag, new]], axis=0)))
            for new in range(3)
        ]
        assert pick == int(np.argmin(tried)) and loss == pytest.approx(min(tried), abs=1e-12)
        bag.append(pick)
    assert len(set(picks)) < len(picks)  # one of them came again


def test_weights_are_the_nats_gained_over_the_mean_rate() -> None:
    labels = np.array([1, 0, 0, 0], np.uint8)
    entropy = log_loss(labels, np.full(4, 0.25))
    equal = equal_weights([[0, 1, 2], [2, 3]], 4)
    logloss_of = np.array([entropy - 0.3, entropy - 0.1, entropy + 1, entropy + 2])
    expected = [[0.75, 0.25, 0, 0], [0, 0, 0.5, 0.5]]  # members 2 and 3 know nothing
    np.testing.assert_allclose(information_weights(equal, logloss_of, labels), expected)


def test_ranks_share_ties_and_keep_the_order() -> None:
    scores = np.array([3.0, -1.0, 3.0, 7.0, 3.0], np.float32)
    np.testing.assert_array_equal(double_ranks(scores), [4, 0, 4, 8, 4])
    log = FakeLog()
    logits, labels = log.predictions(0.5)["test"], log.labels["test"]
    assert auc(labels, double_ranks(logits)) == auc(labels, logits)


def test_sums_of_ranks_are_not_rounded_into_ties() -> None:
    labels = np.array([0, 1, 0, 1], np.uint8)
    ranks = [2.0**24 + np.arange(4), np.zeros(4)]  # float32 has no room for odd ones
    assert score_merged(rank_sum, np.full((1, 2), 0.5), ranks, labels).auc == auc(labels, ranks[0])


def test_intervals_are_given_for_a_plain_mean() -> None:
    assert main_pool(["rank", "greedy", "weighted", "prob"]) == "weighted"
    assert main_pool(["logit", "prob"]) == "logit"
    assert main_pool(["rank"]) == "prob"


def test_the_order_of_members_changes_nothing_in_any_pool(tmp_path: Path) -> None:
    make_members(tmp_path, {"deepfm": 3, "fm": 3})
    tables = [
        merge_all(load_members(tmp_path, "avazu", models=models), list(POOLS), 20)
        for models in (["deepfm", "fm"], ["fm", "deepfm"])
    ]
    key = ["group", "k", "pool"]
    one, other = (table.sort_values(key).set_index(key) for table in tables)
    for column in ("test_auc", "test_logloss", "ambiguity", "members_used", "macs_per_row"):
        np.testing.assert_allclose(one[column], other[column], atol=1e-12, err_msg=column)
