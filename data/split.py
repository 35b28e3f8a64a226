"""The official random 8:1:1 split: same membership and same order, row for row."""

from __future__ import annotations

import numpy as np

SPLIT_SEED = 2021
TRAIN_SHARE = 0.8


def random_split(rows: int, seed: int = SPLIT_SEED) -> dict[str, np.ndarray]:
    """Row numbers (int64) of each split, in its order: train, val, test.

    train is `DataFrame.sample(frac=0.8, random_state=seed)` of pandas, in sampled order; test is
    half of the rest, sampled in the same way; val is what remains, in file order. Only row
    numbers are held.
    """
    train = _sample(rows, TRAIN_SHARE, seed)
    left = np.ones(rows, dtype=bool)
    left[train] = False
    rest = np.flatnonzero(left)
    test = _sample(len(rest), 0.5, seed)
    return {"train": train, "val": np.delete(rest, test), "test": rest[test]}


def _sample(rows: int, share: float, seed: int) -> np.ndarray:
    """What `DataFrame.sample` picks from `rows` rows: it draws from numpy's legacy generator."""
    generator = np.random.RandomState(seed)
    return generator.permutation(rows)[: round(share * rows)]
