"""A user's own log by YAML: against the official preparation, naive recipes, and bad input."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data import delimited, parquet_log
from data.delimited import read_blocks
from data.encode import Settings
from data.log import Layout
from data.own_log import read_own_log
from data.parquet_log import read_batches
from data.prepare import main, prepare, prepare_log
from data.raw import RAW_FORMATS, raw_format
from data.schema import SPLITS, DataError, Schema, read_schema
from data.split import random_split
from data.transforms import HOUR_PARTS, TIME_FORMATS, field_expression
from data.vocabulary import read_vocabulary
from tests.conftest import ROOT
from tests.raw_logs import LINES, naive_bucket, write_lines

Rows = list[dict[str, str]]
COLUMNS = ("time", "user", "price", "clicked")
START = datetime(2024, 5, 31, 22, tzinfo=UTC)


def small_log(rows: int = 300) -> Rows:
    """Rows a quarter of an hour apart, of few values each; every third is clicked."""
    return [
        {
            "time": str(int((START + timedelta(minutes=15 * row)).timestamp())),
            "user": f"u{row * row % 23}",
            "price": "" if row % 7 == 0 else str(row * 13 % 50),
            "clicked": str(int(row % 3 == 0)),
        }
        for row in range(rows)
    ]


def as_csv(rows: Rows, **style: Any) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator=style.pop("end", "\n"), **style)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def describe(folder: Path, **content: Any) -> Path:
    """A description of `log.csv` in which `content` overrides or, where it is None, is left out."""
    whole = {"files": "log.csv", "label": "clicked", "fields": {"time": "drop"}} | content
    path = folder / "log.yaml"
    kept = {key: value for key, value in whole.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def prepare_own(
    folder: Path, output: str = "set", *, vocabulary: str = "all", **content: Any
) -> Schema:
    log = read_own_log(describe(folder, **content), "mine")
    return prepare_log(log, folder / output, Settings(vocabulary=vocabulary))


def decoded(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Split -> label and values of each row; None for an unknown value."""
    schema = read_schema(folder)
    known = read_vocabulary(folder, schema.fields)
    texts = {
        field.offset + number: text
        for field in schema.fields
        for number, text in enumerate(known[field.name])
    }
    return {
        split: [
            (label, *(texts.get(number) for number in ids))
            for path in sorted(folder.glob(f"{split}-*.parquet"))
            for label, *ids in pd.read_parquet(path).itertuples(index=False)
        ]
        for split in SPLITS
    }


def content(folder: Path) -> dict[str, bytes]:
    """The files of an encoded data set beside its schema."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "schema.yaml"}


# ------------------------------------------------- the official logs, described


def official_description(dataset: str) -> dict[str, Any]:
    official = raw_format(dataset)
    fields: dict[str, Any] = {name: {} for name in official.fields}
    described: dict[str, Any] = {"label": "click", "other_columns": "drop", "fields": fields}
    if dataset == "avazu":
        for name in ("hour", "weekday", "is_weekend"):
            fields[name] = {"column": "hour", "transform": name, "time": "yymmddhh"}
        described["format"] = "csv"
    else:
        described |= {"format": "tsv", "columns": list(official.columns)}
    if dataset == "criteo":
        described["label"] = "label"
        fields |= {f"I{number}": {"transform": "log2"} for number in range(1, 14)}
    if dataset == "kdd12":
        described["label"] = {"column": "click", "greater_than": 0}
        for name, column in zip(fields, official.columns[1:], strict=True):
            fields[name]["column"] = column
    for name, threshold in official.thresholds.items():
        fields[name]["threshold"] = threshold
    return described


@pytest.mark.parametrize("vocabulary", ["all", "train"])
@pytest.mark.parametrize("dataset", RAW_FORMATS)
def test_an_official_log_described_gives_the_official_data_set(
    tmp_path: Path, dataset: str, vocabulary: str
) -> None:
    log = write_lines(tmp_path / "log.gz", LINES[dataset](2000))
    official = prepare(dataset, log, tmp_path / "official", Settings(vocabulary=vocabulary))
    own = prepare_own(
        tmp_path, vocabulary=vocabulary, files="log.gz", **official_description(dataset)
    )
    assert own.fields == official.fields
    assert own.split == official.split
    assert (own.rows, own.positives) == (official.rows, official.positives)
    assert content(tmp_path / "set") == content(tmp_path / "official")


# ---------------------------------------------------------------------- layouts


def write_parquet(path: Path, rows: Rows) -> None:
    """Typed columns in row groups of 70, as pandas would write them: a missing price is null."""
    frame = pd.DataFrame(rows)
    frame["clicked"] = frame["clicked"] == "1"
    frame["time"] = frame["time"].astype(int)
    frame["user"] = frame["user"].astype("category")
    frame["price"] = frame["price"].replace("", None).astype("Int64")
    frame.to_parquet(path, row_group_size=70)


LAYOUTS: Mapping[str, tuple[Callable[[Rows], bytes], dict[str, Any]]] = {
    "log.csv": (as_csv, {}),
    "log.csv.gz": (lambda rows: gzip.compress(as_csv(rows)), {}),
    "quoted.csv": (partial(as_csv, quoting=csv.QUOTE_ALL), {}),
    "windows.csv": (partial(as_csv, end="\r\n", quoting=csv.QUOTE_ALL), {}),
    "mark.csv": (lambda rows: b"\xef\xbb\xbf" + as_csv(rows), {}),
    "unterminated.csv": (lambda rows: as_csv(rows)[:-1], {}),
    "semicolon.txt": (partial(as_csv, delimiter=";"), {"format": "csv", "separator": ";"}),
    "log.tsv": (partial(as_csv, delimiter="\t"), {}),
    "blanks.csv": (lambda rows: as_csv(rows) + b"\n\r\n" * 90, {}),
    "bare.csv": (
        lambda rows: as_csv(rows).partition(b"\n")[2],
        {"columns": list(COLUMNS)},
    ),
}


@pytest.mark.parametrize("block_bytes", [60, 1000, 1 << 20])
@pytest.mark.parametrize("name", LAYOUTS)
def test_how_a_log_is_laid_out_changes_nothing(
    tmp_path: Path, name: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.csv").write_bytes(as_csv(small_log()))
    prepare_own(tmp_path, "expected", fields={"price": "log2"})
    write, described = LAYOUTS[name]
    (tmp_path / name).write_bytes(write(small_log()))
    monkeypatch.setattr(delimited, "read_blocks", partial(read_blocks, block_bytes=block_bytes))
    prepare_own(tmp_path, files=name, fields={"price": "log2"}, **described)
    assert content(tmp_path / "set") == content(tmp_path / "expected")


def test_a_carriage_return_is_no_end_of_a_line(tmp_path: Path) -> None:
    rows = as_csv(small_log())
    (tmp_path / "log.csv").write_bytes(rows.replace(b"user", b'"us\rer"', 1))
    assert sum(prepare_own(tmp_path).rows.values()) == 300
    for end in (rows.replace(b"\n", b"\r", 1), rows.replace(b"\n", b"\r")):
        (tmp_path / "log.csv").write_bytes(end)
        with pytest.raises(DataError, match=r"log.csv, line 1: .*repair the line"):
            prepare_own(tmp_path)


def test_parquet_gives_the_same_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.csv").write_bytes(as_csv(small_log()))
    prepare_own(tmp_path, "expected", fields={"price": "log2"})
    write_parquet(tmp_path / "log.parquet", small_log())
    monkeypatch.setattr(parquet_log, "read_batches", partial(read_batches, batch_rows=33))
    prepare_own(tmp_path, files="log.parquet", fields={"price": "log2"})
    assert content(tmp_path / "set") == content(tmp_path / "expected")


def test_a_whole_number_is_one_value_whatever_the_type_of_its_column(tmp_path: Path) -> None:
    clicked = [row % 2 for row in range(40)]
    for day, numbers in enumerate([pa.array([1, 2] * 20), pa.array([1.0, None] * 20)]):
        pq.write_table(pa.table({"clicked": clicked, "ad": numbers}), tmp_path / f"{day}.parquet")
    schema = prepare_own(tmp_path, files="?.parquet", fields={"ad": "none"})
    assert set(read_vocabulary(tmp_path / "set", schema.fields)["ad"]) == {"", "1", "2"}


def test_parquet_columns_of_every_plain_type_become_texts(tmp_path: Path) -> None:
    rows = 40
    table = pa.table(
        {
            "clicked": pa.array([row % 2 for row in range(rows)], pa.int8()),
            "float": pa.array([1.0, None, math.nan, 2.5] * 10),
            "large": pa.array([-3.0, 2.0**53, math.inf, -0.0] * 10),
            "half": pa.array(np.array([2.0, 2.25, -1.5, 0.1] * 10, np.float16)),
            "truth": pa.array([True, False, None, True] * 10),
            "day": pa.array([datetime(2024, 2, 29).date(), None] * 20),
            "price": pa.array([*map(str, range(4))] * 10).cast(pa.decimal128(5, 2)),
            "nothing": pa.nulls(rows),
            "stamp": pa.array([START] * rows, pa.timestamp("ms", "Asia/Tokyo")),
            "offset": pa.array([START] * rows, pa.timestamp("ms", "-05:30")),
            "__index_level_0__": range(rows),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    fields = {"hour": {"column": "stamp", "transform": "hour"}}
    schema = prepare_own(tmp_path, files="log.parquet", fields=fields)
    values = read_vocabulary(tmp_path / "set", schema.fields)
    assert {name: set(texts) for name, texts in values.items()} == {
        "hour": {"7"},  # in Tokyo
        "float": {"", "1", "2.5"},
        "large": {"-3", "9007199254740992.0", "inf", "0"},
        "half": {"2", "2.25", "-1.5", "0.099975586"},
        "truth": {"", "true", "false"},
        "day": {"", "2024-02-29"},
        "price": {"0.00", "1.00", "2.00", "3.00"},
        "nothing": {""},
        "offset": {"2024-05-31 16:30:00.000-0530"},
    }


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        (pa.array([["a"], []] * 20), "list<"),
        (pa.array([b"\xff" * 16] * 40, pa.binary(16)), "fixed_size_binary"),
        (pa.array([b"\xff" * 16] * 40, pa.uuid()), "extension<arrow.uuid>"),
        (pa.array([b"\xff"] * 40).dictionary_encode(), "binary"),
        (pa.array([timedelta(1)] * 40), "duration"),
        (pa.array([0] * 40, pa.timestamp("s", "Europe/Nowhere")), "timestamp.*zone is unknown"),
    ],
)
def test_a_parquet_column_without_a_text_can_only_be_dropped(
    tmp_path: Path, tags: pa.Array, kind: str
) -> None:
    table = pa.table({"clicked": [0, 1] * 20, "user": [1, 2] * 20, "tags": tags})
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataError, match=rf"log.parquet: column 'tags' is of type {kind}"):
        prepare_own(tmp_path, files="log.parquet", fields=None)
    prepare_own(tmp_path, files="log.parquet", fields={"tags": "drop"})


@settings(max_examples=150, deadline=None)
@given(
    table=st.integers(2, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.text(st.sampled_from('ab,;"\n é')), min_size=width, max_size=width),
            min_size=1,
            max_size=20,
        )
    ),
    block_bytes=st.integers(1, 80),
)
def test_quoted_values_are_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], block_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("quoted") / "log.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    names = [str(number) for number in range(len(table[0]))]
    layout = Layout("csv", columns=tuple(names)).of(path)
    found: list[list[str]] = []
    for block in read_blocks(path, layout, block_bytes):
        columns = delimited.parse(block, names, names)
        found += map(list, zip(*(columns[name].to_pylist() for name in names), strict=True))
    assert found == table


def test_without_quotes_they_belong_to_the_value(tmp_path: Path) -> None:
    rows = small_log()
    for number, value in enumerate(['5" screen', '"', 'a"b"', '"x']):
        rows[number]["user"] = value
    lines = ["\t".join(row.values()) for row in rows]
    (tmp_path / "log.tsv").write_text("\n".join(["\t".join(COLUMNS), *lines, ""]))
    schema = prepare_own(tmp_path, files="log.tsv", threshold=1)
    values = set(read_vocabulary(tmp_path / "set", schema.fields)["user"])
    assert {'5" screen', '"', 'a"b"', '"x'} <= values


def test_several_files_are_one_log_in_order(tmp_path: Path) -> None:
    rows = small_log()
    (tmp_path / "log.csv").write_bytes(as_csv(rows))
    prepare_own(tmp_path, "expected")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/b.csv").write_bytes(as_csv(rows[100:150]))
    (tmp_path / "parts/a.csv.gz").write_bytes(gzip.compress(as_csv(rows[:100])))
    # Another order of the columns, and one more.
    frame = pd.DataFrame(rows[150:])[[*COLUMNS[::-1]]]
    frame.assign(more=1).to_csv(tmp_path / "last.csv", index=False)
    schema = prepare_own(tmp_path, files=["parts/*.csv*", "last.csv"])
    assert [file.name for file in schema.raw] == ["a.csv.gz", "b.csv", "last.csv"]
    assert content(tmp_path / "set") == content(tmp_path / "expected")


def test_a_pattern_is_looked_up_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "logs [1]*"
    folder.mkdir()
    (folder / "log.csv").write_bytes(as_csv(small_log()))
    assert prepare_own(folder, files="*.csv").rows["train"] == 240


# --------------------------------------------------- fields, labels, thresholds


def test_fields_are_those_asked_for_then_the_other_columns(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(as_csv(small_log()))
    fields = {
        "weekday": {"column": "time", "transform": "weekday", "time": "unix"},
        "is_weekend": {"column": "time", "transform": "is_weekend", "time": "unix"},
        "hour": {"column": "time", "transform": "hour", "time": "unix", "threshold": 2},
        "bucket": {"column": "price", "transform": "log2"},
        "user": {"threshold": 20},
    }
    names = {
        "keep": ["weekday", "is_weekend", "hour", "bucket", "user"],
        "drop": ["weekday", "is_weekend", "hour", "bucket", "user"],
    }
    for other, expected in names.items():
        schema = prepare_own(tmp_path, other, fields=fields, other_columns=other)
        assert list(schema.field_names) == expected
    thresholds = {field.name: field.threshold for field in schema.fields}
    assert thresholds == {"weekday": 1, "is_weekend": 1, "hour": 2, "bucket": 1, "user": 20}
    rows = small_log()
    users = Counter(row["user"] for row in rows)
    expected_rows = []
    for row in rows:
        time = datetime.fromtimestamp(int(row["time"]), UTC)
        day = time.strftime("%w")
        user = row["user"] if users[row["user"]] >= 20 else None
        values = (day, str(int(day in "06")), str(time.hour), naive_bucket(row["price"]), user)
        expected_rows.append((int(row["clicked"]), *values))
    found = decoded(tmp_path / "keep")
    for split, numbers in random_split(len(rows)).items():
        assert found[split] == [expected_rows[number] for number in numbers]
    assert None in {row[-1] for row in found["train"]}


def test_columns_that_nothing_names_are_kept_or_dropped(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(as_csv(small_log()))
    assert prepare_own(tmp_path, fields=None).field_names == ("time", "user", "price")
    by_time = {"rule": "time", "column": "time", "time": "unix"}
    assert prepare_own(tmp_path, fields=None, split=by_time).field_names == ("user", "price")
    dropped = prepare_own(tmp_path, fields={"price": None}, other_columns="drop")
    assert dropped.field_names == ("price",)


def test_a_field_may_be_called_as_a_column_that_is_used_or_dropped(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(as_csv(small_log()))
    hour = {"column": "time", "transform": "hour", "time": "unix"}
    kept, dropped = {"column": "price"}, {"column": "price", "transform": "drop"}
    for number, more in enumerate(({"its_price": kept}, {"its_price": dropped})):
        schema = prepare_own(tmp_path, str(number), fields={"price": hour, **more})
        values = read_vocabulary(tmp_path / str(number), schema.fields)
        assert set(values["price"]) == {str(hour) for hour in range(24)}
    schema = prepare_own(tmp_path, "dropped", fields={"price": hour}, other_columns="drop")
    assert schema.field_names == ("price",)


@pytest.mark.parametrize(
    ("label", "texts", "expected"),
    [
        ("clicked", ["0", "1", "0.0", "1.0", "True", "false"], [0, 1, 0, 1, 1, 0]),
        ({"column": "clicked", "equals": "buy"}, ["buy", "view", "", "Buy"], [1, 0, 0, 0]),
        ({"column": "clicked", "equals": ["buy", 7]}, ["buy", "7", "07"], [1, 1, 0]),
        ({"column": "clicked", "greater_than": 0}, ["0", "3", "-1", "0.5"], [0, 1, 0, 1]),
        ({"column": "clicked", "greater_than": 3.5}, ["3.5", "4", "1e2"], [0, 1, 1]),
    ],
)
def test_a_label_becomes_0_or_1(
    tmp_path: Path, label: object, texts: list[str], expected: list[int]
) -> None:
    rows = small_log()
    for number, row in enumerate(rows):
        row["clicked"] = texts[number % len(texts)]
    (tmp_path / "log.csv").write_bytes(as_csv(rows))
    prepare_own(tmp_path, label=label)
    found = decoded(tmp_path / "set")
    for split, numbers in random_split(len(rows)).items():
        labels = [row[0] for row in found[split]]
        assert labels == [expected[number % len(texts)] for number in numbers]


@pytest.mark.parametrize("written", ["010", "1.10", "1_000", "0x1F", "+7", "12:30", "[7, 010]"])
def test_a_text_that_yaml_would_write_otherwise_is_refused(tmp_path: Path, written: str) -> None:
    (tmp_path / "log.csv").write_bytes(as_csv(small_log()))
    path = tmp_path / "log.yaml"
    head = "files: log.csv\nfields: {time: drop}\n"
    path.write_text(f"{head}label: {{column: clicked, equals: {written}}}\n")
    with pytest.raises(DataError, match=r"log.yaml, line 3: YAML reads .* as .*; put it in quotes"):
        read_own_log(path, "mine")
    path.write_text(f"{head}label: {{column: clicked, equals: '{written}'}}\n")
    read_own_log(path, "mine")
    path.write_text(f"{head}label: {{column: clicked, greater_than: 1_000}}\n")
    read_own_log(path, "mine")


def test_log2_is_the_official_rule_also_for_fractions() -> None:
    texts = ["", "-3", "-0.5", "0", "2", "2.0", "2.5", "3", "1000", "1e3", "999.999", "-2.9"]
    log2 = pl.DataFrame({"price": texts}).select(_field("price", "log2"))["price"].to_list()
    values = [float(text) if text else None for text in texts]
    assert log2 == [
        "" if value is None else str(math.floor(math.log(value) ** 2) if value > 2 else int(value))
        for value in values
    ]


def test_log2_of_a_sentinel_is_not_that_of_a_missing_value() -> None:
    texts = ["-1e30", "-3.4028235e38", "1e308"]
    log2 = pl.DataFrame({"price": texts}).select(_field("price", "log2"))["price"].to_list()
    assert log2 == [str(-(2**63)), str(-(2**63)), str(math.floor(math.log(1e308) ** 2))]


def _field(column: str, transform: str, time: str = "iso") -> pl.Expr:
    return field_expression(column, transform, time)[0]


@pytest.mark.parametrize(
    ("time", "text", "expected"),
    [
        ("iso", "2024-06-01T23:59:58", "2024-06-01T23:59:58"),
        ("iso", "2024-06-01 23:59", "2024-06-01T23:59:00"),
        ("iso", "2024-06-01", "2024-06-01T00:00:00"),
        ("iso", "2024-06-01T23:59:58.25Z", "2024-06-01T23:59:58.25"),
        ("iso", "2024-06-01T23:59:58+02:00", "2024-06-01T21:59:58"),
        ("iso", "2024-06-01 23:59:58-0330", "2024-06-02T03:29:58"),
        ("iso", "2024-06-01 23:59:58.5-03", "2024-06-02T02:59:58.5"),
        ("iso", "31-05-24", None),
        ("iso", "24-05-31 10:00", None),
        ("iso", " 2024-06-01", None),
        ("iso", "2024-02-30", None),
        ("iso", "2024-06-01T24:00:00", None),
        ("iso", "1717286398", None),
        ("iso", "", None),
        ("unix", "1717286398", "2024-06-01T23:59:58"),
        ("unix", "1717286398.5", "2024-06-01T23:59:58.5"),
        ("unix", "1717286398000", None),
        ("unix", "-1", None),
        ("unix", "nan", None),
        ("unix_ms", "1717286398250", "2024-06-01T23:59:58.25"),
        ("unix_ms", "1717286398", None),
        ("yymmddhh", "24060123", "2024-06-01T23:00:00"),
        ("yymmddhh", "240601", None),
        ("yymmddhh", "24060124", None),
    ],
)
def test_times_of_every_format(time: str, text: str, expected: str | None) -> None:
    frame = pl.DataFrame({"time": [text]})
    instant = frame.select(TIME_FORMATS[time].instant(pl.col("time"))).item()
    if expected is None:
        assert instant is None
        return
    moment = datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert instant == round(moment.timestamp() * 1e6)
    # Parts of the hour are those of the time as it is written.
    hour = frame.select(_field("time", "hour", time)).item()
    assert hour == "23" or "2024-06-01" in (text, expected[:10])


def test_hours_are_those_written_whatever_the_offset() -> None:
    texts = ["2024-06-01T23:59:58+02:00", "2024-06-01 03:00", "2024-06-02", ""]
    frame = pl.DataFrame({"time": texts})
    parts = {part: frame.select(_field("time", part))["time"].to_list() for part in HOUR_PARTS}
    assert parts["hour"] == ["23", "3", "0", ""]
    assert parts["weekday"] == ["6", "6", "0", ""]
    assert parts["is_weekend"] == ["1", "1", "1", ""]


# ----------------------------------------------------------------------- splits


def numbered(rows: int = 400) -> Rows:
    """Rows whose user is their number, every fourth clicked, in an order of times of its own."""
    found = small_log(rows)
    for number, row in enumerate(found):
        row["user"] = str(number)
        row["time"] = str(1_700_000_000 + number * 7919 % 101)
        row["clicked"] = str(int(number % 4 == 0))
    return found


def numbers_of(folder: Path) -> dict[str, list[int]]:
    """Split -> the numbers of its rows, of a log of `numbered` rows with user as last field."""
    return {split: [int(row[-1]) for row in rows] for split, rows in decoded(folder).items()}


ONLY_USER: dict[str, Any] = {
    "fields": {"user": {"threshold": 1}},
    "other_columns": "drop",
}


@pytest.mark.parametrize("seed", [2021, 5])
def test_a_stratified_split_has_the_same_share_of_clicks_everywhere(
    tmp_path: Path, seed: int
) -> None:
    (tmp_path / "log.csv").write_bytes(as_csv(numbered()))
    split = {"rule": "stratified", "seed": seed, "shares": [0.5, 0.25, 0.25]}
    schema = prepare_own(tmp_path, split=split, **ONLY_USER)
    assert schema.rows == {"train": 200, "val": 100, "test": 100}
    assert schema.positives == {"train": 50, "val": 25, "test": 25}
    assert schema.split == {"rule": "stratified 0.5:0.25:0.25", "seed": seed}
    found = numbers_of(tmp_path / "set")
    assert sorted(chain(*found.values())) == list(range(400))
    assert found["val"] == sorted(found["val"])
    assert found["train"] != sorted(found["train"])
    again = prepare_own(tmp_path, "again", split=split | {"seed": seed + 1}, **ONLY_USER)
    assert again.rows == schema.rows
    assert numbers_of(tmp_path / "again")["val"] != found["val"]


@pytest.mark.parametrize("shares", [[8, 1, 1], [0.5, 0.3, 0.2]])
def test_a_split_by_time_trains_on_the_oldest_rows(tmp_path: Path, shares: list[float]) -> None:
    rows = numbered()
    (tmp_path / "log.csv").write_bytes(as_csv(rows))
    split = {"rule": "time", "column": "time", "time": "unix", "shares": shares}
    prepare_own(tmp_path, split=split, **ONLY_USER)
    oldest_first = sorted(range(400), key=lambda number: (int(rows[number]["time"]), number))
    first = round(400 * shares[0] / sum(shares))
    second = round(400 * (shares[0] + shares[1]) / sum(shares))
    found = numbers_of(tmp_path / "set")
    assert sorted(found["train"]) == sorted(oldest_first[:first])
    assert found["train"] != sorted(found["train"])
    assert found["val"] == sorted(oldest_first[first:second])
    assert found["test"] == sorted(oldest_first[second:])


def test_a_split_by_time_compares_parquet_times_of_several_zones(tmp_path: Path) -> None:
    """Two files, of which one is later though its clocks show less; and an hour that is twice."""
    start = datetime(2024, 10, 26, 23, tzinfo=UTC)  # in Berlin 2:00 comes at 24:00 and 1:00 UTC
    for name, zone, first in (("a", "Europe/Berlin", 0), ("b", "America/New_York", 200)):
        numbers = range(first, first + 200)
        times = [start + timedelta(minutes=number) for number in numbers]
        columns = {
            "time": pa.array(times, pa.timestamp("us", zone)),
            "user": [str(number) for number in numbers],
            "clicked": [number % 2 for number in numbers],
        }
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    split = {"rule": "time", "column": "time", "shares": [2, 3, 5]}
    prepare_own(tmp_path, files=["a.parquet", "b.parquet"], split=split, **ONLY_USER)
    found = numbers_of(tmp_path / "set")
    assert sorted(found["train"]) == list(range(80))
    assert (found["val"], found["test"]) == (list(range(80, 200)), list(range(200, 400)))


def test_a_split_by_files_takes_each_file_as_it_is_told(tmp_path: Path) -> None:
    rows = numbered()
    for name, part in {
        "d1": (0, 150),
        "d2": (150, 300),
        "d3": (300, 340),
        "d4": (340, 400),
    }.items():
        (tmp_path / f"{name}.csv").write_bytes(as_csv(rows[slice(*part)]))
    split = {"rule": "files", "train": ["d1.csv", "d4.csv"], "val": "d[3].csv", "test": "d2.csv"}
    schema = prepare_own(tmp_path, files=None, split=split, **ONLY_USER)
    found = numbers_of(tmp_path / "set")
    assert sorted(found["train"]) == [*range(150), *range(340, 400)]
    assert found["val"] == list(range(300, 340))
    assert found["test"] == list(range(150, 300))
    assert schema.split["train"] == ["d1.csv", "d4.csv"]
    assert [file.name for file in schema.raw] == ["d1.csv", "d4.csv", "d3.csv", "d2.csv"]


@pytest.mark.parametrize("rule", ["random", "stratified", "time", "files"])
def test_a_vocabulary_of_the_training_rows_holds_for_every_split(tmp_path: Path, rule: str) -> None:
    rows = small_log()
    split: dict[str, Any] = {"rule": rule}
    if rule == "time":
        split |= {"column": "time", "time": "unix"}
    if rule == "files":
        for part, span in {"train": (0, 200), "val": (200, 250), "test": (250, 300)}.items():
            (tmp_path / f"{part}.csv").write_bytes(as_csv(rows[slice(*span)]))
            split[part] = f"{part}.csv"
    (tmp_path / "log.csv").write_bytes(as_csv(rows))
    chosen: dict[str, Any] = {
        "fields": {"time": "drop"},
        "split": split,
        "files": None if rule == "files" else "log.csv",
    }
    schema = prepare_own(tmp_path, vocabulary="train", **chosen)
    everything = prepare_own(tmp_path, "all", threshold=1, **chosen)
    assert everything.rows == schema.rows
    trained = Counter(row[1] for row in decoded(tmp_path / "all")["train"])
    table = pd.read_parquet(tmp_path / "set/vocabulary.parquet").query("field == 'user'")
    assert dict(zip(table["value"][:-1], table["count"][:-1], strict=True)) == {
        value: count for value, count in trained.items() if count >= 2
    }


# -------------------------------------------------------- a description that is wrong


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"lable": "clicked"}, "log.yaml: unknown key 'lable'; did you mean 'label'?"),
        ({"label": None}, "log.yaml: label: missing: which column says what was clicked? (time, "),
        ({"files": None}, "log.yaml: `files` is missing"),
        ({"files": "lgo*.csv"}, "log.yaml: files: no file 'lgo*.csv' in "),
        ({"files": []}, "log.yaml: files: an empty list"),
        ({"files": "log**.csv"}, "files: 'log**.csv' is neither a file nor a pattern, as clicks*"),
        ({"files": "/"}, "log.yaml: files: '/' is neither a file nor a pattern"),
        ({"files": ["log.csv", "l*.csv"]}, "log.csv is named twice"),
        ({"format": "cvs"}, "log.yaml: format: unknown value 'cvs'; did you mean 'csv'?"),
        ({"separator": "||"}, "log.yaml: separator: '||' is not one character"),
        ({"separator": "\0"}, "log.yaml: separator: '\\x00' is not one character"),
        ({"quotes": "no"}, "log.yaml: quotes: 'no' is neither true nor false"),
        ({"columns": ["a", "a", "b"]}, "log.csv: column 2 is a second 'a'"),
        ({"columns": [True]}, "log.yaml: columns: YAML reads yes, no, on, off"),
        ({"label": "click"}, "label: column: unknown column 'click'; did you mean 'clicked'?"),
        ({"label": {"column": "clicked", "equal": 1}}, "label: unknown key 'equal'; did you mean"),
        ({"label": {"column": "clicked", "equals": True}}, "label: equals: YAML reads yes, no"),
        ({"label": {"column": "clicked", "greater_than": "a"}}, "greater_than: 'a' is not a num"),
        (
            {"label": {"column": "clicked", "greater_than": 1, "equals": 1}},
            "`equals` and `greater_than` exclude each other",
        ),
        ({"label": {"equals": 1}}, "log.yaml: label: `column` is missing"),
        ({"fields": ["user"]}, "log.yaml: fields: ['user'] is not a mapping"),
        ({"fields": {"usr": "none"}}, "fields: usr: column: unknown column 'usr'; did you mean 'u"),
        ({"fields": {"price": "log"}}, "fields: price: transform: unknown value 'log'; did you me"),
        ({"fields": {"price": ["log2"]}}, "price: transform: unknown value '['log2']'"),
        ({"fields": {"x": {"colunm": "user"}}}, "fields: x: unknown key 'colunm'; did you mean"),
        (
            {"fields": {"x": {"column": "time", "transform": "hour", "time": "isso"}}},
            "fields: x: time: unknown value 'isso'; did you mean 'iso'?",
        ),
        (
            {"fields": {"price": {"transform": "log2", "time": "iso"}}},
            "time: only goes with",
        ),
        ({"fields": {"user": {"threshold": 0}}}, "user: threshold: 0 is not a whole number of at"),
        ({"fields": {"label": {"column": "user"}}}, "a field cannot be called 'label'"),
        (
            {"fields": {"price": {"column": "time", "transform": "hour", "time": "unix"}}},
            "fields: price: it is made of the column 'time', and there is a column 'price' too; ",
        ),
        ({"fields": {"clicked": "none"}}, "fields: clicked: 'clicked' is the label's column"),
        ({"fields": {"x": {"column": "clicked"}}}, "fields: x: 'clicked' is the label's column"),
        ({"fields": {}, "label": "user", "columns": ["user"]}, "no column is left to be a field"),
        ({"threshold": "2"}, "log.yaml: threshold: '2' is not a whole number"),
        ({"threshold": True}, "log.yaml: threshold: True is not a whole number"),
        ({"other_columns": "dorp"}, "other_columns: unknown value 'dorp'; did you mean 'drop'?"),
        ({"split": "ramdom"}, "log.yaml: split: rule: unknown value 'ramdom'; did you mean 'rand"),
        ({"split": {"seed": 1}}, "log.yaml: split: `rule` is missing"),
        ({"split": {"rule": "random", "seed": -1}}, "split: seed: -1 is not a whole number"),
        ({"split": {"rule": "random", "seed": 2**32}}, "seed: 4294967296 is above the largest see"),
        ({"split": {"rule": "random", "column": "x"}}, "split: unknown key 'column'"),
        ({"split": {"rule": "random", "shares": [8, 2]}}, "shares: [8, 2] is not three numbers"),
        ({"split": {"rule": "random", "shares": [8, 2, 0]}}, "shares: [8, 2, 0] is not three"),
        ({"split": {"rule": "random", "shares": 8}}, "shares: 8 is not three numbers"),
        ({"split": "time"}, "log.yaml: split: `column` is missing"),
        (
            {"split": {"rule": "time", "column": "tme"}},
            "split: column: unknown column 'tme'; did you mean 'time'?",
        ),
        ({"split": {"rule": "files", "train": "log.csv"}}, "split: `val` is missing"),
        (
            {"split": {"rule": "files", "train": "log.csv", "val": "log.csv", "test": "log.csv"}},
            "`files:` and a split by files exclude each other",
        ),
    ],
)
def test_a_wrong_description_is_named_by_its_place(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    (tmp_path / "log.csv").write_bytes(as_csv(small_log(20)))
    with pytest.raises(DataError) as raised:
        prepare_own(tmp_path, **changes)
    assert complaint in str(raised.value)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "log.yaml: None is not a mapping"),
        ("- files", "log.yaml: ['files'] is not a mapping"),
        ("files: [", "log.yaml: not YAML ("),
        ("label: {equals: 2024-02-30}", "(day is out of range for month); put it in q"),
        ("files: a.csv\nlabel: x\nfiles: b.csv", "log.yaml, line 3: 'files' is there twice"),
        ("fields: {a: drop, a: log2}", "log.yaml, line 1: 'a' is there twice"),
        ("files: log.csv\nlabel: clicked\nfields: {no: drop}", "YAML reads yes, no, on, off"),
        ("a: !!python/name:os.system", "log.yaml: not YAML (could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_description_is_refused(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "log.csv").write_bytes(as_csv(small_log(20)))
    (tmp_path / "log.yaml").write_text(text)
    with pytest.raises(DataError) as raised:
        read_own_log(tmp_path / "log.yaml", "mine")
    assert complaint in str(raised.value)


def test_a_missing_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.yaml: unreadable .*--log names"):
        read_own_log(tmp_path / "nowhere.yaml", "mine")


# ------------------------------------------------------------------ a log that is wrong


def with_line(number: int, line: bytes) -> Callable[[], bytes]:
    """A log whose line `number`, from 1, is another."""

    def spoilt() -> bytes:
        lines = as_csv(small_log()).split(b"\n")
        lines[number - 1] = line
        return b"\n".join(lines)

    return spoilt


@pytest.mark.parametrize("block_bytes", [200, 1 << 20])
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (with_line(9, b"1,u,3"), "log.csv, line 9: 3 columns, expected 4 ('1,u,3')"),
        (with_line(9, b"1,u,3,1,"), "log.csv, line 9: 5 columns, expected 4"),
        (with_line(9, b"\n\r\n1,u,3"), "log.csv, line 11: 3 columns, expected 4 ('1,u,3')"),
        (with_line(9, b"\n\n1,u,3,2"), "log.csv, line 11: clicked is '2', expected 0 or 1"),
        (with_line(9, b" "), "log.csv, line 9: 1 columns, expected 4 (' ')"),
        (with_line(9, b'1,"u\n",3,0,9'), "log.csv, line 9: 5 columns, expected 4"),
        (with_line(9, b'1,"u\n\n",3,2'), "log.csv, line 9: clicked is '2', expected 0 or 1"),
        (with_line(9, b'1,"u\n",3,0\n1,u,3,2'), "line 11: clicked is '2', expected 0 or 1"),
        (with_line(301, b"1,u,3,"), "log.csv, line 301: clicked is '', expected 0 or 1"),
        (with_line(7, b"1,u,cheap,0"), "line 7: price is 'cheap', expected a number or nothing"),
        (with_line(7, b"1,u,inf,0"), "line 7: price is 'inf', expected a number or nothing"),
        (with_line(7, b"now,u,3,0"), "line 7: time is 'now', expected seconds since 1970"),
        (with_line(7, b",u,3,0"), "line 7: time is '', expected seconds since 1970"),
        (with_line(7, b"1,\xff,3,0"), "log.csv, line 7: not UTF-8"),
        (with_line(1, b"time,us\xe9r,price,clicked"), "log.csv, line 1: not UTF-8"),
        (lambda: as_csv(small_log()).decode().encode("utf-16"), "log.csv, line 1: not UTF-8"),
        (with_line(7, b"1," + b"u" * 140_000 + b",3,0\n1,u,3,2"), "line 8: clicked is '2', expe"),
        (with_line(7, b'1,"u,3,0'), "log.csv, line 7: a quote that is never closed ('1,\"u,3,0')"),
        (with_line(1, b"time,user,price,click"), "label: column: unknown column 'clicked'; did"),
        (with_line(1, b"time,user,,clicked"), "log.csv: column 3 has no name"),
        (with_line(1, b"time;user;price;clicked"), "unknown column 'clicked'; known: time;user;p"),
        (lambda: b"", "log.csv is empty"),
        (lambda: b"time,user,price,clicked\n", "log.csv has no rows"),
    ],
)
def test_a_bad_row_is_named_by_file_line_column_and_value(
    tmp_path: Path,
    spoil: Callable[[], bytes],
    complaint: str,
    block_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delimited, "read_blocks", partial(read_blocks, block_bytes=block_bytes))
    (tmp_path / "log.csv").write_bytes(spoil())
    by_time = {"rule": "time", "column": "time", "time": "unix"}
    with pytest.raises(DataError) as raised:
        prepare_own(tmp_path, fields={"price": "log2"}, split=by_time)
    assert complaint in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "log.yaml"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"clicked": "2"}, "log.parquet, row group 2, row 5: clicked is '2', expected 0 or 1"),
        ({"clicked": None}, "log.parquet, row group 2, row 5: clicked is '', expected 0 or 1"),
        ({"price": "cheap"}, "row group 2, row 5: price is 'cheap', expected a number or nothing"),
    ],
)
def test_a_bad_parquet_row_is_named_by_row_group(
    tmp_path: Path,
    changes: dict[str, str | None],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parquet_log, "read_batches", partial(read_batches, batch_rows=3))
    frame = pd.DataFrame(small_log())
    for column, value in changes.items():
        frame.loc[145, column] = value
    frame.to_parquet(tmp_path / "log.parquet", row_group_size=70)
    with pytest.raises(DataError) as raised:
        prepare_own(tmp_path, files="log.parquet", fields={"price": "log2"})
    assert complaint in str(raised.value)


def test_a_damaged_parquet_file_is_named_by_row_group(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    table = pa.Table.from_pylist(small_log())
    pq.write_table(table, path, row_group_size=100, write_page_checksum=True)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"log.parquet, row group 1: unreadable"):
        prepare_own(tmp_path, files="log.parquet")
    path.write_bytes(damaged[:-9])
    with pytest.raises(DataError, match=r"log.parquet: unreadable Parquet file"):
        prepare_own(tmp_path, files="log.parquet")


def test_parquet_text_that_is_not_utf8_is_named_by_row_group(tmp_path: Path) -> None:
    users = pa.array([b"u"] * 30 + [b"\xff"] * 10).view(pa.string())
    table = pa.table({"clicked": [0, 1] * 20, "user": users})
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=20)
    with pytest.raises(DataError, match=r"log.parquet, row group 1: column 'user': not UTF-8 "):
        prepare_own(tmp_path, files="log.parquet", fields=None)


def test_a_parquet_file_names_its_columns_itself(tmp_path: Path) -> None:
    write_parquet(tmp_path / "log.parquet", small_log())
    with pytest.raises(DataError, match="names its columns; remove `columns:`"):
        prepare_own(tmp_path, files="log.parquet", columns=list(COLUMNS))


@pytest.mark.parametrize("cut", [-1, -9, 800])
def test_a_cut_gzip_file_is_named_with_its_line(tmp_path: Path, cut: int) -> None:
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(as_csv(small_log()))[:cut])
    with pytest.raises(DataError, match=r"log.csv.gz, line \d+: damaged gzip file"):
        prepare_own(tmp_path, files="log.csv.gz")


def test_a_later_file_without_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(as_csv(small_log()))
    (tmp_path / "b.csv").write_bytes(as_csv(small_log()).replace(b"user", b"usr", 1))
    with pytest.raises(DataError, match=r"b.csv: unknown column 'user'; did you mean 'usr'\?"):
        prepare_own(tmp_path, files=["a.csv", "b.csv"])


def test_a_file_of_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.dat").write_bytes(as_csv(small_log()))
    with pytest.raises(DataError, match=r"log.dat: what format is it\? .*`format: csv`"):
        prepare_own(tmp_path, files="log.dat")


# ------------------------------------------------------------------- the command


def test_the_command_prepares_again_only_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_bytes(as_csv(small_log()))
    command = ["mine", "--log", str(describe(tmp_path))]

    def run() -> str:
        assert main(command) == 0
        return capsys.readouterr().out

    assert "data/encoded/mine: 300 rows, 2 fields" in run()
    assert "is complete" in run()
    described: Sequence[dict[str, Any]] = (
        {"threshold": 3},
        {"split": {"rule": "random", "seed": 1}},
        {"label": {"column": "clicked", "equals": "1"}},
        {"fields": {"price": "log2"}},
    )
    for changes in described:
        describe(tmp_path, **changes)
        assert "replacing data/encoded/mine (mine, 300 rows of log.csv" in run()
        assert "is complete" in run()
    (tmp_path / "other.csv").write_bytes(as_csv(small_log(100)))
    command += ["--raw", "other.csv", "log.csv"]
    assert "data/encoded/mine: 400 rows" in run()
    assert [file.name for file in read_schema(Path("data/encoded/mine")).raw] == [
        "other.csv",
        "log.csv",
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--log", "log.yaml"], "the name of the data set is missing"),
        (["mine"], "unknown data set 'mine': choose from criteo, avazu, kdd12, or describe your"),
        (["mine", "--log", "log.yaml", "--synthetic", "9"], "not allowed with --log"),
        (["mine", "--log", "log.yaml", "--like", "set"], "not allowed with"),
        (["a/b", "--log", "log.yaml"], "'a/b' cannot name a folder"),
        (["..", "--log", "log.yaml"], "'..' cannot name a folder"),
        (["--like", "set"], "--like needs the rows to encode: --raw PATH"),
        (["--like", "set", "--raw", "x", "--vocabulary", "all"], "--vocabulary not allowed"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert complaint in capsys.readouterr().err


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("## Your own log\n")[2]
    script = section.partition("```bash\n")[2].partition("```")[0]
    (tmp_path / "example.sh").write_text(script)
    (tmp_path / "trainer.py").symlink_to(ROOT / "trainer.py")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-e", "example.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "data/encoded/clicks: 20,000 rows, 6 fields" in done.stdout
    assert "runs/clicks/deepfm/base/seed-2021" in done.stdout
    assert "data/encoded/clicks-new: 999 rows" in done.stdout
