"""Parquet files that users bring as a log, row group by row group."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.log import Layout
from data.schema import DataError

BATCH_ROWS = 1 << 18
TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
# One text, number or time a row, which polars makes a text of.
PLAIN_TYPES = (
    *TEXT_TYPES,
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal128, pa.types.is_boolean),
    *(pa.types.is_date, pa.types.is_time, pa.types.is_timestamp, pa.types.is_null),
)
# How pandas calls an index without a name.
PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class Batch:
    """Rows of one row group: columns as dictionary arrays, nulls among their values."""

    columns: dict[str, pa.DictionaryArray]
    place: Callable[[int], str]


def column_names(path: Path, layout: Layout) -> tuple[str, ...]:
    """The columns of the file, which names them itself: the layout must not.

    The nameless index of a pandas frame is none of them, as when pandas reads the file.
    """
    if layout.columns:
        raise DataError(f"{path}: a Parquet file names its columns; remove `columns:`")
    with _opened(path) as file:
        names = file.schema_arrow.names
    return tuple(name for name in names if not PANDAS_INDEX.fullmatch(name))


def read_batches(path: Path, used: Sequence[str], batch_rows: int = BATCH_ROWS) -> Iterator[Batch]:
    """Yield the rows of some columns in order, in batches of at most `batch_rows` rows.

    Raise `DataError` for a damaged file, text that is not UTF-8, and a column that holds anything
    else than one text, number or time a row.
    """
    with _opened(path) as file:
        for name in used:
            _check_type(path, name, file.schema_arrow.field(name).type)
        for group in range(file.num_row_groups):
            first = 0
            batches = file.iter_batches(batch_rows, row_groups=[group], columns=list(used))
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as error:
                    raise DataError(
                        f"{path}, row group {group}: unreadable ({error}); fetch the file again"
                    ) from error
                if batch is None:
                    break
                columns = {name: _encoded(batch.column(name)) for name in used}
                for name, column in columns.items():
                    _check_text(f"{path}, row group {group}: column '{name}'", column.dictionary)
                yield Batch(columns, _place(path, group, first))
                first += len(batch)


def _place(path: Path, group: int, first: int) -> Callable[[int], str]:
    return lambda row: f"{path}, row group {group}, row {first + row}"


def _encoded(array: pa.Array) -> pa.DictionaryArray:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.dictionary_encode(null_encoding="encode")


def _check_type(path: Path, name: str, kind: pa.DataType) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not any(is_plain(kind) for is_plain in PLAIN_TYPES):
        raise DataError(
            f"{path}: column '{name}' is of type {kind}, which is not one text, number or time a "
            f"row; make text or columns of it, or leave it out with `{name}: drop` below `fields:`"
        )
    if pa.types.is_timestamp(kind) and kind.tz:
        try:
            pc.strftime(pa.scalar(0, kind))
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: column '{name}' is of type {kind}, whose time zone is unknown here "
                f"({error}); install the system's time zones (tzdata), or write it in UTC"
            ) from error


def _check_text(place: str, values: pa.Array) -> None:
    """Raise `DataError` for text that is not UTF-8, which Parquet files may hold."""
    if any(is_text(values.type) for is_text in TEXT_TYPES):
        try:
            values.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DataError(f"{place}: not UTF-8 ({error}); write it as UTF-8") from error


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: unreadable Parquet file ({error}); fetch it again") from error
    with file:
        yield file
