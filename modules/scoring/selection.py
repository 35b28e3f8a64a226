"""Which members to merge, chosen on the validation split alone.

Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations
from typing import TypeVar

import numpy as np

from modules.scoring.metrics import Floats, row_chunks, row_loss
from modules.scoring.threads import num_threads

T = TypeVar("T")


def forward_selection(
    candidates: Sequence[Sequence[np.ndarray]], labels: np.ndarray, size: int, *, repeat: bool
) -> tuple[list[int], list[float]]:
    """Pick one candidate after another, each the one that most lowers the merged log loss.

    candidates: for each of C candidates its logits (rows,) in R repetitions, the first pick's and
    those of later picks as `turned` says; the mean log loss of the R logit means decides. repeat: a
    candidate may be picked again, and then counts as often. Returns the picks and the log loss
    after each of them.
    """
    sums = [np.zeros(len(labels)) for _ in candidates[0]]
    picks: list[int] = []
    losses: list[float] = []
    with ThreadPoolExecutor(num_threads()) as threads:
        for count in range(1, size + 1):
            left = [c for c in range(len(candidates)) if repeat or c not in picks]
            extended = [
                list(zip(sums, turned(candidates[c], count - 1), strict=True)) for c in left
            ]
            tried = list(threads.map(partial(_merged_loss, labels, count), extended))
            best = int(np.argmin(tried))
            picks.append(left[best])
            losses.append(tried[best])
            for total, logits in zip(sums, turned(candidates[left[best]], count - 1), strict=True):
                total += logits
    return picks, losses


def best_choices(
    candidates: Sequence[Sequence[np.ndarray]], labels: np.ndarray
) -> list[tuple[int, ...]]:
    """For each size the candidates that have the lowest merged log loss, of all choices of so many.

    candidates: as in `forward_selection`. C of them are merged in 2^C - 1 ways.
    """
    best = []
    with ThreadPoolExecutor(num_threads()) as threads:
        for size in range(1, len(candidates) + 1):
            choices = list(combinations(range(len(candidates)), size))
            merges = [
                list(zip(*(turned(candidates[c], p) for p, c in enumerate(choice)), strict=True))
                for choice in choices
            ]
            tried = list(threads.map(partial(_merged_loss, labels, size), merges))
            best.append(choices[int(np.argmin(tried))])
    return best


def turned(repetitions: Sequence[T], place: int) -> list[T]:
    """What the candidate at `place` of a merge gives to each repetition r: its (r + place)-th.

    Of R repetitions, which are the members of R seeds, no two in a merge of R models or fewer are
    then of one seed: those would be trained in one order of the rows, and so be alike.
    """
    start = place % len(repetitions)
    return [*repetitions[start:], *repetitions[:start]]


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


def _merged_loss(
    labels: np.ndarray, count: int, repetitions: Sequence[Sequence[np.ndarray]]
) -> float:
    """Log loss of the mean of `count` logits, given in (partial) sums; mean over repetitions."""
    loss = 0.0
    for parts in repetitions:
        for rows in row_chunks(len(labels)):
            mean: Floats = np.sum([part[rows] for part in parts], axis=0, dtype=np.float64)
            mean /= count
            loss += float(row_loss(labels[rows], mean).sum())
    return loss / (len(labels) * len(repetitions))
