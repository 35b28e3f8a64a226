"""The tables of a report, ready to be set."""

from __future__ import annotations

import math

import pandas as pd

from modules.scoring.calibration import expected_calibration_error
from modules.scoring.groups import ALL, MIXED, SELECTED
from modules.scoring.layout import Layout, interval, number, with_sd
from modules.scoring.members import BASE
from modules.scoring.pools import POOLS, shown_pool
from modules.scoring.tables import Tables


def main_table(tables: Tables) -> Layout:
    """All members of each group merged, beside its members; test split."""
    merged, scores = tables.merged, tables.merged_members()
    pools = list(merged["pool"].unique())
    shown = shown_pool(tables.about.pool, merged)
    by_pool = {pool: _whole_groups(merged, pool) for pool in pools}
    with_loss = [pool for pool in pools if POOLS[pool].has_logloss]
    header = [
        "group",
        "K",
        "mean member\nAUC (sd)",
        "best on val,\ntest AUC",
        "oracle: best\non test",
        *(f"merged AUC,\n{POOLS[pool].title}" for pool in pools),
        "mean member\nlog loss (sd)",
        *(f"merged log loss,\n{POOLS[pool].title}" for pool in with_loss),
        "ambiguity\nA",
    ]
    rows = [
        [
            group,
            str(merge["k"]),
            with_sd(merge["member_auc"], _members_of(group, scores)["test_auc"].std()),
            number(merge["best_on_val_auc"]),
            number(merge["best_member_auc"]),
            *(_cell(by_pool[pool], group, "test_auc") for pool in pools),
            with_sd(merge["member_logloss"], _members_of(group, scores)["test_logloss"].std()),
            *(_cell(by_pool[pool], group, "test_logloss") for pool in with_loss),
            number(merge["ambiguity"]),
        ]
        for group, merge in by_pool[shown].iterrows()
    ]
    return Layout("All members merged (test split)", header, rows)


def against_base(tables: Tables) -> Layout:
    """Every arm and every merge at its cost, against the base, or the arm that is merged."""
    names = {ALL: "all models", BASE: tables.about.arm}
    header = [
        "model",
        "contender",
        "K",
        f"of the {tables.about.arm}'s cost",
        "multiply-adds",
        "table parameters",
        "dense parameters",
        "latency, ms",
        "latency, K workers",
        *_DIFFERENCE_HEADER,
    ]
    rows = [
        [
            row["base_model"],
            names.get(row["contender"], row["contender"]),
            str(row["k"]),
            f"{row['factor']:.2f}x",
            f"{row['macs_per_row']:,.0f}",
            f"{row['table_parameters']:,.0f}",
            f"{row['dense_parameters']:,.0f}",
            number(row["latency_ms"], 2),
            number(row["latency_parallel_ms"], 2),
            *_difference(row),
        ]
        for _, row in tables.budget[tables.budget["against"] == BASE].iterrows()
    ]
    title = f"Arms and merges at their cost, against the {tables.about.arm} (test split)"
    return Layout(title, header, rows)


def at_equal_cost(tables: Tables) -> Layout:
    """Merges against the arms whose cost is nearest."""
    header = ["model", "merge", "cost", "against", "its cost", *_DIFFERENCE_HEADER]
    rows = [
        [
            row["group"],
            f"{row['k']} merged",
            f"{row['factor']:.2f}x",
            row["against"],
            f"{row['against_factor']:.2f}x",
            *_difference(row),
        ]
        for _, row in tables.budget[tables.budget["against"] != BASE].iterrows()
    ]
    return Layout("Merging against a bigger model at the nearest equal cost", header, rows)


def settings_table(arms: dict[str, dict[str, str]]) -> Layout:
    """The settings in which arms are not like their base; a row an arm, a column a setting."""
    names = list(dict.fromkeys(name for settings in arms.values() for name in settings))
    rows = [[arm, *(settings.get(name, "") for name in names)] for arm, settings in arms.items()]
    return Layout("Settings in which an arm is not like its base", ["arm", *names], rows)


def gain_table(merged: pd.DataFrame) -> Layout:
    """What each size of each group gains in each pool."""
    pools = list(merged["pool"].unique())
    with_loss = [pool for pool in pools if POOLS[pool].has_logloss]
    header = ["group", "K", "subsets"]
    header += [f"AUC, {POOLS[pool].title} (sd)" for pool in pools]
    for pool in with_loss:
        title = POOLS[pool].title
        header += [f"log loss, {title} (sd)", f"A, {title}", "A / gain"]
    rows = []
    for (group, k), merges in merged.groupby(["group", "k"], sort=False):
        of_pool = {merge["pool"]: merge for _, merge in merges.iterrows()}
        most = max(of_pool.values(), key=lambda merge: merge["subsets_possible"])  # greedy has one
        row = [group, str(k), f"{most['subsets']} of {most['subsets_possible']}"]
        for pool in pools:
            gain = of_pool.get(pool)
            cell = "" if gain is None else with_sd(gain["auc_gain"], gain["auc_gain_sd"], sign="+")
            row.append(cell)
        for pool in with_loss:
            gain = of_pool.get(pool)
            if gain is None:
                row += ["", "", ""]
                continue
            row.append(with_sd(gain["logloss_gain"], gain["logloss_gain_sd"], sign="+"))
            row += [number(gain["ambiguity"]), number(gain["explained"], 3)]
        rows.append(row)
    return Layout("Gain over the mean member against K (test split)", header, rows)


def cost_table(tables: Tables) -> Layout:
    """What the members of a group cost, alone and merged."""
    header = [
        "group",
        "members",
        "table parameters, mean member",
        "dense parameters, mean member",
        "multiply-adds a row, mean member",
        "multiply-adds a row, merged",
        "latency, ms, mean member",
        "latency, ms, merged on one worker",
        "latency, ms, a worker each",
        "seconds, mean member",
        "seconds, all members",
    ]
    scores = tables.merged_members()
    models = list(scores["model"].unique())
    rows = []
    for group in [*models, *([ALL] if len(models) > 1 else [])]:
        members = _members_of(group, scores)
        latency = members["latency_ms"]
        rows.append(
            [
                group,
                str(len(members)),
                f"{members['table_parameters'].mean():,.0f}",
                f"{members['dense_parameters'].mean():,.0f}",
                f"{members['macs_per_row'].mean():,.0f}",
                f"{members['macs_per_row'].sum():,.0f}",
                number(latency.mean(skipna=False), 2),
                number(latency.sum(skipna=False), 2),
                number(latency.max(skipna=False), 2),
                f"{members['seconds'].mean():,.1f}",
                f"{members['seconds'].sum():,.1f}",
            ]
        )
    return Layout("Cost of merging all members", header, rows)


def curve_table(curve: pd.DataFrame) -> Layout:
    """The fits of log loss against K."""
    header = ["group", "pool", "sizes", "L_inf", "a", "residual", "noise", "K enough"]
    rows = [
        [
            fit["group"],
            POOLS[fit["pool"]].title,
            str(fit["sizes"]),
            number(fit["limit"]),
            number(fit["scale"]),
            f"{fit['residual']:.1e}" if fit["sizes"] > 2 else "none: two points",
            f"{fit['noise']:.1e}",
            f"{fit['enough']:.0f}",
        ]
        for _, fit in curve.iterrows()
    ]
    return Layout("Scaling curve: log loss against K", header, rows)


def pair_table(diversity: pd.DataFrame) -> Layout:
    """How different the members of two architectures are, and what merging them gains."""
    header = [
        "architectures",
        "pairs",
        "ambiguity A",
        "error correlation",
        "disagreement",
        "merged AUC",
        "AUC gain over mean",
        "over better",
        "of one seed",
        "merged log loss",
        "log loss gain over mean",
        "over better",
        "of one seed",
    ]
    rows = [
        [
            f"{row['first']}, {row['second']}",
            f"{row['pairs']} of {row['pairs_possible']}",
            number(row["ambiguity"]),
            number(row["error_correlation"], 4),
            f"{row['disagreement']:.2%}",
            number(row["test_auc"]),
            number(row["auc_gain"], sign="+"),
            number(row["auc_gain_over_better"], sign="+"),
            number(row.get("auc_gain_same_seed", math.nan), sign="+"),
            number(row["test_logloss"]),
            number(row["logloss_gain"], sign="+"),
            number(row["logloss_gain_over_better"], sign="+"),
            number(row.get("logloss_gain_same_seed", math.nan), sign="+"),
        ]
        for _, row in diversity.iterrows()
    ]
    return Layout("Diversity of pairs", header, rows)


def calibration_table(calibration: pd.DataFrame) -> Layout:
    """The error of the best member and of the merge."""
    header = ["group", "best member by validation", "all merged"]
    rows = []
    for group, of_group in calibration.groupby("group", sort=False):
        errors = [
            expected_calibration_error(of_group[of_group["prediction"] == who])
            for who in ("member", "merged")
        ]
        rows.append([str(group), *(number(error) for error in errors)])
    return Layout("Expected calibration error", header, rows)


_DIFFERENCE_HEADER = [
    "test AUC (sd)",
    "AUC gain",
    "95 % interval",
    "verdict",
    "test log loss (sd)",
    "log loss gain",
    "95 % interval",
    "verdict",
]


def _difference(row: pd.Series) -> list[str]:
    """Scores and differences of a line of the budget; a base has no difference to itself."""
    cells = []
    for metric in ("auc", "logloss"):
        cells.append(with_sd(row[f"test_{metric}"], row[f"test_{metric}_sd"]))
        if row["contender"] == BASE:
            cells += ["", "", ""]
        else:
            cells.append(number(row[f"{metric}_gain"], sign="+"))
            cells.append(interval(row[f"{metric}_low"], row[f"{metric}_high"]))
            cells.append(row[f"{metric}_verdict"])
    return cells


def _whole_groups(merged: pd.DataFrame, pool: str) -> pd.DataFrame:
    """The rows in which a group's members are all merged, by group; chosen sets are no group."""
    rows = merged[(merged["pool"] == pool) & ~merged["group"].isin([MIXED, SELECTED])]
    return rows.groupby("group", sort=False).tail(1).set_index("group")


def _members_of(group: str, scores: pd.DataFrame) -> pd.DataFrame:
    return scores if group == ALL else scores[scores["model"] == group]


def _cell(rows: pd.DataFrame, group: str, column: str) -> str:
    return number(rows.at[group, column]) if group in rows.index else ""
