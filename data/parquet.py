"""Encoded rows in Parquet, the native format: a column `label`, then one a field, named as it.

Reading goes row group by row group, so that beside the rows only a small part of them is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.arrow import to_arrow, to_numpy
from data.schema import LABEL, PREPARE_AGAIN, DataError, Rows

# Large enough for fast columns, small enough that turning columns into rows stays in cache.
ROW_GROUP = 1 << 16


def write_shard(path: Path, field_names: Sequence[str], pieces: Iterable[Rows]) -> None:
    """Write the rows of one piece after another as one file, with row groups of their own."""
    schema = _arrow_schema(field_names)
    writer = pq.ParquetWriter(
        path,
        schema,
        write_page_checksum=True,
        # The high bytes of ids repeat: split off and packed, a file is as small as with
        # dictionaries, written three times as fast and read faster than the plain numbers.
        compression="lz4",
        use_dictionary=False,
        use_byte_stream_split=list(field_names),
        write_statistics=False,
    )
    with writer:
        for rows in pieces:
            columns = [to_arrow(rows.labels), *map(to_arrow, rows.ids.T)]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=ROW_GROUP)


def read_shard(path: Path, field_names: Sequence[str]) -> Rows:
    """Read a whole file; raise `DataError` if it is damaged or has other columns."""
    with _opened(path) as file:
        _check_columns(file, path, field_names)
        metadata = file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if sum(sizes) != metadata.num_rows:
            raise ValueError(f"{sum(sizes)} rows in row groups, {metadata.num_rows} in the footer")
    ids = np.empty((sum(sizes), len(field_names)), dtype=np.int32)
    labels = np.empty(sum(sizes), dtype=np.uint8)
    starts = np.cumsum([0, *sizes])
    threads = max(1, min(pa.cpu_count(), len(sizes)))

    def read_groups(first: int) -> None:
        with _opened(path) as file:
            for group in range(first, len(sizes), threads):
                label, *columns = file.read_row_group(group, use_threads=False).columns
                if len(label) != sizes[group]:
                    raise ValueError(f"{len(label)} rows in row group {group}, not {sizes[group]}")
                part = slice(starts[group], starts[group + 1])
                labels[part] = to_numpy(label)
                # One transposing copy of a row group is much faster than a strided one a column.
                ids[part] = np.stack([to_numpy(column) for column in columns]).T

    with ThreadPoolExecutor(threads, thread_name_prefix="row-groups") as pool:
        list(pool.map(read_groups, range(threads)))
    return Rows(ids, labels)


def read_labels(path: Path, field_names: Sequence[str]) -> np.ndarray:
    """Read the labels of a file, (rows,) uint8."""
    with _opened(path) as file:
        _check_columns(file, path, field_names)
        return to_numpy(file.read(columns=[LABEL])[LABEL])


def count_rows(path: Path) -> int:
    """The number of rows, which the file states."""
    with _opened(path) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: unreadable Parquet file ({error}); {PREPARE_AGAIN}") from error


def _check_columns(file: pq.ParquetFile, path: Path, field_names: Sequence[str]) -> None:
    expected, found = _arrow_schema(field_names), file.schema_arrow
    if found.equals(expected):
        return
    pairs = zip_longest(map(str, found), map(str, expected), fillvalue="none")
    here, wanted = next(pair for pair in pairs if pair[0] != pair[1])
    raise DataError(
        f"{path}: its columns are not those of schema.yaml (first difference: {here}, expected "
        f"{wanted}); was schema.yaml made from other data?"
    )


def _arrow_schema(field_names: Sequence[str]) -> pa.Schema:
    return pa.schema(
        [
            pa.field(LABEL, pa.uint8(), nullable=False),
            *(pa.field(name, pa.int32(), nullable=False) for name in field_names),
        ]
    )
