"""The files of an encoded data set, made from its log.

The log is read once, as codes of its texts, which go to disk column by column; what follows needs
only those: the codes of one column after another, put in the order of the split, the vocabulary,
and shard after shard, written with the ids that it has for the codes. So memory holds the
distinct texts, the split's row numbers and a few columns, never the log.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from data.log import Log
from data.own_chunks import read_own_chunks
from data.raw import RawFormat, root
from data.reading import read_chunks
from data.schema import SPLITS, DataError, RawFile, Rows, Schema, write_schema
from data.shards import TRUTH_SPLITS, shard_format, shard_name, truth_name
from data.spill import Spill
from data.split import split_rows
from data.synthetic import truth_path
from data.threads import map_ahead
from data.tokens import Interner
from data.vocabulary import Vocabulary, build_vocabulary, reuse_vocabulary, write_vocabulary

# A loader holds two shards: 2 x 160 MB at 39 fields.
SHARD_ROWS = 1_000_000
# Rows that are gathered at a time: few enough for the caches, many enough for a call.
PIECE_ROWS = 1 << 16
# Within the folder being made; removed before it is complete.
SCRATCH = ".scratch"


@dataclass(frozen=True)
class Settings:
    """What is made of a log.

    formats: of the shards. vocabulary: "all" counts values over every row, as the official code
    does, "train" over the training rows alone. shard_rows: the most rows of one shard.
    """

    formats: tuple[str, ...] = ("parquet",)
    vocabulary: str = "all"
    shard_rows: int = SHARD_ROWS


@dataclass(frozen=True)
class Base:
    """A data set whose ids other rows are given."""

    folder: Path
    schema: Schema

    @property
    def origin(self) -> dict[str, str]:
        """The data set that these ids come from: this one, or the one it was encoded like."""
        own = {"dataset": self.schema.dataset, "fingerprint": self.schema.fingerprint}
        return dict(self.schema.like or own)


@dataclass(frozen=True)
class Source:
    """What a data set is made of. synthetic: the truth lies beside the log."""

    log: Log
    identity: Future[tuple[RawFile, ...]]
    synthetic: bool
    base: Base | None

    @property
    def files(self) -> tuple[RawFile, ...]:
        """The names and hashes of the log's files, which may have to be waited for."""
        return self.identity.result()


@dataclass(frozen=True)
class CodedLog:
    """A log that was read. interners: of each used column, whose codes the spill has on disk."""

    log_format: RawFormat
    spill: Spill
    rows_of_files: tuple[int, ...]
    interners: dict[str, Interner]

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(self.rows_of_files)

    def codes(self, column: str) -> np.ndarray:
        """The codes (rows,) of a column."""
        return self.spill.column(self.number(column))

    def numbers(self, expression: pl.Expr, dtype: type[pl.DataType]) -> np.ndarray:
        """What an expression over one column gives for each row, (rows,)."""
        column = root(expression)
        texts = pl.DataFrame({column: self.interners[column].values()})
        table = texts.select(expression.cast(dtype)).to_series().to_numpy()
        numbers: np.ndarray = table.take(self.codes(column))
        return numbers

    @property
    def field_columns(self) -> list[str]:
        """The columns that a field depends on."""
        return list(dict.fromkeys(map(root, self.log_format.fields.values())))

    def number(self, column: str) -> int:
        """The place of a column among the used ones."""
        return list(self.interners).index(column)


def encode_log(folder: Path, source: Source, settings: Settings) -> Schema:
    """Write the files of the data set into `folder`, by way of a scratch folder within it."""
    scratch = folder / SCRATCH
    scratch.mkdir()
    log_format, base = source.log.format, source.base
    # The vocabulary takes one thread long, so it is made while others order codes, and written
    # while they write shards.
    with (
        Spill(scratch, len(log_format.used_columns)) as spill,
        ThreadPoolExecutor(1, thread_name_prefix="vocabulary") as pool,
    ):
        log = _read_coded(source.log, spill)
        counts = {name: interner.counts for name, interner in log.interners.items()}
        if base:
            started = pool.submit(
                reuse_vocabulary, log_format, log.interners, base.folder, base.schema.fields
            )
        elif settings.vocabulary == "all":
            started = pool.submit(build_vocabulary, log_format, log.interners, counts)
        labels = log.numbers(log_format.label, pl.UInt8)
        time_of_row = source.log.own.time if source.log.own else None
        times = None if time_of_row is None else log.numbers(time_of_row, pl.Int64)
        splits = split_rows(source.log.split, labels, times, log.rows_of_files)
        _order_codes(scratch, splits, log)
        if not base and settings.vocabulary == "train":
            counts = _count(scratch, len(splits["train"]), log)
            started = pool.submit(build_vocabulary, log_format, log.interners, counts)
        vocabulary = started.result()
        schema = _describe(source, settings, vocabulary, splits, labels)
        if base:
            _warn_of_unknown_fields(base.folder, log, vocabulary)
        written = [pool.submit(write_vocabulary, vocabulary, folder)]
        if source.synthetic:
            written.append(pool.submit(_write_truths, source.log.files, log, splits, folder))
        _write_shards(folder, splits, labels, log, vocabulary, settings)
        for each in written:
            each.result()
    shutil.rmtree(scratch)
    write_schema(schema, folder)
    return schema


def _read_coded(log: Log, spill: Spill) -> CodedLog:
    interners = {name: Interner() for name in log.format.used_columns}
    rows_of_files = []
    with _progress("reading") as bar:
        for path in log.files:
            rows = 0
            for chunk in _read(path, log, interners):
                spill.append(chunk)
                rows += len(chunk[0])
                bar.update(len(chunk[0]))
            rows_of_files.append(rows)
    return CodedLog(log.format, spill, tuple(rows_of_files), interners)


def _read(path: Path, log: Log, interners: Mapping[str, Interner]) -> Iterator[list[np.ndarray]]:
    """The codes of the used columns, chunk by chunk of a file."""
    if log.own:
        return read_own_chunks(path, log, interners)
    return read_chunks(path, log.format, interners)


def _order_codes(scratch: Path, splits: Mapping[str, np.ndarray], log: CodedLog) -> None:
    """Write for each column of a field a file of the codes of all rows, split after split.

    A column at a time, so that the rows can be gathered in any order from memory.
    """

    def order_column(name: str) -> None:
        codes = log.codes(name)
        log.spill.drop(log.number(name))
        with _codes_file(scratch, log.number(name)).open("wb") as file:
            for split in SPLITS:
                for start in range(0, len(splits[split]), PIECE_ROWS):
                    file.write(codes.take(splits[split][start : start + PIECE_ROWS]).data)

    columns = log.field_columns
    with _progress("ordering", log.rows) as bar:
        for done, _ in enumerate(map_ahead(order_column, columns), start=1):
            bar.update(log.rows * done // len(columns) - bar.n)


def _count(scratch: Path, rows: int, log: CodedLog) -> dict[str, np.ndarray]:
    """Column -> how often each of its texts occurs, by code, in the first of the ordered rows."""
    counts = {name: np.zeros(len(log.interners[name]), np.int64) for name in log.field_columns}
    for name, counted in counts.items():
        for start in range(0, rows, PIECE_ROWS):
            part = _read_codes(scratch, log, name, start, min(PIECE_ROWS, rows - start))
            np.add.at(counted, part, 1)
    return counts


def _read_codes(scratch: Path, log: CodedLog, name: str, start: int, rows: int) -> np.ndarray:
    """The codes of some of the ordered rows."""
    path, dtype = _codes_file(scratch, log.number(name)), log.interners[name].dtype
    return np.fromfile(path, dtype, rows, offset=start * dtype.itemsize)


def _codes_file(scratch: Path, number: int) -> Path:
    return scratch / f"ordered-{number}"


def _write_truths(
    files: Sequence[Path], log: CodedLog, splits: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Write the true probabilities of the splits that have them."""
    truths = [_read_truth(*each) for each in zip(files, log.rows_of_files, strict=True)]
    truth = truths[0] if len(truths) == 1 else np.concatenate(truths)
    for split in TRUTH_SPLITS:
        np.save(folder / truth_name(split), truth[splits[split]].astype(np.float64))


def _read_truth(raw: Path, rows: int) -> np.ndarray:
    """The true probabilities (rows,) beside a synthetic log."""
    path = truth_path(raw)
    try:
        truth: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: not an array ({error}); remove it and the log") from error
    if truth.shape != (rows,):
        raise DataError(
            f"{path}: an array of shape {truth.shape} beside a log of {rows} rows; is it the "
            f"truth of another log? Remove it, or both to plant them again"
        )
    return truth


def _describe(
    source: Source,
    settings: Settings,
    vocabulary: Vocabulary,
    splits: Mapping[str, np.ndarray],
    labels: np.ndarray,
) -> Schema:
    return Schema(
        dataset=source.log.dataset,
        fields=vocabulary.fields,
        vocabulary=settings.vocabulary,
        split=source.log.split.describe(),
        rows={split: len(splits[split]) for split in SPLITS},
        positives={
            split: _count_positives(split, labels[splits[split]], refuse=source.base is None)
            for split in SPLITS
        },
        raw=source.files,
        synthetic=source.synthetic,
        log=source.log.description,
        like=source.base.origin if source.base else None,
    )


def _warn_of_unknown_fields(folder: Path, log: CodedLog, vocabulary: Vocabulary) -> None:
    """Say which fields have no value that the data set in `folder` knows, though it knows some."""
    expressions = log.log_format.fields.values()
    for field, expression, table in zip(
        vocabulary.fields, expressions, vocabulary.tables, strict=True
    ):
        interner = log.interners[root(expression)]
        texts, counts = interner.values(), interner.counts.copy()
        if (missing := pc.index(texts, pa.scalar("", texts.type)).as_py()) >= 0:
            counts[missing] = 0  # it is known wherever one was missing there
        met = np.flatnonzero(counts)
        if field.size > 1 and len(met) and (table[met] == field.unknown).all():
            value = str(texts[int(np.argmax(counts))])
            print(
                f"warning: field '{field.name}': no value is one of those in {folder}, the most "
                f"frequent is '{value[:120]}'; every row with one gets the unknown id. Is the "
                f"column written as it was there?",
                file=sys.stderr,
            )


def _count_positives(split: str, labels: np.ndarray, *, refuse: bool) -> int:
    """How many rows were clicked; `refuse` a split of one class, which no AUC can be had of."""
    positives = int(np.count_nonzero(labels))
    for number, what in ((positives, "positive"), (len(labels) - positives, "negative")):
        if refuse and number == 0:
            raise DataError(
                f"split '{split}' has no {what} row ({len(labels)} rows, {positives} positives); "
                f"give a longer log, or one that is split in another way"
            )
    return positives


def _write_shards(
    folder: Path,
    splits: Mapping[str, np.ndarray],
    labels: np.ndarray,
    log: CodedLog,
    vocabulary: Vocabulary,
    settings: Settings,
) -> None:
    """Write the shards of every split, several at a time, from the files of `_order_codes`."""
    names = tuple(log.log_format.fields)
    columns = [root(expression) for expression in log.log_format.fields.values()]

    def write_shard(shard: tuple[str, int, int]) -> int:
        split, number, begin = shard
        start = number * settings.shard_rows
        picked = splits[split][start : start + settings.shard_rows]

        def pieces() -> Iterator[Rows]:
            for first in range(0, len(picked), PIECE_ROWS):
                part = picked[first : first + PIECE_ROWS]
                ids = np.empty((len(names), len(part)), dtype=np.int32)
                for column, table, own in zip(columns, vocabulary.tables, ids, strict=True):
                    row = begin + start + first
                    codes = _read_codes(folder / SCRATCH, log, column, row, len(part))
                    table.take(codes, out=own, mode="clip")
                yield Rows(ids.T, labels[part])

        for file_format in settings.formats:
            path = folder / shard_name(split, number, file_format)
            shard_format(path).write_shard(path, names, pieces())
        return len(picked)

    shards, begin = [], 0
    for split in SPLITS:
        numbers = range(-(-len(splits[split]) // settings.shard_rows))
        shards += [(split, number, begin) for number in numbers]
        begin += len(splits[split])
    with _progress("writing", len(labels)) as bar:
        for rows in map_ahead(write_shard, shards):
            bar.update(rows)


def _progress(phase: str, rows: int | None = None) -> tqdm[NoReturn]:
    """A bar of the rows of a phase, shown on a terminal only."""
    return tqdm(total=rows, desc=phase, unit=" rows", unit_scale=True, disable=None, leave=False)
