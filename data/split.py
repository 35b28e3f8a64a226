"""Which rows of a log go to which split, and in which order.

The training rows of every rule are shuffled, because by default they are read in file order and a
log may be sorted; `val` and `test` keep the order of the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from data.schema import SPLITS

SPLIT_SEED = 2021
# Of train, val and test.
SHARES = (8, 1, 1)

RuleName = Literal["random", "stratified", "time", "files", "test"]


@dataclass(frozen=True)
class SplitRule:
    """How rows are split.

    rule: `random` is the official one; `stratified` cuts the rows of each label alike; `time`
    makes the oldest rows train and the newest test, rows of one time in the order of the log;
    `files` says for every file of the log what it is; `test` makes every row test.
    seed: of the draws. shares: of train, val and test, as parts of their sum.
    column, time: what tells the time, and in which format. files: split -> the names of its
    files; the log's files are those of train, then of val, then of test.
    """

    rule: RuleName = "random"
    seed: int = SPLIT_SEED
    shares: tuple[float, float, float] = SHARES
    column: str = ""
    time: str = ""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Rule and seed as `schema.yaml` keeps them."""
        if self.rule == "test":
            return {"rule": "all rows are test"}
        if self.rule == "files":
            names = {split: list(files) for split, files in self.files.items()}
            return {"rule": "files", "seed": self.seed, **names}
        ratio = ":".join(f"{share:g}" for share in self.shares)
        described: dict[str, Any] = {"rule": f"{self.rule} {ratio}", "seed": self.seed}
        if self.rule == "time":
            described |= {"column": self.column, "time": self.time}
        return described


def split_rows(
    rule: SplitRule,
    labels: np.ndarray,
    times: np.ndarray | None,
    rows_of_files: Sequence[int],
) -> dict[str, np.ndarray]:
    """Row numbers (int64) of each split, in its order.

    labels: (rows,). times: (rows,), needed by the rule `time`. rows_of_files: rows of each file.
    """
    rows = len(labels)
    if rule.rule == "random":
        return random_split(rows, rule.seed, rule.shares)
    if rule.rule == "test":
        none = np.empty(0, dtype=np.int64)
        return {"train": none, "val": none, "test": np.arange(rows)}
    generator = np.random.default_rng(rule.seed)
    if rule.rule == "stratified":
        groups = [generator.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
        cut = [_cut(group, rule.shares) for group in groups]
        parts = [np.concatenate(part) for part in zip(*cut, strict=True)]
    elif rule.rule == "time":
        assert times is not None
        parts = _cut(np.argsort(times, kind="stable"), rule.shares)
    else:
        parts, first, file = [], 0, 0
        for split in SPLITS:
            size = sum(rows_of_files[file : file + len(rule.files[split])])
            parts.append(np.arange(first, first + size))
            first, file = first + size, file + len(rule.files[split])
    train, val, test = parts
    return {"train": generator.permutation(train), "val": np.sort(val), "test": np.sort(test)}


def random_split(
    rows: int, seed: int = SPLIT_SEED, shares: tuple[float, float, float] = SHARES
) -> dict[str, np.ndarray]:
    """The official split, same membership and same order: row numbers (int64) of each split.

    train is `DataFrame.sample(frac=0.8, random_state=seed)` of pandas, in sampled order; test is
    half of the rest, sampled in the same way; val is what remains, in file order. Only row
    numbers are held.
    """
    train_share, val_share, test_share = shares
    train = _sample(rows, train_share / sum(shares), seed)
    left = np.ones(rows, dtype=bool)
    left[train] = False
    rest = np.flatnonzero(left)
    test = _sample(len(rest), test_share / (val_share + test_share), seed)
    return {"train": train, "val": np.delete(rest, test), "test": rest[test]}


def _sample(rows: int, share: float, seed: int) -> np.ndarray:
    """What `DataFrame.sample` picks from `rows` rows: it draws from numpy's legacy generator."""
    generator = np.random.RandomState(seed)
    return generator.permutation(rows)[: round(share * rows)]


def _cut(rows: np.ndarray, shares: Sequence[float]) -> list[np.ndarray]:
    """`rows` in their order, in three pieces of about these shares."""
    ends = np.round(np.cumsum(shares) / sum(shares) * len(rows)).astype(int)
    return np.split(rows, ends[:-1])
