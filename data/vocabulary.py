"""Values -> codes -> counts -> feature ids.

While a log is read, every distinct value gets a code, in no particular order (`Interner`). When
all of it is read, the codes are counted, and the values that are frequent enough get ids by
falling count; a table a field then turns codes into ids (`Vocabulary`). So each value is hashed
once, and what is kept of a row in between is F small integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from data.schema import Field


class Interner:
    """Codes for the distinct values of each field, in polars' map from text to code."""

    def __init__(self, field_names: Sequence[str]) -> None:
        self.field_names = tuple(field_names)
        self._categories = {name: pl.Categories.random() for name in self.field_names}
        # polars forgets the categories that no series refers to.
        self._alive = [
            pl.Series(dtype=pl.Categorical(categories)) for categories in self._categories.values()
        ]

    def codes(self, chunk: pl.DataFrame) -> np.ndarray:
        """The codes (rows, F) int32 of the values of a chunk of a log; new values get new codes."""
        return chunk.select(
            pl.col(name).cast(pl.Categorical(categories)).to_physical().cast(pl.Int32)
            for name, categories in self._categories.items()
        ).to_numpy(order="c")

    def values(self, name: str) -> pl.Series:
        """The values of a field; the one of code i is at place i."""
        return self._categories[name].to_series()


@dataclass(frozen=True)
class Vocabulary:
    """The ids of the values. tables: for each field the global id (int32) of every code."""

    fields: tuple[Field, ...]
    tables: tuple[np.ndarray, ...]

    def encode(self, codes: np.ndarray) -> np.ndarray:
        """Global feature ids (rows, F) int32 for codes (rows, F)."""
        ids = np.empty(codes.shape, dtype=np.int32)
        for column, table in enumerate(self.tables):
            ids[:, column] = table[codes[:, column]]
        return ids


def build_vocabulary(
    interner: Interner, codes: np.ndarray, thresholds: Mapping[str, int]
) -> Vocabulary:
    """Give ids to the values that occur often enough in `codes` (rows, F).

    Within a field ids go by falling count, then by value; the last one is the unknown id, which
    every field has. NOTE[DIFF]: officially a field without rare values has none, so that a value
    never seen hits the id of another.
    """
    fields, tables, offset = [], [], 0
    for column, name in enumerate(interner.field_names):
        values = interner.values(name)
        counts = np.bincount(codes[:, column], minlength=len(values))
        kept = _frequent(values, counts, thresholds[name])
        field = Field(name, len(kept) + 1, offset, thresholds[name])
        table = np.full(len(values), field.unknown, dtype=np.int32)
        table[kept] = np.arange(offset, field.unknown, dtype=np.int32)
        fields.append(field)
        tables.append(table)
        offset += field.size
    return Vocabulary(tuple(fields), tuple(tables))


def _frequent(values: pl.Series, counts: np.ndarray, threshold: int) -> np.ndarray:
    """The codes counted `threshold` times or more, by falling count, then by value."""
    frame = pl.DataFrame({"value": values, "count": counts}).with_row_index("code")
    # A threshold of 0 still keeps no value that was not counted at all.
    frequent = frame.filter(pl.col("count") >= max(threshold, 1))
    return frequent.sort(["count", "value"], descending=[True, False])["code"].to_numpy()
