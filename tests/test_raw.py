"""Raw logs in, fields out: against the recipe written row by row, and against bad lines."""

from __future__ import annotations

import codecs
import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.raw import RAW_FORMATS, raw_format
from data.reading import read_chunks
from data.schema import DataError
from data.tokens import Interner
from tests.raw_logs import (
    AVAZU_HEADER,
    LINES,
    avazu_lines,
    naive_bucket,
    naive_rows,
    write_lines,
)


def read_rows(path: Path, dataset: str, block_bytes: int = 1 << 20) -> list[tuple[object, ...]]:
    """Label and field values of every row, decoded."""
    log = raw_format(dataset)
    interners = {name: Interner() for name in log.used_columns}
    chunks = list(read_chunks(path, log, interners, block_bytes))
    columns = {
        name: pl.Series(interner.values()).gather(np.concatenate(codes))
        for (name, interner), codes in zip(
            interners.items(), zip(*chunks, strict=True), strict=True
        )
    }
    return pl.DataFrame(columns).select(label=log.label.cast(pl.UInt8), **log.fields).rows()


@pytest.mark.parametrize("dataset", RAW_FORMATS)
@pytest.mark.parametrize("block_bytes", [150, 5000, 1 << 20])
def test_fields_are_those_of_the_recipe(tmp_path: Path, dataset: str, block_bytes: int) -> None:
    lines = LINES[dataset](200)
    path = write_lines(tmp_path / "log", lines)
    assert read_rows(path, dataset, block_bytes) == naive_rows(dataset, lines)


@pytest.mark.parametrize("dataset", RAW_FORMATS)
def test_how_the_file_is_stored_changes_nothing(tmp_path: Path, dataset: str) -> None:
    lines = LINES[dataset](50)
    expected = naive_rows(dataset, lines)
    assert read_rows(write_lines(tmp_path / "log.gz", lines), dataset) == expected
    assert read_rows(write_lines(tmp_path / "windows", lines, end="\r\n"), dataset) == expected
    cut = write_lines(tmp_path / "unterminated", lines)
    cut.write_bytes(cut.read_bytes().removesuffix(b"\n"))
    assert read_rows(cut, dataset) == expected


def test_a_byte_order_mark_is_no_part_of_the_log(tmp_path: Path) -> None:
    for dataset in RAW_FORMATS:
        lines = LINES[dataset](5)
        path = write_lines(tmp_path / dataset, lines)
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
        assert read_rows(path, dataset, 7) == naive_rows(dataset, lines)


def test_a_lone_return_belongs_to_the_value(tmp_path: Path) -> None:
    lines = LINES["kdd12"](4)
    lines[1] = lines[1] + "\r"
    lines[2] = "1\ta\rb" + lines[2][lines[2].index("\t", 2) :]
    expected = naive_rows("kdd12", lines)
    assert read_rows(write_lines(tmp_path / "log", lines, end="\r\n"), "kdd12") == expected


def test_files_are_read_one_after_another_with_the_same_codes(tmp_path: Path) -> None:
    log, lines = raw_format("criteo"), LINES["criteo"](60)
    parts = [lines[:20], lines[20:]]
    paths = [write_lines(tmp_path / f"{number}.gz", part) for number, part in enumerate(parts)]
    paths.append(write_lines(tmp_path / "whole", lines))
    interners = {name: Interner() for name in log.used_columns}
    first, second, whole = (
        [np.concatenate(codes) for codes in zip(*read_chunks(path, log, interners), strict=True)]
        for path in paths
    )
    for codes in zip(first, second, whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(codes[:2]), codes[2])
    bad = write_lines(tmp_path / "bad", [lines[0], lines[1].replace("\t", "\tlate", 1)])
    with pytest.raises(DataError, match="bad, line 2: I1 is 'late"):
        list(read_chunks(bad, log, interners))


def test_quotes_and_blanks_belong_to_the_value(tmp_path: Path) -> None:
    lines = LINES["kdd12"](4)
    for number, value in enumerate(['"a"', '"', " a ", "#"]):
        lines[number] = "1\t" + value + lines[number][lines[number].index("\t", 2) :]
    path = write_lines(tmp_path / "log", lines)
    assert read_rows(path, "kdd12") == naive_rows("kdd12", lines)


def test_the_fields_are_in_the_official_order() -> None:
    fields = list(raw_format("avazu").fields)
    assert ["id", "click", *fields[:-2]] == AVAZU_HEADER.split(",")
    assert fields[-2:] == ["weekday", "is_weekend"]
    assert len(raw_format("criteo").fields) == 39
    assert " ".join(raw_format("kdd12").fields) == (
        "Impression DisplayURL AdID AdvertiserID Depth Position "
        "QueryID KeywordID TitleID DescriptionID UserID"
    )


def test_integers_fall_into_the_official_buckets() -> None:
    integers = [*range(-3, 50_000)]
    # Around every edge of a bucket up to 2^40; at 10^13 it is rounding that decides.
    edges = [int(math.exp(math.sqrt(bucket))) for bucket in range(1, 768)]
    integers += [edge + step for edge in edges for step in (-1, 0, 1, 2)]
    texts = [str(value) for value in integers]
    frame = pl.DataFrame({"I1": [*texts, ""]})
    found = frame.select(raw_format("criteo").fields["I1"])["I1"].to_list()
    assert found == [*map(naive_bucket, texts), ""]


# ------------------------------------------------------------------ bad input


def spoiled(dataset: str, number: int, column: int, value: str) -> list[str]:
    """A log whose line `number` (from 1) holds `value` in a column."""
    lines = LINES[dataset](300)
    separator = raw_format(dataset).separator
    columns = lines[number - 1].split(separator)
    columns[column] = value
    lines[number - 1] = separator.join(columns)
    return lines


@pytest.mark.parametrize("block_bytes", [400, 1 << 20])
@pytest.mark.parametrize(
    ("dataset", "number", "column", "value", "complaint"),
    [
        ("avazu", 2, 1, "2", "click is '2', expected 0 or 1"),
        ("avazu", 301, 1, "", "click is '', expected 0 or 1"),
        ("avazu", 77, 2, "1410210", "hour is '1410210', expected an hour as YYMMDDHH"),
        ("avazu", 77, 2, "14102124", "hour is '14102124'"),
        ("avazu", 77, 2, "14023000", "hour is '14023000'"),
        ("avazu", 77, 2, "", "hour is ''"),
        ("criteo", 1, 0, "-1", "label is '-1', expected 0 or 1"),
        ("criteo", 300, 3, "3.5", "I3 is '3.5', expected an integer or nothing"),
        ("criteo", 123, 13, "x" * 500, f"I13 is '{'x' * 120}...'"),
        ("kdd12", 1, 0, "-1", "click is '-1', expected an integer >= 0"),
        ("kdd12", 250, 0, "one", "click is 'one'"),
    ],
)
def test_a_bad_value_is_named_with_its_line(
    tmp_path: Path,
    dataset: str,
    number: int,
    column: int,
    value: str,
    complaint: str,
    block_bytes: int,
) -> None:
    path = write_lines(tmp_path / "log", spoiled(dataset, number, column, value))
    with pytest.raises(DataError) as raised:
        read_rows(path, dataset, block_bytes)
    assert f"{path}, line {number}: {complaint}" in str(raised.value)


def test_of_several_bad_values_the_first_line_is_named(tmp_path: Path) -> None:
    lines = spoiled("criteo", 9, 2, "late")
    lines[3] = lines[3].replace("\t", "\tearly", 1)
    with pytest.raises(DataError, match="line 4: I1 is 'early"):
        read_rows(write_lines(tmp_path / "log", lines), "criteo")


@settings(max_examples=40, deadline=None)
@given(
    dataset=st.sampled_from(list(RAW_FORMATS)),
    index=st.integers(1, 39),
    surplus=st.sampled_from([-3, -1, 1, 2]),
    block_bytes=st.integers(20, 6000),
)
def test_a_line_of_wrong_width_is_found_wherever_it_lies(
    tmp_path_factory: pytest.TempPathFactory,
    dataset: str,
    index: int,
    surplus: int,
    block_bytes: int,
) -> None:
    separator, width = raw_format(dataset).separator, len(raw_format(dataset).columns)
    lines = LINES[dataset](40)
    columns = lines[index].split(separator)
    lines[index] = separator.join([*columns, "", ""][: width + surplus])
    path = write_lines(tmp_path_factory.mktemp("raw") / "log", lines)
    with pytest.raises(DataError) as raised:
        read_rows(path, dataset, block_bytes)
    assert f"line {index + 1}: {width + surplus} columns, expected {width}" in str(raised.value)


def test_too_few_and_too_many_columns_do_not_make_up_for_each_other(tmp_path: Path) -> None:
    lines = LINES["kdd12"](9)
    lines[4] = lines[4].rpartition("\t")[0]
    lines[7] += "\t1"
    with pytest.raises(DataError, match="line 5: 11 columns, expected 12 for kdd12"):
        read_rows(write_lines(tmp_path / "log", lines), "kdd12")


@pytest.mark.parametrize("dataset", RAW_FORMATS)
def test_an_empty_line_is_a_line_of_one_column(tmp_path: Path, dataset: str) -> None:
    lines = LINES[dataset](5)
    path = write_lines(tmp_path / "log", [*lines[:3], "", *lines[3:]])
    with pytest.raises(DataError, match="line 4: 1 columns"):
        read_rows(path, dataset)


def test_a_file_without_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.reading.LINE_BYTES", 1000)
    path = tmp_path / "log"
    path.write_bytes(b"x" * 2000)
    with pytest.raises(
        DataError, match="log: a line of more than 1000 bytes, which begins before byte 100;"
    ):
        read_rows(path, "criteo", 100)


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "log", LINES["criteo"](9))
    lines = path.read_bytes().split(b"\n")
    lines[5] = lines[5][:-1] + b"\xff"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"log, line 6: not UTF-8 .*0xff"):
        read_rows(path, "criteo")


@pytest.mark.parametrize("header", [AVAZU_HEADER.replace("hour", "time"), avazu_lines(1)[1], ""])
def test_another_header_is_refused(tmp_path: Path, header: str) -> None:
    path = write_lines(tmp_path / "log", [header, *avazu_lines(5)[1:]])
    with pytest.raises(DataError) as raised:
        read_rows(path, "avazu")
    assert f"{path}, line 1: the header is '{header[:120]}" in str(raised.value)
    assert AVAZU_HEADER in str(raised.value)


@pytest.mark.parametrize("content", [b"", f"{AVAZU_HEADER}\n".encode(), AVAZU_HEADER.encode()])
@pytest.mark.parametrize("name", ["log", "log.gz"])
def test_a_log_without_rows_is_refused(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match="has no rows"):
        read_rows(path, "avazu")


@pytest.mark.parametrize("place", ["nowhere.csv", "."])
def test_a_missing_log_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(DataError, match=r"is not a file; give the avazu log with --raw"):
        read_rows(tmp_path / place, "avazu")


@pytest.mark.parametrize("cut", [-1, -9, 4000, 12])
def test_a_cut_gzip_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = write_lines(tmp_path / "log.gz", avazu_lines(1000))
    path.write_bytes(path.read_bytes()[:cut])
    line = 1 + zlib.decompressobj(wbits=31).decompress(path.read_bytes()).count(b"\n")
    with pytest.raises(DataError, match=rf"log.gz, line {line}: damaged gzip file"):
        read_rows(path, "avazu", 1000)


def test_a_flipped_byte_in_a_gzip_file_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "log.gz", avazu_lines(100))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the CRC of the content
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        read_rows(path, "avazu")


def test_an_unknown_data_set_lists_the_known() -> None:
    with pytest.raises(DataError, match="'movielens'; known are criteo, avazu, kdd12"):
        raw_format("movielens")
