"""Rows of a user's own log: files of any layout -> codes of the texts in their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from data import delimited, parquet_log
from data.arrow import to_numpy
from data.log import Layout, Log, unknown_name
from data.raw import Rule
from data.schema import DataError
from data.threads import map_ahead
from data.tokens import Interner, Texts

LARGEST_WHOLE = 2**53  # beyond it a float may be another integer than the one that was meant


class Column(NamedTuple):
    """One text a row, as codes (rows,) int32 of distinct values: values[codes[row]]."""

    codes: np.ndarray
    values: pl.Series


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


def read_own_chunks(
    path: Path, log: Log, interners: Mapping[str, Interner]
) -> Iterator[list[np.ndarray]]:
    """Yield the rows of one file in order, as `data.reading.read_chunks` does.

    Raise `DataError` with the line or the row group, the column and the value for anything that
    does not fit the log's description.
    """
    assert log.own is not None
    layout = log.own.layout.of(path)
    names = column_names(path, log.own.layout)
    used = list(interners)
    for name in used:
        if name not in names:
            raise DataError(f"{path}: {unknown_name('column', name, names)}")

    def checked(piece: Piece) -> dict[str, tuple[Texts, np.ndarray]]:
        _check_rules(piece, log.format.rules)
        return {
            name: (Texts.of_arrow(column.values.to_arrow()), column.codes)
            for name, column in piece.columns.items()
        }

    rows = 0
    if layout.format == "parquet":
        pieces = map_ahead(
            lambda batch: checked(_of_parquet(batch)), parquet_log.read_batches(path, used)
        )
    else:
        pieces = map_ahead(
            lambda block: checked(_of_text(block, names, used)),
            delimited.read_blocks(path, layout),
        )
    for texts in pieces:
        chunk = [interner.codes_of_rows(*texts[name]) for name, interner in interners.items()]
        rows += len(chunk[0])
        yield chunk
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
    """A dictionary array as codes and texts; what is missing is the empty text.

    A whole number is the same text whether its column is of integers or of floats, as a missing
    value makes it.
    """
    distinct = array.dictionary
    if pa.types.is_timestamp(distinct.type) and distinct.type.tz:
        # The time as it is written there, and the offset, without which times do not compare.
        distinct = pc.strftime(distinct, "%Y-%m-%d %H:%M:%S%z")
    values = pl.Series(distinct)
    if values.dtype == pl.Float16:  # which has no floor
        values = values.cast(pl.Float32)
    texts = values.cast(pl.String)
    if values.dtype.is_float():
        values = values.fill_nan(None)
        whole = (values == values.floor()) & (values.abs() < LARGEST_WHOLE)
        texts = (
            values.cast(pl.Int64, strict=False)
            .cast(pl.String)
            .zip_with(whole.fill_null(False), values.cast(pl.String))
        )
    return Column(to_numpy(array.indices), texts.fill_null(""))


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


def _evaluate(values: pl.Series, column: str, expression: pl.Expr) -> pl.Series:
    return values.to_frame(column).select(expression).to_series()
