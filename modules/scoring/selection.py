"""Which members to merge, chosen on the validation split alone.

Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from modules.scoring.metrics import Floats, row_chunks, row_loss
from modules.scoring.threads import num_threads


def forward_selection(
    candidates: Sequence[Sequence[np.ndarray]], labels: np.ndarray, size: int, *, repeat: bool
) -> tuple[list[int], list[float]]:
    """Pick one candidate after another, each the one that most lowers the merged log loss.

    candidates: for each of C candidates its logits (rows,) in R repetitions, that are merged each
    for itself; the mean log loss of the R logit means decides. repeat: a candidate may be picked
    again, and then counts as often. Returns the picks and the log loss after each of them.
    """
    sums = [np.zeros(len(labels)) for _ in candidates[0]]
    picks: list[int] = []
    losses: list[float] = []
    with ThreadPoolExecutor(num_threads()) as threads:
        for count in range(1, size + 1):
            left = [c for c in range(len(candidates)) if repeat or c not in picks]
            loss_with = partial(_loss_with, sums, count, labels)
            tried = list(threads.map(loss_with, [candidates[c] for c in left]))
            best = int(np.argmin(tried))
            picks.append(left[best])
            losses.append(tried[best])
            for total, logits in zip(sums, candidates[left[best]], strict=True):
                total += logits
    return picks, losses


def greedy_weights(members: Sequence[np.ndarray], labels: np.ndarray, size: int) -> Floats:
    """The weights (size, M) of the best bag of at most 1, 2, ... `size` picks with replacement.

    members: the validation logits (rows,) of each of M members. The first pick is the member with
    the lowest log loss, and a bag that a later pick makes worse is kept as it was, so that no bag
    is worse on validation than the best member.
    """
    picks, losses = forward_selection([[z] for z in members], labels, size, repeat=True)
    weights = np.empty((size, len(members)))
    for k in range(1, size + 1):
        bag = picks[: int(np.argmin(losses[:k])) + 1]
        weights[k - 1] = np.bincount(bag, minlength=len(members)) / len(bag)
    return weights


def _loss_with(
    sums: Sequence[Floats], count: int, labels: np.ndarray, candidate: Sequence[np.ndarray]
) -> float:
    """Log loss of the mean of `count` logits, those in `sums` and the candidate's; mean over R."""
    loss = 0.0
    for total, logits in zip(sums, candidate, strict=True):
        for rows in row_chunks(len(labels)):
            loss += float(row_loss(labels[rows], (total[rows] + logits[rows]) / count).sum())
    return loss / (len(labels) * len(sums))
