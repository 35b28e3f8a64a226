"""Parquet files that users bring as a log, row group by row group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.log import Layout
from data.schema import DataError

BATCH_ROWS = 1 << 18


@dataclass(frozen=True)
class Batch:
    """Rows of one row group: columns as dictionary arrays, nulls among their values."""

    columns: dict[str, pa.DictionaryArray]
    place: Callable[[int], str]


def column_names(path: Path, layout: Layout) -> tuple[str, ...]:
    """The columns of the file, which names them itself: the layout must not."""
    if layout.columns:
        raise DataError(f"{path}: a Parquet file names its columns; remove `columns:`")
    with _opened(path) as file:
        return tuple(file.schema_arrow.names)


def read_batches(path: Path, used: Sequence[str], batch_rows: int = BATCH_ROWS) -> Iterator[Batch]:
    """Yield the rows of some columns in order, in batches of at most `batch_rows` rows.

    Raise `DataError` for a damaged file and a column that holds more than one value a row.
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
                yield Batch(
                    {name: _encoded(batch.column(name)) for name in used},
                    _place(path, group, first),
                )
                first += len(batch)


def _place(path: Path, group: int, first: int) -> Callable[[int], str]:
    return lambda row: f"{path}, row group {group}, row {first + row}"


def _encoded(array: pa.Array) -> pa.DictionaryArray:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.dictionary_encode(null_encoding="encode")


def _check_type(path: Path, name: str, kind: pa.DataType) -> None:
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise DataError(
            f"{path}: column '{name}' is of type {kind}, which is not one text, number or time a "
            f"row; make columns of it, or leave it out with `{name}: drop` below `fields:`"
        )


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: unreadable Parquet file ({error}); fetch it again") from error
    with file:
        yield file
