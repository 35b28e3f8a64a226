"""The head of an encoded data set: written, read, and held against ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.schema import DataError, Field, RawFile, Schema, read_schema, write_schema

SCHEMA = Schema(
    dataset="avazu",
    fields=(Field("hour", 3, 0, 2), Field("C1", 5, 3, 2)),
    vocabulary="all",
    split={"rule": "random 8:1:1", "seed": 2021},
    rows={"train": 8, "val": 1, "test": 1},
    positives={"train": 3, "val": 0, "test": 1},
    raw=(RawFile("log.csv", "0" * 64),),
)


def test_a_schema_survives_its_file(tmp_path: Path) -> None:
    write_schema(SCHEMA, tmp_path)
    assert read_schema(tmp_path) == SCHEMA
    assert read_schema(tmp_path).fingerprint == SCHEMA.fingerprint


def test_features_are_the_fields_end_to_end() -> None:
    assert SCHEMA.num_features == 8
    assert [field.unknown for field in SCHEMA.fields] == [2, 7]


def test_the_fingerprint_tells_data_sets_apart() -> None:
    others = [
        replace(SCHEMA, raw=(RawFile("log.csv", "1" * 64),)),
        replace(SCHEMA, vocabulary="train"),
        replace(SCHEMA, synthetic=True),
        replace(SCHEMA, fields=(Field("hour", 3, 0, 2), Field("C1", 6, 3, 2))),
    ]
    assert len({schema.fingerprint for schema in [SCHEMA, *others]}) == 5


def test_ids_up_to_the_unknown_one_are_accepted() -> None:
    SCHEMA.check_ids(np.array([[0, 3], [2, 7]]), "here")
    SCHEMA.check_ids(np.empty((0, 2), dtype=np.int32), "here")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0, 3], [3, 3]], "field 'hour': id 3 is outside its ids 0..2 (here, row 1)"),
        ([[0, 3], [2, 2]], "field 'C1': id 2 is outside its ids 3..7 (here, row 1)"),
        ([[-1, 3]], "field 'hour': id -1"),
        ([[0, 8]], "field 'C1': id 8"),
        ([[0, 3, 3]], "here: rows of width (3,), but the schema has 2 fields"),
    ],
)
def test_an_id_outside_its_field_is_named(ids: list[list[int]], message: str) -> None:
    with pytest.raises(DataError) as raised:
        SCHEMA.check_ids(np.array(ids), "here")
    assert message in str(raised.value)


def test_a_missing_schema_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"schema.yaml does not exist; .*python -m data.prepare"):
        read_schema(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 99", "format version 99, but this program reads 1"),
        ("offset: 3", "offset: 4", "'C1' has offset 4 and size 5, its ids should begin at 3"),
        ("size: 5", "size: 0", "'C1' has offset 3 and size 0"),
        ("size: 5", "size: five", "not a schema"),
        ("size: 5", "size: 5.0", "'C1' has offset 3 and size 5.0, which are not whole numbers"),
        (
            "version: 1",
            "version: 1\nlike: abc",
            "like is 'abc', not a data set and its fingerprint",
        ),
        ("- name: C1", "- label: C1", "KeyError('name')"),
        ("  val: 1\n", "", "must be given for train, val, test"),
        ("vocabulary", "vocab", "not a schema"),
        ("dataset: avazu", "dataset: [", "not a schema"),
        ("dataset: avazu", "\tdataset", "not a schema"),
    ],
)
def test_a_malformed_schema_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_schema(SCHEMA, tmp_path)
    path = tmp_path / "schema.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError) as raised:
        read_schema(tmp_path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"- 1", b"text", b"\xff\xfe\x00"])
def test_a_file_that_is_no_schema_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "schema.yaml").write_bytes(content)
    with pytest.raises(DataError, match="not a schema"):
        read_schema(tmp_path)
