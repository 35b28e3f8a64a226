"""Rows of a user's own log: files of any layout -> chunks of labels, field values and times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from data import delimited, parquet_log
from data.log import Layout, Log, unknown_name
from data.raw import Chunk, Column, Rule
from data.schema import DataError
from data.threads import map_ahead


class Piece(NamedTuple):
    """Some columns of rows that lie together. place: row of the piece -> where it is, in words."""

    columns: dict[str, Column]
    place: Callable[[int], str]


def column_names(path: Path, layout: Layout) -> tuple[str, ...]:
    """The columns of a file; raise `DataError` where it does not say them, or one of them twice."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the log with `files:` or --raw PATH")
    layout = layout.of(path)
    reader = parquet_log if layout.format == "parquet" else delimited
    names: tuple[str, ...] = reader.column_names(path, layout)
    for number, name in enumerate(names, start=1):
        if not name or names.index(name) + 1 != number:
            what = f"is a second '{name}'" if name else "has no name"
            raise DataError(f"{path}: column {number} {what}; give every column a name of its own")
    return names


def read_own_chunks(path: Path, log: Log) -> Iterator[tuple[Chunk, np.ndarray | None]]:
    """Yield the rows of one file in order, with their times (rows,) int64 where the split asks.

    Raise `DataError` with the line or the row group, the column and the value for anything that
    does not fit the log's description.
    """
    assert log.own is not None
    layout = log.own.layout.of(path)
    names = column_names(path, log.own.layout)
    used = log.format.used_columns
    for name in used:
        if name not in names:
            raise DataError(f"{path}: {unknown_name('column', name, names)}")
    rules, time = log.format.rules, log.own.time

    def to_chunk(piece: Piece) -> tuple[Chunk, np.ndarray | None]:
        _check_rules(piece, rules)
        return _apply_recipe(piece.columns, log), _numbers(piece.columns, time, pl.Int64)

    rows = 0
    if layout.format == "parquet":
        pieces = map_ahead(to_chunk, map(_of_parquet, parquet_log.read_batches(path, used)))
    else:
        pieces = map_ahead(
            lambda block: to_chunk(_of_text(block, names, used)),
            delimited.read_blocks(path, layout),
        )
    for chunk, times in pieces:
        rows += len(chunk.labels)
        yield chunk, times
    if rows == 0:
        raise DataError(f"{path} has no rows; remove it or fetch it again")


def _of_text(block: delimited.Block, names: Sequence[str], used: Sequence[str]) -> Piece:
    table = delimited.parse(block, names, used)
    columns = {name: _column(table[name].combine_chunks()) for name in used}
    return Piece(columns, lambda row: delimited.place_of_row(block, row))


def _of_parquet(batch: parquet_log.Batch) -> Piece:
    columns = {name: _column(array) for name, array in batch.columns.items()}
    return Piece(columns, batch.place)


def _column(array: pa.DictionaryArray) -> Column:
    """A dictionary array as codes and texts; what is missing is the empty text."""
    values = pl.Series(array.dictionary)
    if values.dtype.is_float():
        values = values.fill_nan(None)
    if isinstance(values.dtype, pl.Datetime):
        # The time as it is written there, of whatever zone.
        values = values.dt.replace_time_zone(None)
    texts = values.cast(pl.String).fill_null("")
    return Column(array.indices.to_numpy(), texts)


def _check_rules(piece: Piece, rules: Sequence[Rule]) -> None:
    """Raise `DataError` for the first row that breaks a rule, which the distinct values tell."""
    broken = []
    for rule in rules:
        codes, values = piece.columns[rule.column]
        bad = ~_evaluate(values, rule.column, rule.valid).fill_null(False).to_numpy()
        if bad.any() and (rows := bad.take(codes)).any():
            broken.append((int(np.argmax(rows)), rule))
    if broken:
        row, rule = min(broken, key=lambda found: found[0])
        codes, values = piece.columns[rule.column]
        raise DataError(
            f"{piece.place(row)}: {rule.column} is '{values[int(codes[row])][:120]}', expected "
            f"{rule.expected}; repair or remove the row"
        )


def _apply_recipe(columns: Mapping[str, Column], log: Log) -> Chunk:
    labels = _numbers(columns, log.format.label, pl.UInt8)
    assert labels is not None
    fields = {}
    for name, expression in log.format.fields.items():
        (root,) = set(expression.meta.root_names())
        codes, values = columns[root]
        fields[name] = Column(codes, _evaluate(values, root, expression))
    return Chunk(labels, fields)


def _numbers(
    columns: Mapping[str, Column], expression: pl.Expr | None, dtype: type[pl.DataType]
) -> np.ndarray | None:
    """A number a row; None without an expression."""
    if expression is None:
        return None
    (root,) = set(expression.meta.root_names())
    codes, values = columns[root]
    return _evaluate(values, root, expression.cast(dtype)).to_numpy().take(codes)


def _evaluate(values: pl.Series, column: str, expression: pl.Expr) -> pl.Series:
    return values.to_frame(column).select(expression).to_series()
