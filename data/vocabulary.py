"""Texts -> values of fields -> counts -> feature ids.

While a log is read, every distinct text of a column gets a code and is counted (`Interner`). When
all of it is read, the recipe makes values of these texts, and those that are frequent enough get
ids by falling count; a table a field then turns codes into ids (`Vocabulary`). So each text of a
row is hashed once, and what is kept of a row in between is a small integer a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data.arrow import to_arrow, to_numpy
from data.raw import RawFormat, root
from data.schema import PREPARE_AGAIN, DataError, Field, Schema
from data.threads import map_ahead
from data.tokens import Interner

VOCABULARY_FILE = "vocabulary.parquet"
TEXT_AT_ONCE = 2**30  # bytes; an Arrow string array takes 2 GiB
VOCABULARY_SCHEMA = pa.schema(
    [
        pa.field("field", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("id", pa.int32(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Vocabulary:
    """The ids of the values.

    tables: for each field the global id (int32) of every code of its column. kept: for each field
    the values with ids of their own, in the order of these, and `counts` their counts; that of
    the unknown id is last.
    """

    fields: tuple[Field, ...]
    tables: tuple[np.ndarray, ...]
    kept: tuple[pl.Series, ...]
    counts: tuple[np.ndarray, ...]


def build_vocabulary(
    log: RawFormat, interners: Mapping[str, Interner], counts: Mapping[str, np.ndarray]
) -> Vocabulary:
    """Give ids to the values that occur often enough; counts: column -> (texts,) by code.

    Within a field ids go by falling count, then by value; the last one is the unknown id, which
    every field has. NOTE[DIFF]: officially a field without rare values has none, so that a value
    never seen hits the id of another.
    """

    def rank(name: str) -> tuple[pl.DataFrame, np.ndarray]:
        column = root(log.fields[name])
        texts, expression = interners[column].values(), log.fields[name]
        return _rank(texts, counts[column], expression, log.thresholds[name])

    fields, tables, kept, kept_counts, offset = [], [], [], [], 0
    for name, (frequent, table) in zip(log.fields, map_ahead(rank, log.fields), strict=True):
        field = Field(name, len(frequent) + 1, offset, log.thresholds[name])
        own = frequent["count"].to_numpy()
        unknown = counts[root(log.fields[name])].sum() - own.sum()
        table += np.int32(offset)
        fields.append(field)
        tables.append(table)
        kept.append(frequent["value"])
        kept_counts.append(np.append(own, unknown))
        offset += field.size
    return Vocabulary(tuple(fields), tuple(tables), tuple(kept), tuple(kept_counts))


def _rank(
    texts: pa.Array, counts: np.ndarray, expression: pl.Expr, threshold: int
) -> tuple[pl.DataFrame, np.ndarray]:
    """The frequent values of a field (`value`, `count`), by falling count, then by value.

    And the place (int32) that the value of each text has among them, or their number.
    """
    values, groups = texts, None
    if not expression.meta.is_column():
        mapped = pl.DataFrame({root(expression): texts}).select(expression).to_series()
        encoded = mapped.to_arrow().dictionary_encode()
        values, groups = encoded.dictionary, to_numpy(encoded.indices)
        counts = np.bincount(groups, counts, len(values)).astype(np.int64)
    # A threshold of 0 still keeps no value that was not counted at all.
    codes = np.flatnonzero(counts >= max(threshold, 1))
    frequent = pl.DataFrame(
        {"value": values.take(to_arrow(codes)), "count": counts[codes], "code": codes}
    ).sort(["count", "value"], descending=[True, False])
    table = np.full(len(values), len(frequent), dtype=np.int32)
    table[frequent["code"].to_numpy()] = np.arange(len(frequent), dtype=np.int32)
    return frequent, table if groups is None else table.take(groups)


def write_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    """Write `vocabulary.parquet`: field, value, id, count, a row an id and a row group a field.

    The value of an unknown id is null, its count that of all values that share it. A field of more
    text than Arrow takes at once has several row groups.
    """
    path = folder / VOCABULARY_FILE
    with pq.ParquetWriter(path, VOCABULARY_SCHEMA, compression="zstd") as writer:
        for field, values, counts in zip(
            vocabulary.fields, vocabulary.kept, vocabulary.counts, strict=True
        ):
            ids = np.arange(field.offset, field.offset + field.size, dtype=np.int32)
            texts = values.extend_constant(None, 1)
            for rows in _parts(values):
                columns = [
                    pl.repeat(field.name, len(ids[rows]), eager=True).to_arrow().cast(pa.string()),
                    texts[rows].to_arrow().cast(pa.string()),
                    to_arrow(ids[rows]),
                    to_arrow(counts[rows]),
                ]
                writer.write_table(pa.table(columns, schema=VOCABULARY_SCHEMA))


def _parts(values: pl.Series) -> Iterator[slice]:
    """The rows of a field, an unknown one behind its values, in parts of `TEXT_AT_ONCE` at most."""
    lengths = values.str.len_bytes()
    rows, step = len(values) + 1, len(values) + 1
    if (lengths.sum() or 0) > TEXT_AT_ONCE:
        step = max(1, TEXT_AT_ONCE // int(lengths.max()))  # type: ignore[arg-type]
    return (slice(start, start + step) for start in range(0, rows, step))


def read_vocabulary(folder: Path, fields: Sequence[Field]) -> dict[str, pl.Series]:
    """Field -> its values in the order of their ids, without the unknown one.

    Raise `DataError` if the file is missing, unreadable or not of these fields.
    """
    groups = _read_groups(folder, fields)
    return {name: group["value"].head(-1) for name, group in groups.items()}


def reuse_vocabulary(
    log: RawFormat, interners: Mapping[str, Interner], folder: Path, fields: Sequence[Field]
) -> Vocabulary:
    """The ids that the data set in `folder`, which has these fields, gives to texts read anew.

    A value without an id there gets the unknown one of its field.
    """
    groups = _read_groups(folder, fields)
    tables = []
    for field in fields:
        expression = log.fields[field.name]
        texts = pl.DataFrame({root(expression): interners[root(expression)].values()})
        values = texts.select(expression.cast(pl.String).alias("value"))
        ids = values.join(groups[field.name], on="value", how="left", maintain_order="left")["id"]
        tables.append(ids.fill_null(field.unknown).to_numpy())
    return Vocabulary(
        tuple(fields),
        tuple(tables),
        tuple(group["value"].head(-1) for group in groups.values()),
        tuple(group["count"].to_numpy() for group in groups.values()),
    )


def decode_ids(ids: np.ndarray, schema: Schema, folder: Path) -> pl.DataFrame:
    """The values that global ids (rows, F) of the data set in `folder` stand for, a column a field.

    An unknown id is null. Raise `DataError` for an id outside its field.
    """
    schema.check_ids(ids, str(folder))
    values = read_vocabulary(folder, schema.fields)
    return pl.DataFrame(
        {
            field.name: values[field.name].extend_constant(None, 1).gather(column - field.offset)
            for field, column in zip(schema.fields, ids.T, strict=True)
        }
    )


def _read_groups(folder: Path, fields: Sequence[Field]) -> dict[str, pl.DataFrame]:
    """Field -> id, value and count of each of its ids."""
    path = Path(folder) / VOCABULARY_FILE
    try:
        frame = pl.read_parquet(path)
        found = frame.select("field", "id", "value", "count")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: unreadable vocabulary ({error}); {PREPARE_AGAIN}") from error
    expected = [(field.name, field.size) for field in fields]
    groups = found.partition_by("field", maintain_order=True)
    if [(group["field"][0], len(group)) for group in groups] != expected:
        raise DataError(
            f"{path}: its fields or sizes are not those of schema.yaml; {PREPARE_AGAIN}"
        )
    return {group["field"][0]: group for group in groups}
