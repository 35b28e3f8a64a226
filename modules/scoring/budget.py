"""The comparison at equal cost: bigger models and merges against the base, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from modules.runs import Member
from modules.scoring.groups import ALL, MIXED, SELECTED, Group, balanced_subsets, places_by_model
from modules.scoring.members import BASE, MIX, Members
from modules.scoring.merging import merge_subset, subset_weights
from modules.scoring.metrics import ROUNDING, sample_sd
from modules.scoring.significance import (
    Profile,
    auc_difference,
    logloss_gain,
    profile,
)

MERGED = "merged"
SAME_COST = 1.25  # an arm and a merge whose multiply-adds differ by more are not compared
MAX_PROFILES = 10  # of one size behind an interval: all of them up to five seeds
COSTS = (
    "macs_per_row",
    "table_parameters",
    "dense_parameters",
    "latency_ms",
    "latency_parallel_ms",
)


@dataclass(frozen=True)
class Contender:
    """A way to spend a budget: what predicts, and what one such prediction costs on average.

    noise: by metric, the sd over seeds of the single runs that it consists of.
    """

    name: str
    k: int
    runs: int
    profile: Profile
    cost: dict[str, float]
    noise: dict[str, float]


@dataclass(frozen=True)
class Family:
    """A base, the bigger models made of it, and the merges that spend as much.

    base: places in `Members.runs`, those of a model that a mix has twice two times. merges: name
    and K, and the subsets that are averaged over.
    """

    name: str
    base_model: str
    base: Sequence[int]
    merges: dict[tuple[str, int], list[tuple[int, ...]]]


def budget_table(
    members: Members,
    scores: pd.DataFrame,
    rival_scores: pd.DataFrame,
    groups: Sequence[Group],
    pool: str,
) -> pd.DataFrame:
    """Every arm and every merge at its cost, against the base and at equal cost against each arm.

    An arm is compared with the merge of the nearest multiply-adds, if these are within `SAME_COST`.
    A contender's score is the mean over its seeds, or over subsets of K members in which all count
    alike; its interval is that of this mean on these test rows. The noise of a difference is the
    larger sd of single runs, of base members or of the arm's. The factor is the multiply-adds a row
    over those of the mean base member.
    """
    rows: list[dict[str, Any]] = []
    for family in _families(members, scores, rival_scores, groups):
        rows += _compare(family, members, scores, rival_scores, pool)
    return pd.DataFrame(rows)


def best_model(scores: pd.DataFrame) -> str:
    """The model whose mean member has the highest AUC on validation."""
    return str(scores.groupby("model", sort=False)["val_auc"].mean().idxmax())


def seed_sd(scores: pd.DataFrame, metric: str) -> float:
    """Sd of a metric over the seeds of a model, pooled over models; NaN for one seed a model."""
    return float(np.sqrt(scores.groupby("model")[metric].var().mean()))


def verdict(gain: float, low: float, high: float, noise: float) -> str:
    """`gain` or `loss` where the interval and the seeds allow no other reading, else `noise`.

    noise: sd of single runs over seeds, NaN where it is unknown.
    """
    if low <= 0 <= high or abs(gain) <= noise or abs(gain) <= ROUNDING:
        return "noise"
    return "gain" if gain > 0 else "loss"


def _families(
    members: Members, scores: pd.DataFrame, rival_scores: pd.DataFrame, groups: Sequence[Group]
) -> Iterator[Family]:
    by_model = places_by_model(scores)
    for model, places in by_model.items():
        merges = {
            (MERGED, k): [
                tuple(places[i] for i in subset)
                for subset in balanced_subsets(len(places), k, MAX_PROFILES)
            ]
            for k in range(2, len(places) + 1)
        }
        yield Family(model, model, places, merges)
    mixes = rival_scores["model"].unique() if len(rival_scores) else []
    for mix in [name for name in mixes if MIX in name]:
        counts = Counter(mix.split(MIX))
        parts = [(by_model[model], count) for model, count in counts.items()]
        seeds = min(len(places) for places, _ in parts)
        base = [i for places, count in parts for i in places[:seeds] * count]  # as in the merges
        yield Family(mix, mix, base, _rounds(parts, seeds))
    named = {group.name: group for group in groups}
    if ALL in named:
        best = best_model(scores)
        chosen = {
            (name, k): subsets
            for name in (MIXED, SELECTED)
            for k, subsets in named[name].subsets.items()
            if k > 1
        }
        everything = {(ALL, len(scores)): [tuple(range(len(scores)))]}
        yield Family(ALL, best, by_model[best], {**chosen, **everything})


def _rounds(
    parts: Sequence[tuple[Sequence[int], int]], seeds: int
) -> dict[tuple[str, int], list[tuple[int, ...]]]:
    """The mix once, twice ... from members: a round of other seeds of each starting at each seed.

    parts: the places of each model's members, and how often the mix has that model.
    """
    largest = max(count for _, count in parts)
    rounds = {}
    for each in range(1, seeds // largest + 1):
        taken = [(places, each * count) for places, count in parts]
        subsets = {
            tuple(sorted(places[(r + i) % seeds] for places, size in taken for i in range(size)))
            for r in range(seeds)
        }
        rounds[MERGED, sum(size for _, size in taken)] = sorted(subsets)
    return rounds


def _compare(
    family: Family, members: Members, scores: pd.DataFrame, rival_scores: pd.DataFrame, pool: str
) -> Iterator[dict[str, Any]]:
    labels = members.labels["test"]
    table = scores.iloc[list(dict.fromkeys(family.base))]
    base = Contender(
        BASE,
        1,
        len(table),
        profile((members.runs[i].logits("test") for i in family.base), labels),
        _cost(scores, [(i,) for i in family.base]),
        _noise(table),
    )

    def row(one: Contender, other: Contender) -> dict[str, Any]:
        return _row(family, one, other, base.cost["macs_per_row"])

    yield row(base, base)
    arms = list(_arms(family, members, rival_scores, labels))
    for arm in arms:
        yield row(arm, base)
    costs = {
        key: _cost(scores, [_used(members, scores, subset, pool) for subset in subsets])
        for key, subsets in family.merges.items()
    }
    nearest = {arm.name: _nearest(arm, base, costs) for arm in arms}
    for (name, k), subsets in family.merges.items():
        merged = Contender(
            name,
            k,
            len(subsets),
            profile((merge_subset(members, scores, subset, pool) for subset in subsets), labels),
            costs[name, k],
            base.noise,
        )
        yield row(merged, base)
        for arm in arms:
            if nearest[arm.name] == (name, k):
                yield row(merged, arm)


def _arms(
    family: Family, members: Members, rival_scores: pd.DataFrame, labels: np.ndarray
) -> Iterator[Contender]:
    """The rivals of the family's model, by arm; a group of several models has none of its own."""
    by_arm: dict[str, list[Member]] = {}
    for run in members.rivals:
        if run.model == family.name:
            by_arm.setdefault(run.arm, []).append(run)
    for arm, runs in by_arm.items():
        rows = (rival_scores["model"] == family.name) & (rival_scores["arm"] == arm)
        places = [(int(i),) for i in np.flatnonzero(rows)]
        yield Contender(
            arm,
            1,
            len(runs),
            profile((run.logits("test") for run in runs), labels),
            _cost(rival_scores, places),
            _noise(rival_scores[rows]),
        )


def _noise(runs: pd.DataFrame) -> dict[str, float]:
    return {metric: seed_sd(runs, f"test_{metric}") for metric in ("auc", "logloss")}


def _used(
    members: Members, scores: pd.DataFrame, subset: tuple[int, ...], pool: str
) -> tuple[int, ...]:
    """The members of a subset that have a weight; the others need not be asked."""
    weights = subset_weights(members, scores, subset, pool)
    return tuple(i for i, weight in zip(subset, weights, strict=True) if weight > 0)


def _cost(scores: pd.DataFrame, subsets: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """The mean cost of a prediction: the sum of its members', with workers the slowest's."""
    taken = [scores.iloc[list(subset)] for subset in subsets]
    summed = {
        key: float(np.mean([rows[key].to_numpy().sum() for rows in taken])) for key in COSTS[:-1]
    }
    slowest = np.mean([rows["latency_ms"].to_numpy().max() for rows in taken])
    return {**summed, "latency_parallel_ms": float(slowest)}


def _nearest(
    arm: Contender, base: Contender, costs: dict[tuple[str, int], dict[str, float]]
) -> tuple[str, int]:
    """The merge whose multiply-adds are nearest to the arm's, in proportion.

    The base, with which an arm is compared anyway, where none is within `SAME_COST`.
    """
    macs = {(BASE, 1): base.cost, **costs}
    wanted = np.log(arm.cost["macs_per_row"])
    away = {key: abs(np.log(cost["macs_per_row"]) - wanted) for key, cost in macs.items()}
    nearest = min(away, key=lambda key: away[key])
    return nearest if away[nearest] <= np.log(SAME_COST) else (BASE, 1)


def _row(family: Family, one: Contender, other: Contender, base_macs: float) -> dict[str, Any]:
    auc = auc_difference(one.profile, other.profile)
    logloss = logloss_gain(one.profile, other.profile)
    noise = {key: float(np.fmax(one.noise[key], other.noise[key])) for key in one.noise}
    return {
        "group": family.name,
        "base_model": family.base_model,
        "contender": one.name,
        "k": one.k,
        "runs": one.runs,
        "against": other.name,
        "factor": one.cost["macs_per_row"] / base_macs,
        "against_factor": other.cost["macs_per_row"] / base_macs,
        **one.cost,
        "test_auc": one.profile.aucs.mean(),
        "test_auc_sd": sample_sd(one.profile.aucs),
        "test_logloss": one.profile.loglosses.mean(),
        "test_logloss_sd": sample_sd(one.profile.loglosses),
        "auc_gain": auc.value,
        "auc_low": auc.low,
        "auc_high": auc.high,
        "auc_noise": noise["auc"],
        "auc_verdict": verdict(auc.value, auc.low, auc.high, noise["auc"]),
        "logloss_gain": logloss.value,
        "logloss_low": logloss.low,
        "logloss_high": logloss.high,
        "logloss_noise": noise["logloss"],
        "logloss_verdict": verdict(logloss.value, logloss.low, logloss.high, noise["logloss"]),
    }
