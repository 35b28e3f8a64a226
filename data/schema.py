"""What an encoded data set is: its fields, their ids, its splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

SCHEMA_FILE = "schema.yaml"
FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
PREPARE_AGAIN = "prepare the data set again with --force"
ROWS_TOGETHER = 64
# The column of the labels, in a chunk of a log as in a shard.
LABEL = "label"


class DataError(Exception):
    """Data that cannot be used; the message names the value, the place and the way out."""


class Rows(NamedTuple):
    """Encoded rows: global feature ids (rows, F) int32 and labels, 0 or 1, (rows,) uint8."""

    ids: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Field:
    """One categorical field. Its global ids are `offset .. offset + size - 1`; the last is unknown.

    threshold: values counted fewer times than this share the unknown id.
    """

    name: str
    size: int
    offset: int
    threshold: int

    @property
    def unknown(self) -> int:
        """The global id of every value that is rare or was never seen."""
        return self.offset + self.size - 1


@dataclass(frozen=True)
class RawFile:
    """A raw log by its name (without folder) and the sha256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Schema:
    """The head of an encoded data set, stored as `schema.yaml`.

    vocabulary: "all" counts values over every row, "train" over the training rows alone.
    split: rule and seed. rows, positives: per split. synthetic: the log was planted by us.
    log: how rows of a user's own log are read, None for the official formats. like: the data set
    (its name and fingerprint) whose recipe and ids these rows were given, None for ids of their
    own.
    """

    dataset: str
    fields: tuple[Field, ...]
    vocabulary: str
    split: Mapping[str, Any]
    rows: Mapping[str, int]
    positives: Mapping[str, int]
    raw: tuple[RawFile, ...]
    synthetic: bool = False
    log: Mapping[str, Any] | None = None
    like: Mapping[str, str] | None = None
    version: int = FORMAT_VERSION

    @property
    def num_fields(self) -> int:
        return len(self.fields)

    @property
    def num_features(self) -> int:
        """Rows of the feature table."""
        last = self.fields[-1]
        return last.offset + last.size

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything above: two data sets with the same one hold the same rows."""
        return hashlib.sha256(_to_yaml(self).encode()).hexdigest()

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low = np.array([field.offset for field in self.fields])
        return low, low + np.array([field.size for field in self.fields])

    def check_ids(self, ids: np.ndarray, place: str) -> None:
        """Raise `DataError` unless every id of `ids` (rows, F) lies within its field.

        place: the file that the ids came from, for the message.
        """
        if ids.ndim != 2 or ids.shape[1] != self.num_fields:
            raise DataError(
                f"{place}: rows of width {ids.shape[1:]}, but the schema has {self.num_fields} "
                f"fields; was schema.yaml made from other data?"
            )
        if len(ids) == 0:
            return
        low, high = self._bounds
        if (_reduce_rows(np.minimum, ids) >= low).all() and (
            _reduce_rows(np.maximum, ids) < high
        ).all():
            return
        row, column = np.argwhere((ids < low) | (ids >= high))[0]
        field = self.fields[column]
        raise DataError(
            f"field '{field.name}': id {ids[row, column]} is outside its ids {field.offset}.."
            f"{field.offset + field.size - 1} ({place}, row {row}); was schema.yaml made from "
            f"other data?"
        )


def _reduce_rows(function: np.ufunc, ids: np.ndarray) -> np.ndarray:
    """The reduction (F,) of `ids` (rows, F) over its rows.

    First over groups of rows laid end to end: numpy is fast on long rows only.
    """
    even = len(ids) // ROWS_TOGETHER * ROWS_TOGETHER
    parts = ids[even:]
    if even:
        wide = function.reduce(ids[:even].reshape(-1, ROWS_TOGETHER * ids.shape[1]), axis=0)
        parts = np.concatenate([wide.reshape(ROWS_TOGETHER, -1), parts])
    reduced: np.ndarray = function.reduce(parts, axis=0)
    return reduced


def write_schema(schema: Schema, folder: Path) -> None:
    """Write `schema.yaml` into `folder`."""
    (folder / SCHEMA_FILE).write_text(_to_yaml(schema))


def read_schema(folder: Path) -> Schema:
    """Read `schema.yaml` from `folder`; raise `DataError` where it is missing or malformed."""
    path = Path(folder) / SCHEMA_FILE
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; make the data set with "
            f"`python -m data.prepare {Path(folder).name} --raw PATH` (or `--synthetic ROWS`)"
        )
    try:
        return _from_yaml(path.read_text())
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = error if type(error) is ValueError else repr(error)
        raise DataError(f"{path}: not a schema ({reason}); {PREPARE_AGAIN}") from error


def _from_yaml(text: str) -> Schema:
    content = yaml.safe_load(text)
    if content["version"] != FORMAT_VERSION:
        raise ValueError(
            f"format version {content['version']}, but this program reads {FORMAT_VERSION}"
        )
    fields = tuple(
        Field(entry["name"], entry["size"], entry["offset"], entry["threshold"])
        for entry in content.pop("fields")
    )
    raw = tuple(RawFile(**entry) for entry in content.pop("raw"))
    del content["num_features"]
    schema = Schema(fields=fields, raw=raw, **content)
    _check_layout(schema)
    return schema


def _check_layout(schema: Schema) -> None:
    """Raise `ValueError` unless the fields' ids lie end to end and every split is counted."""
    offset = 0
    for field in schema.fields:
        if type(field.offset) is not int or type(field.size) is not int:
            raise ValueError(
                f"field '{field.name}' has offset {field.offset} and size {field.size}, which are "
                f"not whole numbers"
            )
        if field.offset != offset or field.size < 1:
            raise ValueError(
                f"field '{field.name}' has offset {field.offset} and size {field.size}, "
                f"its ids should begin at {offset}"
            )
        offset += field.size
    if not schema.fields:
        raise ValueError("it has no field")
    like = schema.like
    if like is not None and (not isinstance(like, dict) or {*like} != {"dataset", "fingerprint"}):
        raise ValueError(f"like is {like!r}, not a data set and its fingerprint")
    if not set(schema.rows) == set(schema.positives) == set(SPLITS):
        raise ValueError(f"rows and positives must be given for {', '.join(SPLITS)}")


def _to_yaml(schema: Schema) -> str:
    content = {
        "version": schema.version,
        "dataset": schema.dataset,
        "synthetic": schema.synthetic,
        "raw": [asdict(raw) for raw in schema.raw],
        "vocabulary": schema.vocabulary,
        "split": dict(schema.split),
        "rows": dict(schema.rows),
        "positives": dict(schema.positives),
        "num_features": schema.num_features,
        "fields": [
            {
                "name": field.name,
                "size": field.size,
                "offset": field.offset,
                "unknown": field.unknown,
                "threshold": field.threshold,
            }
            for field in schema.fields
        ],
    }
    optional = {"log": schema.log, "like": schema.like}
    content |= {key: dict(value) for key, value in optional.items() if value is not None}
    return yaml.safe_dump(content, sort_keys=False)
