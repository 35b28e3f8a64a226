"""Values -> codes -> counts -> feature ids.

While a log is read, every distinct value gets a code, in no particular order, and is counted
(`Interner`). When all of it is read, the values that are frequent enough get ids by falling
count; a table a field then turns codes into ids (`Vocabulary`). So each value is hashed once,
and what is kept of a row in between is F small integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data.raw import Column
from data.schema import PREPARE_AGAIN, DataError, Field, Schema
from data.spill import narrowest
from data.threads import map_ahead

VOCABULARY_FILE = "vocabulary.parquet"
VOCABULARY_SCHEMA = pa.schema(
    [
        pa.field("field", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("id", pa.int32(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)


class Interner:
    """Codes and counts of the distinct values of each field, in polars' map from text to code."""

    def __init__(self, field_names: Sequence[str]) -> None:
        self.field_names = tuple(field_names)
        self._categories = {name: pl.Categories.random() for name in self.field_names}
        # polars forgets the categories that no series refers to.
        self._alive = [
            pl.Series(dtype=pl.Categorical(categories)) for categories in self._categories.values()
        ]
        self._counts = {name: np.zeros(1024, dtype=np.int64) for name in self.field_names}

    def codes(self, name: str, column: Column) -> np.ndarray:
        """The codes (rows,) of the texts of a field, counted; a new value gets a new code."""
        values = column.values.cast(pl.Categorical(self._categories[name])).to_physical()
        table = values.to_numpy()
        highest = int(table.max(initial=0))
        counts = self._counts[name]
        if highest >= len(counts):
            counts = np.concatenate([counts, np.zeros(highest + 1, dtype=np.int64)])
            self._counts[name] = counts
        np.add.at(counts, table, np.bincount(column.codes, minlength=len(table)))
        return table.astype(narrowest(highest)).take(column.codes)

    def values(self, name: str) -> pl.Series:
        """The values of a field; the one of code i is at place i."""
        return self._categories[name].to_series()

    def counts(self, name: str) -> np.ndarray:
        """How often each of these values was read."""
        return self._counts[name][: len(self.values(name))]


@dataclass(frozen=True)
class Vocabulary:
    """The ids of the values.

    tables: for each field the global id (int32) of every code. kept: for each field the values
    with ids of their own, in the order of these, and `counts` their counts; that of the unknown
    id is last.
    """

    fields: tuple[Field, ...]
    tables: tuple[np.ndarray, ...]
    kept: tuple[pl.Series, ...]
    counts: tuple[np.ndarray, ...]


def build_vocabulary(
    interner: Interner, counts: Mapping[str, np.ndarray], thresholds: Mapping[str, int]
) -> Vocabulary:
    """Give ids to the values that occur often enough; counts: field -> (values,) by code.

    Within a field ids go by falling count, then by value; the last one is the unknown id, which
    every field has. NOTE[DIFF]: officially a field without rare values has none, so that a value
    never seen hits the id of another.
    """
    frequent = map_ahead(
        lambda name: _frequent(interner.values(name), counts[name], thresholds[name]),
        interner.field_names,
    )
    fields, tables, kept, kept_counts, offset = [], [], [], [], 0
    for name, codes in zip(interner.field_names, frequent, strict=True):
        values = interner.values(name)
        field = Field(name, len(codes) + 1, offset, thresholds[name])
        table = np.full(len(values), field.unknown, dtype=np.int32)
        table[codes] = np.arange(offset, field.unknown, dtype=np.int32)
        own = counts[name][codes]
        fields.append(field)
        tables.append(table)
        kept.append(values.gather(codes))
        kept_counts.append(np.append(own, counts[name].sum() - own.sum()))
        offset += field.size
    return Vocabulary(tuple(fields), tuple(tables), tuple(kept), tuple(kept_counts))


def _frequent(values: pl.Series, counts: np.ndarray, threshold: int) -> np.ndarray:
    """The codes counted `threshold` times or more, by falling count, then by value."""
    frame = pl.DataFrame({"value": values, "count": counts}).with_row_index("code")
    # A threshold of 0 still keeps no value that was not counted at all.
    frequent = frame.filter(pl.col("count") >= max(threshold, 1))
    return frequent.sort(["count", "value"], descending=[True, False])["code"].to_numpy()


def write_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    """Write `vocabulary.parquet`: field, value, id, count, a row an id and a row group a field.

    The value of an unknown id is null, its count that of all values that share it.
    """
    path = folder / VOCABULARY_FILE
    with pq.ParquetWriter(path, VOCABULARY_SCHEMA, compression="zstd") as writer:
        for field, values, counts in zip(
            vocabulary.fields, vocabulary.kept, vocabulary.counts, strict=True
        ):
            columns = [
                pa.repeat(field.name, field.size),
                values.extend_constant(None, 1).to_arrow().cast(pa.string()),
                np.arange(field.offset, field.offset + field.size, dtype=np.int32),
                counts,
            ]
            writer.write_table(pa.table(columns, schema=VOCABULARY_SCHEMA))


def read_vocabulary(folder: Path, fields: Sequence[Field]) -> dict[str, pl.Series]:
    """Field -> its values in the order of their ids, without the unknown one.

    Raise `DataError` if the file is missing, unreadable or not of these fields.
    """
    groups = _read_groups(folder, fields)
    return {name: group["value"].head(-1) for name, group in groups.items()}


def reuse_vocabulary(interner: Interner, folder: Path, fields: Sequence[Field]) -> Vocabulary:
    """The ids that the data set in `folder`, which has these fields, gives to values read anew.

    A value without an id there gets the unknown one of its field.
    """
    groups = _read_groups(folder, fields)
    tables = []
    for field in fields:
        values = interner.values(field.name).cast(pl.String).to_frame("value")
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
