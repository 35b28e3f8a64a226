"""Merging: which subsets of members, how their logits become one, and what that gains.

Shapes: M members of a group, S subsets of them, B rows of a chunk. A subset is a row of weights
(S, M): 1/k for each of its k members, 0 for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from modules.runs import RunError
from modules.scoring.members import Members
from modules.scoring.metrics import Floats, auc, row_chunks, row_loss, sigmoid, softplus

ALL = "all"  # the group of all members of all models
SUBSET_SEED = 2021
SUBSETS_AT_ONCE = 16  # share one reading of the members; their merged logits are held in memory
IDENTITY_TOLERANCE = 1e-9

Pool = Callable[[Floats, Floats], Floats]


def logit_mean(weights: Floats, logits: Floats) -> Floats:
    """The mean logits, (S, M) and (M, B) -> (S, B)."""
    merged: Floats = weights @ logits
    return merged


def probability_mean(weights: Floats, logits: Floats) -> Floats:
    """The logits of the mean probabilities, (S, M) and (M, B) -> (S, B).

    p and 1 - p are averaged each for itself: from a logit of 37 on, 1 - p would be 0.
    """
    odds: Floats = (weights @ sigmoid(logits)) / (weights @ sigmoid(-logits))
    return np.log(odds)


POOLS: dict[str, Pool] = {"prob": probability_mean, "logit": logit_mean}


@dataclass(frozen=True)
class Group:
    """Members that are merged with each other; arrays are (M,), in the members' order."""

    name: str
    logits: Sequence[np.ndarray]  # of the test split, (rows,) each
    val_auc: Floats
    test_auc: Floats
    test_logloss: Floats


def check_pools(pools: Sequence[str]) -> None:
    """Raise `RunError` for a name that is no pool."""
    for pool in pools:
        if pool not in POOLS:
            raise RunError(f"unknown pool '{pool}'; there are: {', '.join(POOLS)}")


def merge_members(
    members: Members, scores: pd.DataFrame, *, pools: Sequence[str], max_subsets: int
) -> pd.DataFrame:
    """One row for each group, K and pool: the mean over subsets of K members of the group.

    scores: `score_members(members)`. max_subsets: more subsets than this are sampled.
    """
    steps = [
        (group, k) for group in _groups(members, scores) for k in range(1, len(group.logits) + 1)
    ]
    bar = tqdm(steps, desc="merging", leave=False, disable=None)
    return pd.DataFrame(
        [
            row
            for group, k in bar
            for row in _merge_group(group, k, members.labels["test"], pools, max_subsets)
        ]
    )


def choose_subsets(members: int, k: int, max_subsets: int) -> list[tuple[int, ...]]:
    """All subsets of k of `members` members, or a seeded sample of `max_subsets` of them."""
    if comb(members, k) <= max_subsets:
        return list(combinations(range(members), k))
    random = np.random.default_rng([SUBSET_SEED, members, k])
    chosen: set[tuple[int, ...]] = set()
    while len(chosen) < max_subsets:
        chosen.add(tuple(sorted(random.choice(members, k, replace=False).tolist())))
    return sorted(chosen)


def equal_weights(subsets: Sequence[Sequence[int]], members: int) -> Floats:
    """Weights (S, M) of the subsets, whose members count alike."""
    weights = np.zeros((len(subsets), members))
    for row, subset in zip(weights, subsets, strict=True):
        row[list(subset)] = 1 / len(subset)
    return weights


def score_merged(
    pool: Pool, weights: Floats, logits: Sequence[np.ndarray], labels: np.ndarray
) -> tuple[Floats, Floats]:
    """AUC and log loss of the merged predictions of each subset, (S,) each.

    logits, labels: (rows,) each. The merged logits are ranked in float32, the precision of every
    saved prediction; their log loss is summed in float64.
    """
    aucs: list[float] = []
    losses = []
    for block in _blocks(weights):
        merged = np.empty((len(block), len(labels)), np.float32)
        loss = np.zeros(len(block))
        for rows, chunk in _chunks(logits):
            pooled = pool(block, chunk)
            merged[:, rows] = pooled
            loss += row_loss(labels[rows], pooled).sum(axis=1)
        with ThreadPoolExecutor() as threads:  # numpy sorts without Python's lock
            aucs += threads.map(partial(auc, labels), merged)
        losses.append(loss / len(labels))
    return np.array(aucs), np.concatenate(losses)


def ambiguity(weights: Floats, logits: Sequence[np.ndarray]) -> Floats:
    """How far the members of each subset are apart, (S,), in nats; it needs no label.

    A = mean over rows of [mean_m softplus(z_m) - softplus(mean_m z_m)], which is what the logit
    mean gains over the mean member: NLL(mean z) = mean NLL(z_m) - A, exactly (Wood et al., JMLR,
    arXiv 2301.03962).
    """
    spreads = []
    for block in _blocks(weights):
        spread = np.zeros(len(block))
        for _, chunk in _chunks(logits):
            spread += (block @ softplus(chunk) - softplus(block @ chunk)).sum(axis=1)
        spreads.append(spread / len(logits[0]))
    return np.concatenate(spreads)


def _groups(members: Members, scores: pd.DataFrame) -> list[Group]:
    """A group for each model and, where there are several, one of all members."""
    logits = members.logits("test")
    rows = {model: np.flatnonzero(scores["model"] == model) for model in scores["model"].unique()}
    if len(rows) > 1:
        rows[ALL] = np.arange(len(scores))
    return [
        Group(
            name,
            [logits[i] for i in chosen],
            *(scores[key].to_numpy()[chosen] for key in ("val_auc", "test_auc", "test_logloss")),
        )
        for name, chosen in rows.items()
    ]


def _merge_group(
    group: Group, k: int, labels: np.ndarray, pools: Sequence[str], max_subsets: int
) -> Iterator[dict[str, Any]]:
    """The row of each pool for the subsets of `k` members of `group`."""
    size = len(group.logits)
    subsets = [list(subset) for subset in choose_subsets(size, k, max_subsets)]
    weights = equal_weights(subsets, size)
    member_auc = weights @ group.test_auc
    member_logloss = weights @ group.test_logloss
    spread = ambiguity(weights, group.logits)
    scored = {  # the logit mean always, for the identity
        pool: score_merged(POOLS[pool], weights, group.logits, labels) for pool in {*pools, "logit"}
    }
    _check_identity(group.name, k, scored["logit"][1] - (member_logloss - spread))
    best = np.array([group.test_auc[subset].max() for subset in subsets])
    best_on_val = np.array(
        [group.test_auc[subset][group.val_auc[subset].argmax()] for subset in subsets]
    )
    for pool in pools:
        merged_auc, merged_logloss = scored[pool]
        auc_gain, logloss_gain = merged_auc - member_auc, member_logloss - merged_logloss
        yield {
            "group": group.name,
            "k": k,
            "pool": pool,
            "subsets": len(subsets),
            "test_auc": merged_auc.mean(),
            "test_auc_sd": _sd(merged_auc),
            "test_logloss": merged_logloss.mean(),
            "test_logloss_sd": _sd(merged_logloss),
            "member_auc": member_auc.mean(),
            "member_logloss": member_logloss.mean(),
            "best_member_auc": best.mean(),
            "ambiguity": spread.mean(),
            "subsets_possible": comb(size, k),
            "best_on_val_auc": best_on_val.mean(),
            "auc_gain": auc_gain.mean(),
            "auc_gain_sd": _sd(auc_gain),
            "logloss_gain": logloss_gain.mean(),
            "logloss_gain_sd": _sd(logloss_gain),
        }


def _check_identity(group: str, k: int, errors: Floats) -> None:
    worst = float(np.abs(errors).max())
    if not worst <= IDENTITY_TOLERANCE:
        raise RunError(
            f"group '{group}', K = {k}: the log loss of the mean logit misses that of the mean "
            f"member less the ambiguity by {worst:.1e}, which cannot be unless a prediction file "
            f"changed during the merge; merge again"
        )


def _blocks(weights: Floats) -> Iterator[Floats]:
    for start in range(0, len(weights), SUBSETS_AT_ONCE):
        yield weights[start : start + SUBSETS_AT_ONCE]


def _chunks(logits: Sequence[np.ndarray]) -> Iterator[tuple[slice, Floats]]:
    """Chunks of rows: where they lie, and all members' logits there, (M, B) float64."""
    for rows in row_chunks(len(logits[0])):
        yield rows, np.stack([member[rows] for member in logits]).astype(np.float64)


def _sd(values: Floats) -> float:
    """Sample standard deviation; NaN of a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
