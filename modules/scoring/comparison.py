"""The whole comparison: from saved predictions to tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from modules.scoring.about import About
from modules.scoring.budget import MERGED, budget_table
from modules.scoring.calibration import calibration_table
from modules.scoring.curve import curve_table
from modules.scoring.diversity import diversity_table
from modules.scoring.groups import ALL, make_groups
from modules.scoring.members import BASE, Members, score_members, score_runs
from modules.scoring.merging import merge_members
from modules.scoring.pools import main_pool
from modules.scoring.tables import Tables


def make_tables(
    dataset: str,
    members: Members,
    *,
    pools: Sequence[str],
    max_subsets: int,
    calibration: bool = False,
) -> Tables:
    """Score, merge and compare members and their rivals."""
    scores = score_members(members)
    rival_scores = score_runs(members.rivals, members.labels)
    groups = make_groups(members, scores, max_subsets)
    pool = main_pool(pools)
    merged = merge_members(members, scores, groups, pools=pools)
    budget = budget_table(members, scores, rival_scores, groups, pool)
    return Tables(
        about=About.of(dataset, members, pool),
        members=pd.concat([scores, rival_scores], ignore_index=True),
        merged=merged,
        budget=budget,
        diversity=diversity_table(members, scores),
        curve=curve_table(merged, pool, _noise(budget)),
        calibration=calibration_table(members, scores, pool) if calibration else pd.DataFrame(),
    )


def _noise(budget: pd.DataFrame) -> dict[str, float]:
    """For each group of random subsets the log-loss gain that cannot be told from none.

    The larger of the seeds' sd and the half-width of the interval of all its members merged.
    """
    noise = {}
    merges = budget[(budget["against"] == BASE) & budget["contender"].isin([MERGED, ALL])]
    for group, rows in merges.groupby("group", sort=False):
        last = rows.iloc[-1]
        half = (last["logloss_high"] - last["logloss_low"]) / 2
        noise[str(group)] = float(pd.Series([half, last["logloss_noise"]]).max())
    return noise
