"""The comparison at equal cost and the diversity of pairs, against naive loops."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from modules.scoring.about import About
from modules.scoring.answer import answer
from modules.scoring.budget import budget_table, verdict
from modules.scoring.comparison import make_tables
from modules.scoring.cost_picture import draw_cost
from modules.scoring.diversity import diversity_table
from modules.scoring.groups import make_groups
from modules.scoring.members import load_members, score_members, score_runs
from modules.scoring.report import render_report
from modules.scoring.report_tables import against_base, settings_table
from modules.scoring.settings import own_settings
from modules.scoring.tables import Tables
from scripts.findings import findings_tables
from scripts.findings import main as findings_command
from tests.fake_runs import FakeLog

SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deepfm with arms, fm without, and a joint training of both; deepfm is the better one."""
    folder = tmp_path_factory.mktemp("runs")
    log = FakeLog(1, rows={"train": 0, "val": 900, "test": 900})
    for seed in SEEDS:
        log.write_run(folder, "deepfm", seed, noise=0.5, macs=1000, latency=2.0 + seed)
        log.write_run(folder, "fm", seed, noise=1.0, macs=100, latency=1.0)
        log.write_run(folder, "deepfm", seed, arm="width:2", noise=0.48, macs=2050, latency=4.0)
        log.write_run(folder, "deepfm", seed, arm="depth:3", noise=2.5, macs=2900, latency=6.0)
        log.write_run(folder, "deepfm", seed, arm="soup:3", noise=4.0, macs=1000, latency=2.0)
        log.write_run(folder, "deepfm+fm", seed, arm="joint:2", noise=0.6, macs=1100)
    return folder


@pytest.fixture(scope="module")
def tables(root: Path) -> Tables:
    members = load_members(root, "avazu")
    return make_tables("avazu", members, pools=["logit"], max_subsets=64)


def logits_of(root: Path, model: str, arm: str = "base") -> list[np.ndarray]:
    return [
        np.load(root / f"avazu/{model}/{arm}/seed-{seed}/test.npy").astype(float) for seed in SEEDS
    ]


def line(tables: Tables, group: str, contender: str, k: int, against: str = "base") -> pd.Series:
    budget = tables.budget
    rows = budget[
        (budget["group"] == group)
        & (budget["contender"] == contender)
        & (budget["k"] == k)
        & (budget["against"] == against)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


def test_every_arm_and_merge_is_compared_with_the_base(root: Path, tables: Tables) -> None:
    labels = load_members(root, "avazu").labels["test"]
    base = logits_of(root, "deepfm")
    contenders = {
        ("width:2", 1): logits_of(root, "deepfm", "width:2"),
        ("soup:3", 1): logits_of(root, "deepfm", "soup:3"),
        ("merged", 2): [np.mean(pair, axis=0) for pair in combinations(base, 2)],
        ("merged", 3): [np.mean(base, axis=0)],
    }
    for (name, k), predictions in contenders.items():
        row = line(tables, "deepfm", name, k)
        aucs = [roc_auc_score(labels, z) for z in predictions]
        losses = [log_loss(labels, expit(z)) for z in predictions]
        assert row["test_auc"] == pytest.approx(np.mean(aucs), abs=1e-6)
        gain = np.mean(aucs) - np.mean([roc_auc_score(labels, z) for z in base])
        assert row["auc_gain"] == pytest.approx(gain, abs=1e-6)
        gain = np.mean([log_loss(labels, expit(z)) for z in base]) - np.mean(losses)
        assert row["logloss_gain"] == pytest.approx(gain, abs=1e-9)
        assert row["auc_low"] < row["auc_gain"] < row["auc_high"]
        assert row["runs"] == len(predictions)


def test_costs_are_those_of_the_members_or_of_the_arm(tables: Tables) -> None:
    pair = line(tables, "deepfm", "merged", 2)
    assert (pair["macs_per_row"], pair["factor"]) == (2000, 2.0)
    assert (pair["table_parameters"], pair["dense_parameters"]) == (20_000, 1000)
    assert pair["latency_ms"] == pytest.approx(8.0)  # pairs of 3, 4 and 5 ms: 7, 8 and 9
    assert pair["latency_parallel_ms"] == pytest.approx((4 + 5 + 5) / 3)
    assert line(tables, "deepfm", "width:2", 1)["factor"] == 2.05
    everything = line(tables, "all", "all", 6)
    assert everything["factor"] == pytest.approx(3.3) and everything["base_model"] == "deepfm"


def test_a_member_without_weight_costs_nothing(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "deepfm", seed, macs=1000)
    random = {split: 9 * z for split, z in log.predictions(5.0).items()}
    log.write_run(tmp_path, "deepfm", 4, predictions=random, macs=1000)
    log.write_run(tmp_path, "deepfm", 1, arm="width:3", macs=3000)
    members = load_members(tmp_path, "avazu")
    tables = make_tables("avazu", members, pools=["weighted"], max_subsets=64)
    for k, macs in ((2, 1500), (3, 2250), (4, 3000)):  # of the mean subset
        row = line(tables, "deepfm", "merged", k)
        (merged,) = tables.merged.query(f"group == 'deepfm' and k == {k}").to_dict("records")
        assert row["macs_per_row"] == merged["macs_per_row"] == macs
    assert line(tables, "deepfm", "merged", 4, "width:3")["factor"] == 3.0


def test_merges_meet_the_arm_whose_cost_is_nearest(tables: Tables) -> None:
    duels = tables.budget[tables.budget["against"] != "base"]
    met = set(zip(duels["group"], duels["k"], duels["against"], strict=True))
    # soup:3 costs as much as the base, which is no merge
    assert met == {
        ("deepfm", 2, "width:2"),
        ("deepfm", 3, "depth:3"),
        ("deepfm+fm", 2, "joint:2"),
    }
    duel = line(tables, "deepfm", "merged", 3, "depth:3")
    arm, merge = line(tables, "deepfm", "depth:3", 1), line(tables, "deepfm", "merged", 3)
    assert duel["auc_gain"] == pytest.approx(merge["test_auc"] - arm["test_auc"], abs=1e-12)


def test_the_noise_is_that_of_the_runs_that_vary_more(root: Path, tables: Tables) -> None:
    labels = load_members(root, "avazu").labels["test"]

    def sd(arm: str) -> float:
        aucs = [roc_auc_score(labels, z) for z in logits_of(root, "deepfm", arm)]
        return float(np.std(aucs, ddof=1))

    assert line(tables, "deepfm", "merged", 2)["auc_noise"] == pytest.approx(sd("base"), abs=1e-6)
    assert sd("depth:3") > 2 * sd("base")
    for arm in ("width:2", "depth:3", "soup:3"):
        larger = max(sd(arm), sd("base"))
        assert line(tables, "deepfm", arm, 1)["auc_noise"] == pytest.approx(larger, abs=1e-6)
    duel = line(tables, "deepfm", "merged", 3, "depth:3")
    assert duel["auc_noise"] == pytest.approx(sd("depth:3"), abs=1e-6)


def test_many_seeds_of_unlike_quality_do_not_bias_what_a_merge_gains(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in range(8):
        log.write_run(tmp_path, "deepfm", seed, noise=0.1 + 0.5 * seed)
    members = load_members(tmp_path, "avazu")
    tables = make_tables("avazu", members, pools=["logit"], max_subsets=100)
    pair = line(tables, "deepfm", "merged", 2)
    (of_all_pairs,) = tables.merged.query("group == 'deepfm' and k == 2")["logloss_gain"]
    assert pair["runs"] == 8 < 28
    assert pair["logloss_gain"] == pytest.approx(of_all_pairs, rel=0.1)


def test_budgets_are_those_of_merges_and_of_arms_that_no_merge_costs(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "deepfm", seed)
    for arm, macs in {
        "width:1.2": 1200,
        "width:2": 2000,
        "width:2.5": 2500,
        "width:4": 4000,
    }.items():
        log.write_run(tmp_path, "deepfm", 1, arm=arm, macs=macs)
    tables = make_tables("avazu", load_members(tmp_path, "avazu"), pools=["logit"], max_subsets=4)
    duels = tables.budget[tables.budget["against"] != "base"]
    assert dict(zip(duels["against"], duels["k"], strict=True)) == {"width:2": 2, "width:2.5": 3}
    alone, two, three, four = answer(tables).split("\n\n")[1:5]
    assert alone.startswith("At 1.2x the base's multiply-adds: width:1.2 ")
    assert four.startswith("At 4.0x the base's multiply-adds: width:4 ")
    for budget in (alone, four):
        assert budget.endswith("; no merge costs as much.")
    for k, arm, budget in ((2, "width:2", two), (3, "width:2.5", three)):
        merge = line(tables, "deepfm", "merged", k, arm)
        assert budget.startswith(f"At {k}.0x the base's multiply-adds: merging {k} x deepfm ")
        assert budget.count("width:") == 2  # what it gains, and who is ahead
        assert f" {arm} ({merge['auc_gain']:+z.5f} " in budget


def test_a_mix_is_compared_with_its_mean_module_whatever_the_seeds(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "deepfm", seed, macs=1900)
    log.write_run(tmp_path, "lr", 1, macs=100)
    log.write_run(tmp_path, "deepfm+lr", 1, arm="joint:2", macs=2000)
    tables = make_tables("avazu", load_members(tmp_path, "avazu"), pools=["logit"], max_subsets=4)
    assert line(tables, "deepfm+lr", "base", 1)["macs_per_row"] == 1000
    assert line(tables, "deepfm+lr", "joint:2", 1)["factor"] == 2.0


def test_a_mix_of_one_model_twice_meets_pairs_of_its_members(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "fm", seed, macs=100)
        log.write_run(tmp_path, "fm+fm", seed, arm="joint:2", macs=200)
    tables = make_tables("avazu", load_members(tmp_path, "avazu"), pools=["logit"], max_subsets=4)
    assert line(tables, "fm+fm", "base", 1)["runs"] == 3
    pair, alone = (line(tables, group, "merged", 2) for group in ("fm+fm", "fm"))
    assert pair["test_auc"] == pytest.approx(alone["test_auc"], abs=1e-12)
    assert line(tables, "fm+fm", "merged", 2, "joint:2")["factor"] == 2.0
    merges = tables.budget.query("group == 'fm+fm' and contender == 'merged'")
    assert set(merges["k"]) == {2}  # four would need a fourth seed


def test_a_model_that_a_mix_has_twice_counts_twice_in_its_mean_module(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "deepfm", seed, macs=1000, noise=0.5)
        log.write_run(tmp_path, "fm", seed, macs=100, noise=2.0)
    log.write_run(tmp_path, "deepfm+deepfm+fm", 1, arm="joint:3", macs=2100)
    tables = make_tables("avazu", load_members(tmp_path, "avazu"), pools=["logit"], max_subsets=4)
    base = line(tables, "deepfm+deepfm+fm", "base", 1)
    deepfm, fm = (line(tables, model, "base", 1)["test_auc"] for model in ("deepfm", "fm"))
    assert base["macs_per_row"] == 700 and base["runs"] == 6
    assert base["test_auc"] == pytest.approx((2 * deepfm + fm) / 3, abs=1e-12)
    noise = tables.budget.query("contender == 'base' and group in ['deepfm', 'fm']")["auc_noise"]
    assert base["auc_noise"] == pytest.approx(np.sqrt((noise**2).mean()), abs=1e-12)
    for contender, k in (("joint:3", 1), ("merged", 3)):
        assert line(tables, "deepfm+deepfm+fm", contender, k)["factor"] == 3.0


def test_a_joint_training_of_two_models_meets_their_pairs(root: Path, tables: Tables) -> None:
    base = line(tables, "deepfm+fm", "base", 1)
    assert base["macs_per_row"] == 550 and base["runs"] == 6
    assert line(tables, "deepfm+fm", "joint:2", 1)["factor"] == 2.0
    pair = line(tables, "deepfm+fm", "merged", 2)
    labels = load_members(root, "avazu").labels["test"]
    seeds = zip(logits_of(root, "deepfm"), logits_of(root, "fm"), strict=True)
    aucs = [roc_auc_score(labels, (a + b) / 2) for a, b in seeds]
    assert pair["test_auc"] == pytest.approx(np.mean(aucs), abs=1e-6)


def test_arms_of_models_that_are_not_merged_stay_out(root: Path) -> None:
    members = load_members(root, "avazu", models=["fm"])
    assert not members.rivals
    scores = score_members(members)
    budget = budget_table(
        members, scores, score_runs([], members.labels), make_groups(members, scores, 4), "prob"
    )
    assert set(budget["group"]) == {"fm"} and set(budget["contender"]) == {"base", "merged"}


@pytest.mark.parametrize(
    ("gain", "low", "high", "noise", "said"),
    [
        (0.003, 0.001, 0.005, 0.002, "gain"),
        (-0.003, -0.005, -0.001, 0.002, "loss"),
        (0.003, -0.001, 0.007, 0.002, "noise"),  # the interval contains 0
        (0.003, 0.001, 0.005, 0.004, "noise"),  # single members vary as much
        (0.003, 0.001, 0.005, float("nan"), "gain"),  # one seed: the interval alone decides
        (0.0, 0.0, 0.0, float("nan"), "noise"),
        (-1e-16, -2e-16, -1e-17, 0.0, "noise"),  # rounding
    ],
)
def test_what_is_within_noise_is_called_that(
    gain: float, low: float, high: float, noise: float, said: str
) -> None:
    assert verdict(gain, low, high, noise) == said


def test_the_answer_names_budget_winner_difference_and_interval(tables: Tables) -> None:
    text = answer(tables)
    paragraphs = text.split("\n\n")
    assert paragraphs[0].startswith("The base, deepfm (the best on validation), has test AUC 0.")
    merge, arm = line(tables, "deepfm", "merged", 3), line(tables, "deepfm", "depth:3", 1)
    duel = line(tables, "deepfm", "merged", 3, "depth:3")
    assert (merge["auc_verdict"], arm["auc_verdict"], duel["auc_verdict"]) == (
        *("gain", "loss"),
        "gain",
    )
    expected = (
        f"At 3.0x the base's multiply-adds: merging 3 x deepfm gains {merge['auc_gain']:+.5f} AUC "
        f"[{merge['auc_low']:+.5f}, {merge['auc_high']:+.5f}] over base; depth:3 loses "
        f"{-arm['auc_gain']:.5f} AUC [{-arm['auc_high']:.5f}, {-arm['auc_low']:.5f}]. At this cost "
        f"merging is ahead of depth:3 ({duel['auc_gain']:+.5f} [{duel['auc_low']:+.5f}, "
        f"{duel['auc_high']:+.5f}])."
    )
    assert expected in paragraphs
    assert any(p.startswith("At the base's own multiply-adds: soup:3 loses ") for p in paragraphs)
    duels = tables.budget[tables.budget["against"] != "base"]
    auc_won, loss_won = (
        (duels[f"{metric}_verdict"] == "gain").sum() for metric in ("auc", "logloss")
    )
    (tally,) = (p for p in paragraphs if p.startswith("Over all 3 comparisons of a merge"))
    assert f"the higher AUC in {auc_won}," in tally
    assert f"the lower log loss in {loss_won}," in tally
    cost = "3.3k multiply-adds a row, 3.3x deepfm"
    assert any(f"all 6 members of 2 models ({cost}) gain" in p for p in paragraphs)
    assert "settings of their own" not in text


def test_the_answer_says_a_verdict_once_for_all_arms_that_share_it(tables: Tables) -> None:
    of_depth = tables.budget.query("contender == 'depth:3' or against == 'depth:3'")
    other = of_depth.replace("depth:3", "width:3")
    behind = of_depth.replace("depth:3", "joint:3").assign(auc_gain=-0.5, auc_verdict="loss")
    text = answer(replace(tables, budget=pd.concat([tables.budget, behind, other])))
    difference = r" \([+-]0\.\d{5} \[[+-]0\.\d{5}, [+-]0\.\d{5}\]\)"
    assert re.search(
        f"At this cost merging is ahead of depth:3{difference}, width:3{difference}; "
        rf"is behind joint:3{difference}\.",
        text,
    )


def test_beside_an_arm_of_the_bases_own_cost_the_merge_speaks_alone(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "deepfm", seed)
    log.write_run(tmp_path, "deepfm", 1, arm="soup:3", noise=4.0)
    tables = make_tables("avazu", load_members(tmp_path, "avazu"), pools=["logit"], max_subsets=4)
    text = answer(tables)
    assert "At the base's own multiply-adds: soup:3 loses " in text
    assert "At 3.0x the base's multiply-adds: merging 3 x deepfm gains " in text
    assert "No bigger deepfm was trained" in text and "--models deepfm --arms width:2" in text


def test_the_answer_names_the_arm_that_is_merged(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "deepfm", seed, arm="joint:2")
    members = load_members(tmp_path, "avazu", arm="joint:2")
    text = answer(make_tables("avazu", members, pools=["logit"], max_subsets=4))
    assert text.startswith("deepfm's joint:2 (the best on validation), has test AUC 0.")
    assert "At 3.0x the joint:2's multiply-adds: merging 3 x deepfm gains " in text
    assert " over joint:2, and " in text
    assert "base" not in text


def test_the_findings_name_the_seeds_and_the_merge_of_all_that_there_are(tables: Tables) -> None:
    scores, *_ = findings_tables(tables.budget)
    assert "| soup:3 (of 3 seeds) |" in scores
    assert "| 3 merged |" in scores


def test_the_findings_compare_with_the_base_where_nothing_is_bigger(tables: Tables) -> None:
    of_base = tables.budget[tables.budget["against"] == "base"]
    left = of_base[of_base["contender"].isin(["base", "soup:3", "merged"])]
    _, auc, logloss = findings_tables(left)
    for table, title, metric in ((auc, "AUC", "auc"), (logloss, "log loss", "logloss")):
        head, _, *rows = table.splitlines()
        assert head.startswith(f"| gain in {title} over the base | ")
        titles = [row.split(" | ")[0] for row in rows]
        assert titles == ["| soup:3 (of 3 seeds)", "| 2 merged", "| 3 merged"]
        gain = left.loc[left["contender"] == "soup:3", f"{metric}_gain"].iloc[0]
        assert f"{gain:z.5f} [" in rows[0]


def test_findings_of_tables_without_a_column_are_refused_in_a_line(
    tables: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(tables, budget=tables.budget.drop(columns="auc_gain")).save(tmp_path)
    assert findings_command([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}: KeyError('auc_gain')")
    assert len(error.splitlines()) == 1


def test_another_arm_of_several_models_is_not_called_the_base(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        for model in ("deepfm", "fm"):
            log.write_run(tmp_path, model, seed, arm="joint:2")
    members = load_members(tmp_path, "avazu", arm="joint:2")
    tables = make_tables("avazu", members, pools=["logit"], max_subsets=4)
    assert "against the joint:2 of " in answer(tables)
    table = against_base(tables)
    assert table.title == "Arms and merges at their cost, against the joint:2 (test split)"
    assert table.rows[0][1] == "joint:2"
    (panel, *_) = draw_cost(tables.about, tables.budget, "auc").axes
    assert "joint:2, mean member" in panel.get_legend_handles_labels()[1]
    said = [
        answer(tables),
        table.title,
        *table.header,
        *(cell for row in table.rows for cell in row),
    ]
    assert "base" not in " ".join(said)


def test_the_noise_is_unknown_where_the_base_alone_has_one_seed(tmp_path: Path) -> None:
    log = FakeLog()
    log.write_run(tmp_path, "deepfm", 1)
    for seed in SEEDS:
        log.write_run(tmp_path, "deepfm", seed, arm="width:2", macs=2000)
    tables = make_tables("avazu", load_members(tmp_path, "avazu"), pools=["logit"], max_subsets=4)
    assert line(tables, "deepfm", "width:2", 1)["auc_noise"] > 0
    assert "the base has one seed, so that the noise of its seeds is unknown" in answer(tables)


def test_the_answer_follows_the_tables(tables: Tables) -> None:
    budget = tables.budget.copy()
    duel = budget["against"] == "depth:3"
    budget.loc[duel, ["auc_gain", "auc_low", "auc_high", "auc_verdict"]] = (
        *(-0.01, -0.02, -0.005),
        "loss",
    )
    turned = replace(tables, budget=budget)
    assert "merging is behind depth:3 (-0.01000 [-0.02000, -0.00500])" in answer(turned)


def test_a_gain_within_noise_is_called_that(tables: Tables) -> None:
    budget = tables.budget.copy()
    merge = (budget["contender"] == "merged") & (budget["k"] == 3) & (budget["against"] == "base")
    budget.loc[merge, ["auc_gain", "auc_low", "auc_high", "auc_verdict"]] = (
        *(0.001, 0.0005, 0.0015),
        "noise",
    )
    said = "gains +0.00100 AUC [+0.00050, +0.00150] (within the noise of seeds) over base"
    assert said in answer(replace(tables, budget=budget))
    budget.loc[merge, "auc_low"] = -0.0005
    said = "gains +0.00100 AUC [-0.00050, +0.00150] (within noise) over base"
    assert said in answer(replace(tables, budget=budget))
    duel = budget["against"] == "depth:3"
    for low, noise in ((0.0005, "the noise of seeds"), (-0.0005, "noise")):
        budget.loc[duel, ["auc_gain", "auc_low", "auc_verdict"]] = 0.001, low, "noise"
        said = f"merging is level (within {noise}) with depth:3 (+0.00100 "
        assert said in answer(replace(tables, budget=budget))


def test_a_gain_in_log_loss_within_noise_is_called_that(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "deepfm", seed)
    tables = make_tables("avazu", load_members(tmp_path, "avazu"), pools=["logit"], max_subsets=4)
    budget = tables.budget.copy()
    merge = budget["contender"] == "merged"
    figures = ["logloss_gain", "logloss_low", "logloss_high", "logloss_verdict"]
    for low, verdict_, said in (
        (0.0005, "gain", "[+0.00050, +0.00150]."),
        (0.0005, "noise", "[+0.00050, +0.00150] (within the noise of seeds)."),
        (-0.0005, "noise", "[-0.00050, +0.00150] (within noise)."),
    ):
        budget.loc[merge, figures] = 0.001, low, 0.0015, verdict_
        text = answer(replace(tables, budget=budget))
        assert f"over base, and +0.00100 nats of log loss {said}" in text


def test_an_arm_that_fails_is_named_and_does_not_squeeze_the_rest(tables: Tables) -> None:
    figure = draw_cost(tables.about, tables.budget, "auc")
    panel = next(p for p in figure.axes if p.get_title().startswith("deepfm\n"))
    soup = line(tables, "deepfm", "soup:3", 1)["test_auc"]
    merged = line(tables, "deepfm", "merged", 3)["test_auc"]
    low, high = panel.get_ylim()
    assert soup < low < merged < high
    assert f"soup:3 {soup:.4f} ↓" in "\n".join(text.get_text() for text in panel.texts)
    assert tables.about.best is not None
    drawn = low < tables.about.best.auc < high
    assert "width:2" not in "\n".join(text.get_text() for text in panel.texts)
    named = any("best possible" in text.get_text() for text in panel.texts)
    assert drawn != named


@pytest.mark.parametrize(("metric", "better"), [("auc", 0.2), ("logloss", -0.2)])
def test_an_arm_far_ahead_is_drawn(tables: Tables, metric: str, better: float) -> None:
    budget = tables.budget.copy()
    budget.loc[budget["contender"] == "width:2", f"test_{metric}"] += better
    panel, *_ = draw_cost(tables.about, budget, metric).axes
    assert panel.get_title().startswith("deepfm\n")
    low, high = panel.get_ylim()
    arms = budget[(budget["group"] == "deepfm") & (budget["contender"] == "width:2")]
    assert arms[f"test_{metric}"].between(low, high).all()
    assert "width" in panel.get_legend_handles_labels()[1]


def test_pairs_are_those_of_naive_loops(root: Path) -> None:
    members = load_members(root, "avazu")
    scores = score_members(members)
    table = diversity_table(members, scores)
    assert list(zip(table["first"], table["second"], strict=True)) == [
        *(("deepfm", "deepfm"), ("deepfm", "fm")),
        ("fm", "fm"),
    ]
    assert list(table["pairs"]) == list(table["pairs_possible"]) == [3, 6, 3]
    labels, rate = members.labels["test"], members.labels["val"].mean()
    deepfm, fm = logits_of(root, "deepfm"), logits_of(root, "fm")
    pairs = [(a, b) for i, a in enumerate(deepfm) for j, b in enumerate(fm) if i != j]
    p = [(expit(a), expit(b)) for a, b in pairs]
    row = table.iloc[1]
    errors = [np.corrcoef(labels - a, labels - b)[0, 1] for a, b in p]
    assert row["error_correlation"] == pytest.approx(np.mean(errors), abs=1e-9)
    apart = np.mean([((a > rate) != (b > rate)).mean() for a, b in p])
    assert row["disagreement"] == pytest.approx(apart, abs=1e-12)
    auc_gain, logloss_gain = gains_of_pairs(labels, pairs)
    assert row["ambiguity"] == pytest.approx(logloss_gain, abs=1e-9)
    assert row["logloss_gain"] == pytest.approx(logloss_gain, abs=1e-9)
    assert row["auc_gain"] == pytest.approx(auc_gain, abs=1e-6)
    aucs = np.mean([roc_auc_score(labels, (a + b) / 2) for a, b in pairs])
    assert row["test_auc"] == pytest.approx(aucs, abs=1e-6)
    better = np.mean([roc_auc_score(labels, z) for z in deepfm])  # also on validation
    assert row["auc_gain_over_better"] == pytest.approx(aucs - better, abs=1e-6)
    auc_gain, logloss_gain = gains_of_pairs(labels, list(zip(deepfm, fm, strict=True)))
    assert row["auc_gain_same_seed"] == pytest.approx(auc_gain, abs=1e-6)
    assert row["logloss_gain_same_seed"] == pytest.approx(logloss_gain, abs=1e-9)
    assert table.loc[table["first"] == table["second"], "auc_gain_same_seed"].isna().all()


def gains_of_pairs(
    labels: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, float]:
    """AUC and log loss that the logit mean of two gains over their mean; means over pairs."""

    def scores(z: np.ndarray) -> np.ndarray:
        return np.array([roc_auc_score(labels, z), -log_loss(labels, expit(z))])

    gains = [scores((a + b) / 2) - (scores(a) + scores(b)) / 2 for a, b in pairs]
    auc_gain, logloss_gain = np.mean(gains, axis=0)
    return auc_gain, logloss_gain


def test_two_models_of_one_seed_are_a_pair_where_there_is_no_other(tmp_path: Path) -> None:
    log = FakeLog()
    for model in ("deepfm", "fm"):
        log.write_run(tmp_path, model, 1)
    members = load_members(tmp_path, "avazu")
    (row,) = diversity_table(members, score_members(members)).to_dict("records")
    assert (row["first"], row["second"], row["pairs"]) == ("deepfm", "fm", 1)
    assert row["auc_gain_same_seed"] == row["auc_gain"]


def test_more_pairs_than_needed_are_sampled_and_counted(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in range(6):
        log.write_run(tmp_path, "fm", seed)
    members = load_members(tmp_path, "avazu")
    table = diversity_table(members, score_members(members))
    assert (table["pairs"].item(), table["pairs_possible"].item()) == (10, 15)


def test_the_cost_of_several_models_is_absolute_and_that_of_the_dearest(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "fm", seed, noise=0.1, macs=100)
        log.write_run(tmp_path, "deepfm", seed, noise=0.5, macs=1000)
    members = load_members(tmp_path, "avazu")
    tables = make_tables("avazu", members, pools=["logit"], max_subsets=4)
    text = answer(tables)
    assert text.startswith("The base, fm (the best on validation)")
    assert "all 6 members of 2 models (3.3k multiply-adds a row, 3.3x deepfm)" in text
    assert "33.0x" not in text
    everything = line(tables, "all", "all", 6)
    cells = against_base(tables).rows
    assert ["33.00x", f"{everything['macs_per_row']:,.0f}"] in [row[3:5] for row in cells]


def test_settings_that_an_arm_does_not_share_with_its_base_are_said(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "deepfm", seed)
        log.write_run(tmp_path, "deepfm", seed, arm="width:2", settings={"lr": 2e-3})
        log.write_run(tmp_path, "deepfm", seed, arm="depth:2")
        log.write_run(tmp_path, "fm", seed, settings={"lr": 3e-3 + (seed == 3)})
        log.write_run(tmp_path, "deepfm+fm", seed, arm="joint:2", settings={"lr": 9e-3})
    report = tmp_path / "avazu/deepfm/depth:2/seed-1/report.json"
    report.write_text(report.read_text().replace("f" * 64, "0123456789"))
    tables = make_tables("avazu", load_members(tmp_path, "avazu"), pools=["logit"], max_subsets=4)
    assert tables.about.own_settings == {
        "deepfm/depth:2": {"encoding": "01234567, ffffffff (base ffffffff)"},
        "deepfm/width:2": {"lr": "0.002 (base 0.001)"},
        "fm/base": {"lr": "0.003, 1.003"},
    }
    said = "Trained with settings of their own, which the report lists: "
    assert f"{said}fm base; deepfm depth:2, width:2." in answer(tables).split("\n\n")
    table = settings_table(tables.about.own_settings)
    assert table.header == ["arm", "lr", "encoding"]
    assert table.rows == [
        ["fm/base", "0.003, 1.003", ""],
        ["deepfm/depth:2", "", "01234567, ffffffff (base ffffffff)"],
        ["deepfm/width:2", "0.002 (base 0.001)", ""],
    ]
    assert table.render("pipe") in render_report(tables, [])


def test_the_order_of_seeds_makes_no_settings_of_ones_own(tmp_path: Path) -> None:
    log = FakeLog()
    for seed, lr in ((1, 1e-3), (2, 2e-3)):
        log.write_run(tmp_path, "deepfm", seed, settings={"lr": lr})
        log.write_run(tmp_path, "deepfm", seed, arm="width:2", settings={"lr": 3e-3 - lr})
    own = own_settings(load_members(tmp_path, "avazu"))
    assert own == {"deepfm/base": {"lr": "0.001, 0.002"}}


def test_tables_of_before_there_were_own_settings_can_be_read(tables: Tables) -> None:
    older = asdict(tables.about)
    del older["own_settings"]
    assert About.from_json(older) == tables.about
