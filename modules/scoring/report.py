"""The report of a merge: the answer, its tables, its pictures."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from modules.scoring.about import About, Best
from modules.scoring.answer import answer
from modules.scoring.budget import BASE
from modules.scoring.calibration import expected_calibration_error
from modules.scoring.groups import ALL, MIXED, SELECTED, SUBSET_SEED
from modules.scoring.layout import Layout, interval, number, with_sd
from modules.scoring.pictures import shown_pool
from modules.scoring.pools import POOLS
from modules.scoring.tables import Tables

PICTURE_TITLES = {
    "cost_auc.png": "Test AUC against multiply-adds",
    "cost_logloss.png": "Test log loss against multiply-adds",
    "gain.png": "Gain over the mean member against K",
    "curve.png": "Log loss against K, fitted",
    "pairs.png": "Pairs of architectures",
    "diversity.png": "Gain against ambiguity",
    "calibration.png": "Calibration before and after merging",
}


def render_report(tables: Tables, pictures: Sequence[str]) -> str:
    """The report in Markdown: what the pictures' file names are, in the order shown."""
    parts = [f"# Merging on the {tables.about.log}", answer(tables), *_best_line(tables.about.best)]
    for table, note in _sections(tables):
        parts += [f"## {table.title}", table.render("pipe"), *note]
    parts += ["## Rows, seeds, machine", _about_list(tables.about), "## Pictures"]
    parts += [f"![{PICTURE_TITLES[name]}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def render_latex(tables: Tables) -> str:
    """Every table of the report for LaTeX, with the package booktabs."""
    return (
        "\n\n".join(
            f"% {table.title}\n{table.render('latex_booktabs')}" for table, _ in _sections(tables)
        )
        + "\n"
    )


def main_table(tables: Tables) -> Layout:
    """All members of each group merged, beside its members; test split."""
    merged, scores = tables.merged, _merged_members(tables)
    pools = list(merged["pool"].unique())
    shown = shown_pool(tables.about, merged)
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


def _sections(tables: Tables) -> list[tuple[Layout, list[str]]]:
    """Every table with the sentences that explain it."""
    sections = [
        (_against_base(tables), [_BUDGET_NOTE.format(pool=POOLS[tables.about.pool].title)]),
        (main_table(tables), [_MAIN_NOTE]),
        (_gain_table(tables.merged), [_subset_note(tables.merged), _GROUP_NOTE, _POOL_NOTE]),
        (_cost_table(tables), [_COST_NOTE]),
    ]
    if (tables.budget["against"] != BASE).any():
        sections.insert(1, (_at_equal_cost(tables), [_EQUAL_COST_NOTE]))
    if len(tables.curve):
        sections.append((_curve_table(tables.curve), [_CURVE_NOTE]))
    if len(tables.diversity):
        sections.append((_pair_table(tables.diversity), [_PAIR_NOTE]))
    if len(tables.calibration):
        sections.append((_calibration_table(tables.calibration), [_CALIBRATION_NOTE]))
    return sections


_BUDGET_NOTE = (
    "Positive is better; merges are made by {pool}. A score is the mean over seeds, or over "
    "subsets of K members (at most ten), which overlap; in round brackets its sd over them. In "
    "square brackets the paired 95 % interval of the difference on these test rows: DeLong's for "
    "AUC, that of the mean row difference for log loss. `noise`: the interval contains 0, or the "
    "difference is not above the sd of base members over seeds. Latency is that of a batch of 4096 "
    "rows; with a worker for each member it is that of the slowest."
)
_EQUAL_COST_NOTE = "Positive: the merge is better than the arm whose cost is nearest to its own."
_MAIN_NOTE = (
    "The sd is over members; for `all` it includes the differences between models, and its mean "
    "member is that of all models, weak ones included. Pick the member that is best on validation: "
    "the one best on test is an oracle, for comparison only. Ambiguity A is the log loss that the "
    "logit mean gains over the mean member."
)
_GROUP_NOTE = (
    f"`{MIXED}` merges one seed of each of K models, the models chosen one after another on "
    f"validation; its subsets are the seeds. `{SELECTED}` is K members of any model chosen in the "
    f"same way, one set a size. Neither is chosen by its test score. `{ALL}` is any K members."
)
_POOL_NOTE = (
    "A of a weighted mean or a greedy bag is that of its own weights; the other pools show A of "
    "the logit mean of the same members. A / gain is the share of the log-loss gain that A "
    "explains: all of it where the pool is a mean of logits, an identity that every merge asserts "
    "to 1e-9. The weighted mean weighs a member by the nats that it gains on validation over the "
    "mean click rate; greedy selection adds on validation, with replacement, the member that helps "
    "most, K picks; the rank mean has an AUC only."
)
_COST_NOTE = (
    "A merge costs the sum of its members. Seconds are those of training, as the runs reported "
    "them."
)
_CURVE_NOTE = (
    "Log loss of K members fitted with L∞ + a/K, the form for independent members. Residual: root "
    "mean square of what the fit misses. K enough: beyond it, all further members together are "
    "expected to gain less than the noise, which is the larger of the sd over seeds and of the "
    "half-width of the interval of all members merged."
)
_PAIR_NOTE = (
    "Logit mean of two members; means over pairs of members, at most ten drawn at random a row. "
    "Error: label less probability. Disagreement: share of rows of which one member says that they "
    "are clicked more often than the mean row, and the other not. Better: by validation."
)
_CALIBRATION_NOTE = (
    "Expected calibration error over bins of equally many rows: mean of |predicted - clicked|."
)


def _against_base(tables: Tables) -> Layout:
    header = [
        "base",
        "contender",
        "K",
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
            "all models" if row["contender"] == ALL else row["contender"],
            str(row["k"]),
            f"{row['factor']:.2f}x",
            f"{row['table_parameters']:,.0f}",
            f"{row['dense_parameters']:,.0f}",
            number(row["latency_ms"], 2),
            number(row["latency_parallel_ms"], 2),
            *_difference(row),
        ]
        for _, row in tables.budget[tables.budget["against"] == BASE].iterrows()
    ]
    return Layout("Arms and merges at their cost, against the base (test split)", header, rows)


def _at_equal_cost(tables: Tables) -> Layout:
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


def _gain_table(merged: pd.DataFrame) -> Layout:
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
        first = merges.iloc[0]
        row = [group, str(k), f"{first['subsets']} of {first['subsets_possible']}"]
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


def _subset_note(merged: pd.DataFrame) -> str:
    sampled = (merged["subsets"] < merged["subsets_possible"]).any()
    how = (
        f"Where not all subsets are scored, those that are were drawn at random (seed "
        f"{SUBSET_SEED})."
        if sampled
        else "All subsets are scored."
    )
    return (
        f"Positive is better. Each row is the mean over subsets of K members, each against the "
        f"mean of its own members. {how} Subsets overlap, so their sd is not that of independent "
        f"merges: it falls towards 0 as K nears the whole group."
    )


def _cost_table(tables: Tables) -> Layout:
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
    scores = _merged_members(tables)
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
                number(latency.mean(), 2),
                number(latency.sum(skipna=False), 2),
                number(latency.max(skipna=False), 2),
                f"{members['seconds'].mean():,.1f}",
                f"{members['seconds'].sum():,.1f}",
            ]
        )
    return Layout("Cost of merging all members", header, rows)


def _curve_table(curve: pd.DataFrame) -> Layout:
    header = ["group", "pool", "sizes", "L∞", "a", "residual", "noise", "K enough"]
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


def _pair_table(diversity: pd.DataFrame) -> Layout:
    header = [
        "architectures",
        "pairs",
        "ambiguity A",
        "error correlation",
        "disagreement",
        "merged AUC",
        "AUC gain over mean",
        "over better",
        "merged log loss",
        "log loss gain over mean",
        "over better",
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
            number(row["test_logloss"]),
            number(row["logloss_gain"], sign="+"),
            number(row["logloss_gain_over_better"], sign="+"),
        ]
        for _, row in diversity.iterrows()
    ]
    return Layout("Diversity of pairs", header, rows)


def _calibration_table(calibration: pd.DataFrame) -> Layout:
    header = ["group", "best member by validation", "all merged"]
    rows = []
    for group, of_group in calibration.groupby("group", sort=False):
        errors = [
            expected_calibration_error(of_group[of_group["prediction"] == who])
            for who in ("member", "merged")
        ]
        rows.append([str(group), *(number(error) for error in errors)])
    return Layout("Expected calibration error", header, rows)


def _best_line(best: Best | None) -> list[str]:
    if best is None:
        return []
    return [
        f"Best possible on these rows, by the true probabilities: AUC {best.auc:.5f}, log loss "
        f"{best.logloss:.5f}."
    ]


def _about_list(about: About) -> str:
    rows = ", ".join(
        f"{split} {count:,} ({about.positives[split] / count:.2%} positive)"
        for split, count in about.rows.items()
    )
    seeds = "; ".join(
        f"{model} {', '.join(map(str, seeds))}" for model, seeds in about.seeds.items()
    )
    lines = [f"rows: {rows}", f"seeds: {seeds}", f"arm: {about.arm}"]
    lines += [f"{name}: {'; '.join(values)}" for name, values in about.trained_on.items()]
    return "\n".join(f"- {line}" for line in lines)


def _merged_members(tables: Tables) -> pd.DataFrame:
    """The members that were merged, without their rivals."""
    members = tables.members
    return members[
        (members["arm"] == tables.about.arm) & members["model"].isin(list(tables.about.seeds))
    ]


def _whole_groups(merged: pd.DataFrame, pool: str) -> pd.DataFrame:
    """The rows in which a group's members are all merged, by group; chosen sets are no group."""
    rows = merged[(merged["pool"] == pool) & ~merged["group"].isin([MIXED, SELECTED])]
    return rows.groupby("group", sort=False).tail(1).set_index("group")


def _members_of(group: str, scores: pd.DataFrame) -> pd.DataFrame:
    return scores if group == ALL else scores[scores["model"] == group]


def _cell(rows: pd.DataFrame, group: str, column: str) -> str:
    return number(rows.at[group, column]) if group in rows.index else ""
