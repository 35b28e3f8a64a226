"""How different two members are, and what merging them gains.

Shapes: M members, P pairs of them, B rows of a chunk.
"""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement, product

import numpy as np
import pandas as pd

from modules.scoring.groups import SUBSET_SEED, places_by_model
from modules.scoring.members import Members
from modules.scoring.merging import ambiguity, score_merged
from modules.scoring.metrics import Floats, row_chunks, sigmoid
from modules.scoring.pools import equal_weights, logit_mean

MAX_PAIRS = 10  # of members, for each pair of architectures; five seeds of one have as many


def diversity_table(members: Members, scores: pd.DataFrame) -> pd.DataFrame:
    """One row for each pair of architectures, the same one twice included: means over pairs.

    Pairs of two architectures are of different seeds, but where there are none. What those of one
    seed gain, which have the order of the rows in common, stands in the columns `*_same_seed`.

    The merge is the logit mean, whose log-loss gain the ambiguity is. `better` is the member of a
    pair that has the higher AUC on validation. Empty for a single member.
    """
    by_model = places_by_model(scores)
    seeds = list(scores["seed"])
    cells = {
        (first, second, same_seed): [
            (i, j)
            for i, j in _pairs(by_model[first], by_model[second])
            if (seeds[i] == seeds[j]) == same_seed
        ]
        for first, second in combinations_with_replacement(by_model, 2)
        for same_seed in (False, True)
    }
    cells = {cell: pairs for cell, pairs in cells.items() if pairs}
    if not cells:
        return pd.DataFrame()
    chosen = {cell: _sample(pairs) for cell, pairs in cells.items()}
    models = ["first", "second"]
    each = pd.DataFrame(
        [(*cell, i, j) for cell, pairs in chosen.items() for i, j in pairs],
        columns=[*models, "same_seed", "i", "j"],
    )
    each = pd.concat([each, _pair_scores(members, scores, each)], axis=1).drop(columns=["i", "j"])
    means = each.groupby([*models, "same_seed"], sort=False).mean().reset_index()
    means.insert(2, "pairs", [len(pairs) for pairs in chosen.values()])
    means.insert(3, "pairs_possible", [len(pairs) for pairs in cells.values()])
    of_one_seed = means[means["same_seed"]].set_index(models)[["auc_gain", "logloss_gain"]]
    table = means.drop_duplicates(models).drop(columns="same_seed")
    return table.join(of_one_seed.add_suffix("_same_seed"), on=models).reset_index(drop=True)


def error_correlation(logits: list[np.ndarray], labels: np.ndarray) -> Floats:
    """Correlation over rows of label - probability, between members, (M, M)."""
    moments, sums = np.zeros((len(logits), len(logits))), np.zeros(len(logits))
    for rows in row_chunks(len(labels)):
        chunk = np.stack([labels[rows] - sigmoid(z[rows]) for z in logits])  # (M, B)
        moments += chunk @ chunk.T
        sums += chunk.sum(axis=1)
    means = sums / len(labels)
    covariance = moments / len(labels) - np.outer(means, means)
    spread = np.sqrt(np.diag(covariance))
    correlation: Floats = covariance / np.outer(spread, spread)
    return correlation


def disagreement(logits: list[np.ndarray], threshold: float) -> Floats:
    """Share of rows that one member puts above the logit `threshold` and the other not, (M, M)."""
    both, alone = np.zeros((len(logits), len(logits))), np.zeros(len(logits))
    rows_in_all = len(logits[0])
    for rows in row_chunks(rows_in_all):
        above = np.stack([z[rows] > threshold for z in logits]).astype(np.float64)  # (M, B)
        both += above @ above.T
        alone += above.sum(axis=1)
    apart: Floats = (alone[:, None] + alone[None, :] - 2 * both) / rows_in_all
    return apart


def _pairs(first: list[int], second: list[int]) -> list[tuple[int, int]]:
    return list(combinations(first, 2) if first == second else product(first, second))


def _sample(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if len(pairs) <= MAX_PAIRS:
        return pairs
    random = np.random.default_rng([SUBSET_SEED, len(pairs)])
    return [pairs[i] for i in sorted(random.choice(len(pairs), MAX_PAIRS, replace=False))]


def _pair_scores(members: Members, scores: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The columns of every pair of members, (P,) rows."""
    logits, labels = members.logits("test"), members.labels["test"]
    i, j = pairs["i"].to_numpy(), pairs["j"].to_numpy()
    weights = equal_weights(list(zip(i, j, strict=True)), len(logits))
    merged = score_merged(logit_mean, weights, logits, labels)
    alone = score_merged(logit_mean, np.eye(len(logits)), logits, labels).softplus
    rate = members.labels["val"].mean()
    test_auc, test_logloss = scores["test_auc"].to_numpy(), scores["test_logloss"].to_numpy()
    val_auc = scores["val_auc"].to_numpy()
    better = np.where(val_auc[i] >= val_auc[j], i, j)
    return pd.DataFrame(
        {
            "ambiguity": ambiguity(weights, alone, merged.softplus),
            "error_correlation": error_correlation(logits, labels)[i, j],
            "disagreement": disagreement(logits, np.log(rate / (1 - rate)))[i, j],
            "member_auc": weights @ test_auc,
            "member_logloss": weights @ test_logloss,
            "test_auc": merged.auc,
            "test_logloss": merged.logloss,
            "auc_gain": merged.auc - weights @ test_auc,
            "logloss_gain": weights @ test_logloss - merged.logloss,
            "auc_gain_over_better": merged.auc - test_auc[better],
            "logloss_gain_over_better": test_logloss[better] - merged.logloss,
        }
    )
