"""The files of an encoded data set beside its schema: their names and formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data import parquet
from data.schema import SPLITS, DataError, Rows

# The suffixes of shards; the first is preferred where a data set has several.
SHARD_FORMATS = ("parquet", "tfrecord")
# Splits whose true probabilities are kept, where the log was planted.
TRUTH_SPLITS = ("val", "test")


class ShardFormat(Protocol):
    """What the module of a file format offers."""

    def write_shard(
        self, path: Path, field_names: Sequence[str], pieces: Iterable[Rows]
    ) -> None: ...

    def read_shard(self, path: Path, field_names: Sequence[str]) -> Rows: ...

    def read_labels(self, path: Path, field_names: Sequence[str]) -> np.ndarray: ...

    def count_rows(self, path: Path) -> int: ...


def shard_format(path: Path) -> ShardFormat:
    """The module that reads and writes files of this suffix."""
    if path.suffix == ".parquet":
        return parquet
    # Here and not above because its package imports torch, which takes seconds.
    from data import tfrecord

    return tfrecord


def shard_name(split: str, number: int, file_format: str) -> str:
    return f"{split}-{number:05d}.{file_format}"


def truth_name(split: str) -> str:
    return f"{split}.truth.npy"


def is_made_by_us(name: str) -> bool:
    """Whether `name` is one of those that `shard_name` and `truth_name` give."""
    splits, suffixes = "|".join(SPLITS), "|".join(SHARD_FORMATS)
    shard = re.fullmatch(rf"({splits})-\d{{5,}}\.({suffixes})", name)
    return bool(shard) or name in map(truth_name, TRUTH_SPLITS)


def find_shards(folder: Path, split: str, file_format: str | None = None) -> list[Path]:
    """The shards of a split in order, all of one format; the official file names count too.

    Raise `DataError` if there is none.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split '{split}'; known are {', '.join(SPLITS)}")
    if file_format is not None and file_format not in SHARD_FORMATS:
        raise DataError(f"unknown format '{file_format}'; known are {', '.join(SHARD_FORMATS)}")
    wanted = [file_format] if file_format else SHARD_FORMATS
    names = ["val", "validation"] if split == "val" else [split]
    for suffix in wanted:
        patterns = [f"{name}[-_][0-9]*.{suffix}" for name in names]
        paths = sorted(path for pattern in patterns for path in Path(folder).glob(pattern))
        if paths:
            return paths
    raise DataError(
        f"no {' or '.join(wanted)} shard of split '{split}' in {folder}; "
        f"make the data set with `python -m data.prepare`"
    )
