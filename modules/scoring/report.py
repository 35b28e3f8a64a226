"""The report of a merge: the answer, its tables, its pictures."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from modules.scoring.about import About, Best
from modules.scoring.answer import answer
from modules.scoring.groups import ALL, MIXED, SELECTED, SUBSET_SEED
from modules.scoring.layout import Layout
from modules.scoring.members import BASE
from modules.scoring.pools import POOLS
from modules.scoring.report_tables import (
    against_base,
    at_equal_cost,
    calibration_table,
    cost_table,
    curve_table,
    gain_table,
    main_table,
    pair_table,
    settings_table,
)
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
    """The report in Markdown, with the pictures of these file names at its end."""
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


def _sections(tables: Tables) -> list[tuple[Layout, list[str]]]:
    """Every table with the sentences that explain it."""
    sections = [
        (against_base(tables), [_BUDGET_NOTE.format(pool=POOLS[tables.about.pool].title)]),
        (main_table(tables), [_MAIN_NOTE]),
        (gain_table(tables.merged), [_subset_note(tables.merged), _GROUP_NOTE, _POOL_NOTE]),
        (cost_table(tables), [_COST_NOTE]),
    ]
    if tables.about.own_settings:
        sections.insert(1, (settings_table(tables.about.own_settings), [_SETTINGS_NOTE]))
    if (tables.budget["against"] != BASE).any():
        sections.insert(1, (at_equal_cost(tables), [_EQUAL_COST_NOTE]))
    if len(tables.curve):
        sections.append((curve_table(tables.curve), [_CURVE_NOTE]))
    if len(tables.diversity):
        sections.append((pair_table(tables.diversity), [_PAIR_NOTE]))
    if len(tables.calibration):
        sections.append((calibration_table(tables.calibration), [_CALIBRATION_NOTE]))
    return sections


_BUDGET_NOTE = (
    "Positive is better; merges are made by {pool}. A score is the mean over seeds, or over "
    "subsets of K members, which overlap: all of them up to ten, else as many as there are "
    "members, each in K of them; in round brackets its sd over them. In square brackets the "
    "paired 95 % interval of the difference on these test rows: DeLong's for AUC, that of the "
    "mean row difference for log loss. `noise`: the interval contains 0, or the difference is not "
    "above the sd over seeds of single members or of single runs of the arm, whichever is larger. "
    "Latency is that of a batch of 4096 rows; with a worker for each member it is that of the "
    "slowest."
)

_EQUAL_COST_NOTE = (
    "Positive: the merge is better than the arm, which costs as much to within a quarter."
)

_SETTINGS_NOTE = (
    "Empty: the base's value. Several values are those of different seeds; a base is listed where "
    "its own seeds differ."
)

_MAIN_NOTE = (
    "The sd is over members; for `all` it includes the differences between models, and its mean "
    "member is that of all models, weak ones included. Pick the member that is best on validation: "
    "the one best on test is an oracle, for comparison only. Ambiguity A is the log loss that the "
    "logit mean gains over the mean member, both with the weights of the pool."
)

_GROUP_NOTE = (
    f"`{MIXED}` merges one member of each of K models, of different seeds where all models have "
    f"the same, and the models chosen on validation; one subset begins with each seed. "
    f"`{SELECTED}` is K members of any model, chosen one after another on validation, one set a "
    f"size. Neither is chosen by its test score. `{ALL}` is any K members."
)

_POOL_NOTE = (
    "A / gain is the share of the log-loss gain that A explains: all of it in the logit mean, an "
    "identity that every merge asserts to 1e-9. A of a weighted mean or a greedy bag is that of "
    "its own weights, and the rest of its gain is that members do not count alike; the other pools "
    "show A of the logit mean of the same members. The weighted mean weighs a member by the nats "
    "that it gains on validation over the mean click rate; greedy selection adds on validation, "
    "with replacement, the member of the whole group that helps most, K picks, and its mean member "
    "is that of the group; the rank mean has an AUC only."
)

_COST_NOTE = (
    "A merge costs the sum of its members. Seconds are those of training, as the runs reported "
    "them."
)

_CURVE_NOTE = (
    "Log loss of K members fitted with L_inf + a/K, the form for independent members. Residual: "
    "root mean square of what the fit misses. K enough: beyond it, all further members together "
    "are expected to gain less than the noise, which is the larger of the sd over seeds and of the "
    "half-width of the interval of all members merged."
)

_PAIR_NOTE = (
    "Logit mean of two members; means over pairs of members, at most ten drawn at random a row. "
    "Error: label less probability. Disagreement: share of rows of which one member says that they "
    "are clicked more often than the mean row, and the other not. Better: by validation. Pairs of "
    "two architectures are of different seeds; the gain over the mean of pairs of one seed, which "
    "are trained in one order of the rows, stands under `of one seed`."
)

_CALIBRATION_NOTE = (
    "Expected calibration error over bins of equally many rows: mean of |predicted - clicked|."
)


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
