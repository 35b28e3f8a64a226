"""Shards -> batches of tensors.

Shape legend: B rows of a batch, F fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.ahead import one_ahead
from data.schema import PREPARE_AGAIN, DataError, Rows, Schema, read_schema
from data.shards import find_shards, shard_format, truth_name


class Batch(NamedTuple):
    """ids: (B, F) int64, global feature ids. labels: (B,) float32, 0 or 1."""

    ids: Tensor
    labels: Tensor


class _OnDevice(NamedTuple):
    """A shard on a device: ids (rows, F) int32, labels (rows,) uint8."""

    ids: Tensor
    labels: Tensor


class Loader:
    """The batches of one split; every iteration is one pass over its rows.

    folder: of an encoded data set, or of official TFRecord files if `schema` is given.
    generator: None for file order; else each pass draws a new order from it, of the shards and
    of the rows within each. file_format: parquet or tfrecord where both are there; parquet first.
    device: where the batches are put; to a GPU they are copied asynchronously from pinned memory.
    resident: keep the rows there after the first pass, int32 ids and uint8 labels, so that later
    passes read and copy nothing.

    Batches run across shards, so that in file order they do not depend on the shards' size; only
    the last of all may be short. A thread reads the next shard while one is used; there are never
    more than these two in memory, unless they are resident. Damaged shards, ids outside their
    field and a wrong number of rows raise `DataError`.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        batch_size: int,
        generator: torch.Generator | None = None,
        bootstrap: float = 0.0,
        bootstrap_seed: int = 0,
        schema: Schema | None = None,
        file_format: str | None = None,
        device: torch.device | str | None = None,
        resident: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, must be at least 1")
        self.schema = schema or read_schema(folder)
        self.split = split
        self.batch_size = batch_size
        self.generator = generator
        self.bootstrap = bootstrap
        self.bootstrap_seed = bootstrap_seed
        self.device = None if device is None else torch.device(device)
        self._kept: dict[Path, Rows | _OnDevice] | None = {} if resident else None
        self._paths = _find_shards(folder, split, self.schema, file_format)
        found = sum(shard_format(path).count_rows(path) for path in self._paths)
        _check_num_rows(found, self._paths, split, self.schema)

    @property
    def num_rows(self) -> int:
        """Rows of the split."""
        return self.schema.rows[self.split]

    def __len__(self) -> int:
        """Batches of one pass."""
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        pieces: list[Batch] = []
        wanted = self.batch_size
        numbers = self._permutation(len(self._paths))
        shards = self._shards([self._paths[number] for number in numbers])
        for number in numbers.tolist():
            shard = next(shards)
            num_rows = len(shard.labels)
            order = self._row_order(number, num_rows)
            start = 0
            while start < num_rows:
                stop = min(start + wanted, num_rows)
                piece = _take(shard, slice(start, stop) if order is None else order[start:stop])
                pieces.append(piece)
                wanted -= stop - start
                start = stop
                if wanted == 0:
                    yield self._join(pieces)
                    pieces, wanted = [], self.batch_size
            # Let go of it before asking for the next, which starts the reading of a third.
            del shard
        if pieces:
            yield self._join(pieces)

    def _join(self, pieces: list[Batch]) -> Batch:
        batch = pieces[0]
        if len(pieces) > 1:
            batch = Batch(*(torch.cat(tensors) for tensors in zip(*pieces, strict=True)))
        if self.device is None:
            return batch
        # Out of pinned memory a copy to the device does not hold up the program.
        pin = self.device.type == "cuda" and batch.ids.device.type == "cpu"
        return Batch(
            *(
                (tensor.pin_memory() if pin else tensor).to(self.device, non_blocking=pin)
                for tensor in batch
            )
        )

    def _shards(self, paths: list[Path]) -> Iterator[Rows | _OnDevice]:
        """The shards in this order."""
        if self._kept is None:
            yield from self._read(paths)
            return
        if not self._kept:
            self._kept = dict(zip(paths, map(self._keep, self._read(paths)), strict=True))
        yield from (self._kept[path] for path in paths)

    def _keep(self, shard: Rows) -> Rows | _OnDevice:
        """`shard` as it stays in memory: on the device where that has its own."""
        if self.device is None or self.device.type == "cpu":
            return shard
        ids, labels = (torch.tensor(array, device=self.device) for array in shard)
        return _OnDevice(ids, labels)

    def _read(self, paths: list[Path]) -> Iterator[Rows]:
        """The shards of `paths`, one read ahead."""
        return one_ahead(_read_checked(path, self.schema) for path in paths)

    def _row_order(self, shard: int, num_rows: int) -> np.ndarray | None:
        """Which row of a shard comes when in this pass, (rows,); None for file order."""
        order = None if self.generator is None else self._permutation(num_rows)
        if self.bootstrap == 0:
            return order
        draws = np.random.default_rng([self.bootstrap_seed, shard])
        rows = np.arange(num_rows)
        replaced = draws.random(num_rows) < self.bootstrap
        rows[replaced] = draws.integers(num_rows, size=int(replaced.sum()))
        return rows if order is None else rows[order]

    def _permutation(self, size: int) -> np.ndarray:
        if self.generator is None:
            return np.arange(size)
        return torch.randperm(size, generator=self.generator).numpy()


def read_labels(folder: Path, split: str, schema: Schema | None = None) -> np.ndarray:
    """The labels of a split in file order, (rows,) uint8."""
    schema = schema or read_schema(folder)
    paths = _find_shards(folder, split, schema)
    labels = np.concatenate(
        [shard_format(path).read_labels(path, schema.field_names) for path in paths]
    )
    _check_num_rows(len(labels), paths, split, schema)
    return labels


def read_truth(folder: Path, split: str) -> np.ndarray | None:
    """The probability that each label of a split was drawn with, (rows,) float64, in file order.

    None where it is not kept: for every log that was not planted, and for the training rows.
    Raises `DataError` for a damaged file.
    """
    path = Path(folder) / truth_name(split)
    if not path.exists():
        return None
    try:
        truth: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: unreadable ({error}); {PREPARE_AGAIN}") from error
    rows = read_schema(folder).rows[split]
    if truth.shape != (rows,):
        raise DataError(f"{path}: an array of shape {truth.shape} for {rows} rows; {PREPARE_AGAIN}")
    return truth


def _find_shards(
    folder: Path, split: str, schema: Schema, file_format: str | None = None
) -> list[Path]:
    if schema.like and schema.rows.get(split) == 0:
        raise DataError(
            f"{folder} has no rows of split '{split}': its rows were encoded like those of "
            f"'{schema.like['dataset']}', for models trained on that data set to score"
        )
    return find_shards(folder, split, file_format)


def _check_num_rows(found: int, paths: list[Path], split: str, schema: Schema) -> None:
    if found != schema.rows[split]:
        raise DataError(
            f"shards of '{split}' in {paths[0].parent}: {len(paths)} from {paths[0].name} on hold "
            f"{found} rows, but schema.yaml says {schema.rows[split]}; is one missing or left "
            f"over? Then {PREPARE_AGAIN}"
        )


def _read_checked(path: Path, schema: Schema) -> Rows:
    """Read a shard and check its ids against the schema."""
    rows = shard_format(path).read_shard(path, schema.field_names)
    schema.check_ids(rows.ids, str(path))
    if len(rows.labels) and rows.labels.max() > 1:
        row = int(np.argmax(rows.labels > 1))
        raise DataError(
            f"{path}, row {row}: label {rows.labels[row]} is neither 0 nor 1; {PREPARE_AGAIN}"
        )
    return rows


def _take(shard: Rows | _OnDevice, rows: slice | np.ndarray) -> Batch:
    if isinstance(shard, _OnDevice):
        picked = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(shard.ids.device)
        return Batch(shard.ids[picked].long(), shard.labels[picked].float())
    # By numpy: copies this small are not worth waking torch's threads, which train meanwhile.
    if isinstance(rows, slice):
        ids, labels = shard.ids[rows], shard.labels[rows]
    else:
        ids, labels = shard.ids.take(rows, axis=0), shard.labels.take(rows)
    return Batch(
        torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(labels.astype(np.float32))
    )
