"""Pools: how the predictions of several members become one.

Shapes: M members, S merges of them, B rows. A merge is a row of weights (S, M) that sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modules.runs import RunError
from modules.scoring.metrics import Floats, sigmoids

Mean = Callable[[Floats, Floats], Floats]


def logit_mean(weights: Floats, logits: Floats) -> Floats:
    """The mean logits, (S, M) and (M, B) -> (S, B)."""
    merged: Floats = weights @ logits
    return merged


def probability_mean(weights: Floats, logits: Floats) -> Floats:
    """The logits of the mean probabilities, (S, M) and (M, B) -> (S, B).

    p and 1 - p are averaged each for itself: from a logit of 37 on, 1 - p would be 0.
    """
    clicks, others = sigmoids(logits)
    odds: Floats = (weights @ clicks) / (weights @ others)
    return np.log(odds)


def rank_sum(weights: Floats, ranks: Floats) -> Floats:
    """The summed ranks of the members that have a weight, (S, M) and (M, B) -> (S, B).

    Rows are ordered as by the mean rank; whole numbers keep ties, which are many, as they are.
    """
    summed: Floats = (weights > 0).astype(np.float64) @ ranks
    return summed


@dataclass(frozen=True)
class Pool:
    """A way to merge: the mean that is taken, and what it is called in a report."""

    title: str
    mean: Mean
    has_logloss: bool = True


# greedy and weighted are logit means too; their weights come from the validation split.
POOLS = {
    "prob": Pool("probability mean", probability_mean),
    "logit": Pool("logit mean", logit_mean),
    "weighted": Pool("weighted logit mean", logit_mean),
    "greedy": Pool("greedy selection", logit_mean),
    "rank": Pool("rank mean, AUC only", rank_sum, has_logloss=False),
}


def check_pools(pools: Sequence[str]) -> None:
    """Raise `RunError` for a name that is no pool."""
    for pool in pools:
        if pool not in POOLS:
            raise RunError(f"unknown pool '{pool}'; there are: {', '.join(POOLS)}")


def main_pool(pools: Sequence[str]) -> str:
    """The pool that intervals and costs are given for: the first that merges all, else `prob`.

    A greedy bag leaves members out, and a rank mean has no log loss.
    """
    return next((pool for pool in pools if pool in ("prob", "logit", "weighted")), "prob")


def shown_pool(main: str, merged: pd.DataFrame) -> str:
    """The main pool where it was merged in, else the first one that was."""
    pools = list(merged["pool"].unique())
    return main if main in pools else str(pools[0])


def equal_weights(subsets: Sequence[Sequence[int]], members: int) -> Floats:
    """Weights (S, M) of the subsets, whose members count alike."""
    weights = np.zeros((len(subsets), members))
    for row, subset in zip(weights, subsets, strict=True):
        row[list(subset)] = 1 / len(subset)
    return weights


def information_weights(equal: Floats, val_logloss: Floats, val_labels: np.ndarray) -> Floats:
    """Equal weights (S, M) turned into weights by what each member knows, (S, M).

    A member counts by the nats that it gains, on validation, over predicting the mean click rate
    for every row: max(0, H - its log loss), H the entropy of that rate. Where no member of a
    merge gains any, they count alike.
    """
    rate = float(np.mean(val_labels))
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    weights = equal * np.maximum(0.0, entropy - val_logloss)
    sums = weights.sum(axis=1, keepdims=True)
    known = sums > 0
    return np.where(known, weights / np.where(known, sums, 1.0), equal)


def double_ranks(scores: np.ndarray) -> np.ndarray:
    """Twice the rank of each score among all, from 0, (rows,); ties share the mean rank.

    Whole numbers, in float32 as long as that has room for them.
    """
    order = np.argsort(scores)
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], len(scores)]
    ranks = np.empty(len(scores), np.float32 if len(scores) <= 2**23 else np.float64)
    ranks[order] = np.repeat(starts + ends - 1, ends - starts)
    return ranks
