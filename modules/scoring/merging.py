"""Merging: what every subset of a group's members gains in every pool.

Shapes: M members of a group, S merges of them, B rows of a chunk. A merge is a row of weights
(S, M) that sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from modules.runs import RunError
from modules.scoring.groups import Group
from modules.scoring.members import Members
from modules.scoring.metrics import Floats, auc_of_classes, row_chunks, sample_sd, softplus
from modules.scoring.pools import (
    POOLS,
    Mean,
    double_ranks,
    equal_weights,
    information_weights,
    logit_mean,
    rank_sum,
)
from modules.scoring.selection import greedy_weights
from modules.scoring.threads import num_threads

MERGES_AT_ONCE = 8  # a thread; they share one reading, and their predictions are held in memory
IDENTITY_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Scored:
    """Test metrics of S merges, (S,) each.

    softplus: mean over rows of log(1 + exp(merged logit)), the part of the log loss without labels.
    """

    auc: Floats
    logloss: Floats
    softplus: Floats


def merge_members(
    members: Members, scores: pd.DataFrame, groups: Sequence[Group], *, pools: Sequence[str]
) -> pd.DataFrame:
    """One row for each group, K and pool: the mean over the group's subsets of K members.

    scores: `score_members(members)`. Raises `RunError` where the ambiguity identity does not hold.
    """
    bar = tqdm(groups, desc="merging", leave=False, disable=None)
    return pd.DataFrame(
        [row for group in bar for row in _merge_group(group, members, scores, pools)]
    )


def score_merged(
    mean: Mean, weights: Floats, logits: Sequence[np.ndarray], labels: np.ndarray
) -> Scored:
    """The metrics of each merge on rows with these labels (rows,).

    logits: (rows,) of each member, or its ranks for `rank_sum`. The merged logits are ranked in
    float32, the precision of every saved prediction; their log loss is summed in float64.
    """
    blocks = [weights[i : i + MERGES_AT_ONCE] for i in range(0, len(weights), MERGES_AT_ONCE)]
    with ThreadPoolExecutor(num_threads()) as threads:
        parts = list(threads.map(partial(_score_block, mean, logits, labels), blocks))
    return Scored(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def merge_rows(mean: Mean, weights: Floats, logits: Sequence[np.ndarray]) -> Floats:
    """The merged logits (rows,) of one merge with weights (M,)."""
    merged = np.empty(len(logits[0]))
    for rows, chunk in _chunks(logits):
        merged[rows] = mean(weights[None], chunk)[0]
    return merged


def merge_subset(
    members: Members, scores: pd.DataFrame, subset: Sequence[int], pool: str
) -> Floats:
    """The test logits (rows,) of some members merged in a pool that chooses none of them."""
    logits = [members.runs[i].logits("test") for i in subset]
    return merge_rows(POOLS[pool].mean, subset_weights(members, scores, subset, pool), logits)


def subset_weights(
    members: Members, scores: pd.DataFrame, subset: Sequence[int], pool: str
) -> Floats:
    """The weights (M,) of these members in such a pool; 0 of one that `weighted` leaves out."""
    weights = equal_weights([range(len(subset))], len(subset))
    if pool == "weighted":
        val_logloss = scores["val_logloss"].to_numpy()[list(subset)]
        weights = information_weights(weights, val_logloss, members.labels["val"])
    of_subset: Floats = weights[0]
    return of_subset


def ambiguity(weights: Floats, members: Floats, merged: Floats) -> Floats:
    """How far the members of each merge are apart, (S,), in nats; it needs no label.

    members (M,), merged (S,): means over rows of softplus(z), of the members and of their logit
    means. A = mean_m softplus(z_m) - softplus(mean_m z_m), which is what the logit mean gains over
    the mean member: NLL(mean z) = mean NLL(z_m) - A, exactly (Wood et al., JMLR, arXiv
    2301.03962). With weights, both means are weighted.
    """
    return weights @ members - merged


def _score_block(
    mean: Mean, logits: Sequence[np.ndarray], labels: np.ndarray, weights: Floats
) -> tuple[list[float], Floats, Floats]:
    clicks = np.asarray(labels, dtype=bool)
    precision = np.float64 if mean is rank_sum else np.float32  # sums of ranks stay whole
    clicked = np.empty((len(weights), int(clicks.sum())), precision)
    other = np.empty((len(weights), len(labels) - clicked.shape[1]), precision)
    label_free, of_clicks = np.zeros(len(weights)), np.zeros(len(weights))
    first_clicked = first_other = 0
    for rows, chunk in _chunks(logits):
        merged = mean(weights, chunk)
        of_clicked = merged.take(np.flatnonzero(clicks[rows]), axis=1)
        of_other = merged.take(np.flatnonzero(~clicks[rows]), axis=1)
        clicked[:, first_clicked : first_clicked + of_clicked.shape[1]] = of_clicked
        other[:, first_other : first_other + of_other.shape[1]] = of_other
        first_clicked += of_clicked.shape[1]
        first_other += of_other.shape[1]
        label_free += softplus(merged).sum(axis=1)
        of_clicks += of_clicked.sum(axis=1)
    aucs = [auc_of_classes(*classes) for classes in zip(clicked, other, strict=True)]
    return aucs, (label_free - of_clicks) / len(labels), label_free / len(labels)


def _merge_group(
    group: Group, members: Members, scores: pd.DataFrame, pools: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows of a group, by K and then by pool."""
    table = scores.iloc[list(group.members)].reset_index(drop=True)
    logits = [members.runs[i].logits("test") for i in group.members]
    labels = members.labels["test"]
    alone = score_merged(logit_mean, np.eye(len(logits)), logits, labels).softplus
    place = {member: i for i, member in enumerate(group.members)}
    equal = {
        k: equal_weights([[place[i] for i in subset] for subset in subsets], len(place))
        for k, subsets in group.subsets.items()
    }
    made = {}
    for pool in dict.fromkeys(["logit", *pools]):  # the logit mean always, for the identity
        weights = _weights_by_size(pool, group, members, table, equal)
        if not weights:
            continue
        inputs = [double_ranks(z) for z in logits] if pool == "rank" else logits
        made[pool] = _by_size(weights, POOLS[pool].mean, inputs, labels)
        if POOLS[pool].mean is logit_mean:
            for k, (of_k, scored) in made[pool].items():
                expected = of_k @ table["test_logloss"].to_numpy() - ambiguity(
                    of_k, alone, scored.softplus
                )
                _check_identity(group.name, k, pool, scored.logloss - expected)
    for k in group.subsets:
        for pool in pools:
            if pool in made:
                weights_of_k, scored = made[pool][k]
                # A is that of the logit mean of the same members, where the pool is no such mean.
                near = made[pool if POOLS[pool].mean is logit_mean else "logit"][k]
                apart = ambiguity(near[0], alone, near[1].softplus)
                # A greedy bag is chosen from the whole group.
                plain = np.full((1, len(place)), 1 / len(place)) if pool == "greedy" else equal[k]
                yield _row(group, k, pool, weights_of_k, plain, scored, apart, table)


def _by_size(
    weights: dict[int, Floats], mean: Mean, logits: Sequence[np.ndarray], labels: np.ndarray
) -> dict[int, tuple[Floats, Scored]]:
    """All sizes scored in one go, so that no thread waits, and parted again."""
    scored = score_merged(mean, np.concatenate(list(weights.values())), logits, labels)
    ends = np.cumsum([len(of_k) for of_k in weights.values()])
    parts = zip(*(np.split(v, ends[:-1]) for v in vars(scored).values()), strict=True)
    return {
        k: (of_k, Scored(*part)) for (k, of_k), part in zip(weights.items(), parts, strict=True)
    }


def _weights_by_size(
    pool: str, group: Group, members: Members, table: pd.DataFrame, equal: dict[int, Floats]
) -> dict[int, Floats]:
    """The weights (S, M) of the merges of each K; none where the pool has nothing to choose.

    equal: those of the members of each subset that count alike.
    """
    if pool == "greedy":
        if group.chosen:
            return {}
        logits = [members.runs[i].logits("val") for i in group.members]
        bags = greedy_weights(logits, members.labels["val"], len(logits))
        return {k: bags[k - 1 : k] for k in group.subsets}
    if pool == "weighted":
        val_logloss = table["val_logloss"].to_numpy()
        return {
            k: information_weights(weights, val_logloss, members.labels["val"])
            for k, weights in equal.items()
        }
    return equal


def _row(
    group: Group,
    k: int,
    pool: str,
    weights: Floats,
    plain: Floats,
    scored: Scored,
    apart: Floats,
    table: pd.DataFrame,
) -> dict[str, Any]:
    """plain: the weights of the mean member, which all gains are over.

    The best members are those of all that the pool could take, used or not.
    """
    used, there = weights > 0, plain > 0
    test_auc, val_auc = table["test_auc"].to_numpy(), table["val_auc"].to_numpy()
    member_auc = plain @ test_auc
    member_logloss = plain @ table["test_logloss"].to_numpy()
    has_logloss = POOLS[pool].has_logloss
    logloss = scored.logloss if has_logloss else np.full(len(weights), np.nan)
    auc_gain, logloss_gain = scored.auc - member_auc, member_logloss - logloss
    latency = table["latency_ms"].to_numpy()
    return {
        "group": group.name,
        "k": k,
        "pool": pool,
        "subsets": len(weights),
        "test_auc": scored.auc.mean(),
        "test_auc_sd": sample_sd(scored.auc),
        "test_logloss": logloss.mean(),
        "test_logloss_sd": sample_sd(logloss),
        "member_auc": member_auc.mean(),
        "member_logloss": member_logloss.mean(),
        "best_member_auc": np.where(there, test_auc, -np.inf).max(axis=1).mean(),
        "ambiguity": apart.mean(),
        "subsets_possible": 1 if pool == "greedy" else group.possible[k],
        "best_on_val_auc": test_auc[np.where(there, val_auc, -np.inf).argmax(axis=1)].mean(),
        "auc_gain": auc_gain.mean(),
        "auc_gain_sd": sample_sd(auc_gain),
        "logloss_gain": logloss_gain.mean(),
        "logloss_gain_sd": sample_sd(logloss_gain),
        "explained": _share(apart.mean(), logloss_gain.mean()) if k > 1 else np.nan,
        "members_used": used.sum(axis=1).mean(),
        "parameters": (used @ table["parameters"].to_numpy()).mean(),
        "macs_per_row": (used @ table["macs_per_row"].to_numpy()).mean(),
        "latency_ms": np.where(used, latency, 0.0).sum(axis=1).mean(),
        "latency_parallel_ms": np.where(used, latency, 0.0).max(axis=1).mean(),
    }


def _check_identity(group: str, k: int, pool: str, errors: Floats) -> None:
    worst = float(np.abs(errors).max())
    if not worst <= IDENTITY_TOLERANCE:
        raise RunError(
            f"group '{group}', K = {k}: the log loss of the {POOLS[pool].title} misses that of the "
            f"mean member less the ambiguity by {worst:.1e}, which cannot be unless a prediction "
            f"file changed during the merge; merge again"
        )


def _chunks(logits: Sequence[np.ndarray]) -> Iterator[tuple[slice, Floats]]:
    """Chunks of rows: where they lie, and all members' logits there, (M, B) float64."""
    for rows in row_chunks(len(logits[0])):
        yield rows, np.stack([member[rows] for member in logits]).astype(np.float64)


def _share(part: float, whole: float) -> float:
    return part / whole if abs(whole) > IDENTITY_TOLERANCE else float("nan")
