"""Raw click logs: how each is laid out, and the official recipe that makes fields of its columns.

A log is read in blocks of whole lines and handed on in chunks, so memory does not grow with it.
Values stay text; a missing value is the empty text, a category of its own.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import csv

from data.gzipped import GZIP_ERRORS, damaged_gzip, open_log
from data.schema import DataError
from data.threads import map_ahead

BLOCK_BYTES = 1 << 24
DICTIONARY = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Rule:
    """What a column of a log must hold, as a Boolean expression and in words."""

    column: str
    valid: pl.Expr
    expected: str


@dataclass(frozen=True)
class RawFormat:
    """The log of one data set and its recipe.

    suffix: of a plain file. columns: of the file, in order; header: its first line names them.
    label: expression for 0 or 1. fields: name -> expression for the value, as text, in the order
    of the encoded row. Each expression depends on one column. thresholds: field -> the count
    below which a value shares the unknown id.
    rules: what lets the expressions work.
    """

    dataset: str
    suffix: str
    separator: str
    header: bool
    columns: tuple[str, ...]
    label: pl.Expr
    fields: Mapping[str, pl.Expr]
    thresholds: Mapping[str, int]
    rules: tuple[Rule, ...]

    @property
    def used_columns(self) -> list[str]:
        """The columns that the label, a field or a rule depends on, in the order of the file."""
        roots = {_root(expression) for expression in (self.label, *self.fields.values())}
        roots |= {rule.column for rule in self.rules}
        return [name for name in self.columns if name in roots]


def _integer(column: str) -> pl.Expr:
    """The column as Int64, null where it is none."""
    return pl.col(column).cast(pl.Int64, strict=False)


def _zero_or_one(column: str) -> Rule:
    return Rule(column, pl.col(column).is_in(["0", "1"]), "0 or 1")


def _integer_or_missing(column: str) -> Rule:
    valid = (pl.col(column) == "") | _integer(column).is_not_null()
    return Rule(column, valid, "an integer or nothing")


def _log_bucket(column: str) -> pl.Expr:
    """An integer v above 2 as floor(ln(v)^2), another as it is."""
    value = _integer(column)
    bucket = value.log().pow(2).floor().cast(pl.Int64, strict=False)
    return pl.when(value > 2).then(bucket).otherwise(value).cast(pl.String).fill_null("")


CRITEO_INTEGERS = tuple(f"I{number}" for number in range(1, 14))
CRITEO_CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
CRITEO = RawFormat(
    dataset="criteo",
    suffix=".txt",
    separator="\t",
    header=False,
    columns=("label", *CRITEO_INTEGERS, *CRITEO_CATEGORIES),
    label=pl.col("label"),
    fields={
        **{name: _log_bucket(name) for name in CRITEO_INTEGERS},
        **{name: pl.col(name) for name in CRITEO_CATEGORIES},
    },
    # An integer's buckets are few: all of them are kept.
    thresholds=dict.fromkeys(CRITEO_INTEGERS, 1) | dict.fromkeys(CRITEO_CATEGORIES, 10),
    rules=(_zero_or_one("label"), *map(_integer_or_missing, CRITEO_INTEGERS)),
)

AVAZU_CATEGORIES = (
    "C1",
    "banner_pos",
    "site_id",
    "site_domain",
    "site_category",
    "app_id",
    "app_domain",
    "app_category",
    "device_id",
    "device_ip",
    "device_model",
    "device_type",
    "device_conn_type",
    *(f"C{number}" for number in range(14, 22)),
)
# The file's hour is YYMMDDHH; polars parses no hour without its minute.
AVAZU_TIME = ("20" + pl.col("hour") + "00").str.to_datetime("%Y%m%d%H%M", strict=False)
# polars counts Monday 1 .. Sunday 7, the official recipe Sunday 0 .. Saturday 6.
AVAZU_WEEKDAY = AVAZU_TIME.dt.weekday() % 7
AVAZU_FIELDS = {
    "hour": AVAZU_TIME.dt.hour().cast(pl.String),
    **{name: pl.col(name) for name in AVAZU_CATEGORIES},
    "weekday": AVAZU_WEEKDAY.cast(pl.String),
    "is_weekend": AVAZU_WEEKDAY.is_in([0, 6]).cast(pl.Int8).cast(pl.String),
}
AVAZU = RawFormat(
    dataset="avazu",
    suffix=".csv",
    separator=",",
    header=True,
    columns=("id", "click", "hour", *AVAZU_CATEGORIES),
    label=pl.col("click"),
    fields=AVAZU_FIELDS,
    thresholds=dict.fromkeys(AVAZU_FIELDS, 2),
    rules=(
        _zero_or_one("click"),
        Rule(
            "hour",
            (pl.col("hour").str.len_bytes() == 8) & AVAZU_TIME.is_not_null(),
            "an hour as YYMMDDHH",
        ),
    ),
)

KDD12_COLUMNS = {
    "impression": "Impression",
    "display_url": "DisplayURL",
    "ad_id": "AdID",
    "advertiser_id": "AdvertiserID",
    "depth": "Depth",
    "position": "Position",
    "query_id": "QueryID",
    "keyword_id": "KeywordID",
    "title_id": "TitleID",
    "description_id": "DescriptionID",
    "user_id": "UserID",
}
KDD12 = RawFormat(
    dataset="kdd12",
    suffix=".tsv",
    separator="\t",
    header=False,
    columns=("click", *KDD12_COLUMNS),
    label=_integer("click") > 0,
    fields={field: pl.col(column) for column, field in KDD12_COLUMNS.items()},
    thresholds=dict.fromkeys(KDD12_COLUMNS.values(), 10),
    rules=(Rule("click", _integer("click") >= 0, "an integer >= 0"),),
)

RAW_FORMATS = {"criteo": CRITEO, "avazu": AVAZU, "kdd12": KDD12}


def raw_format(dataset: str) -> RawFormat:
    """The format of a data set's log; raise `DataError` for an unknown name."""
    if dataset not in RAW_FORMATS:
        raise DataError(f"unknown data set '{dataset}'; known are {', '.join(RAW_FORMATS)}")
    return RAW_FORMATS[dataset]


class Column(NamedTuple):
    """One text a row, as codes (rows,) int32 of distinct values: values[codes[row]]."""

    codes: np.ndarray
    values: pl.Series


class Chunk(NamedTuple):
    """Rows of a log. labels: (rows,) uint8, 0 or 1. fields: name -> its texts, in order.

    The values of a field may hold a text twice: those of another column are mapped, not merged.
    """

    labels: np.ndarray
    fields: dict[str, Column]


def read_chunks(path: Path, log: RawFormat, block_bytes: int = BLOCK_BYTES) -> Iterator[Chunk]:
    """Yield the rows of a plain or gzipped log in order, in chunks of about `block_bytes` bytes.

    Blocks are parsed by several threads, ahead of their turn. Raise `DataError` with file and
    line for anything that does not fit the format.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the {log.dataset} log with --raw PATH")
    rows, line = 0, 1 + log.header
    for block, chunk in map_ahead(
        lambda block: (block, _read_block(block, log)), _blocks(path, log, block_bytes)
    ):
        checked = chunk or _read_block_slowly(block, path, line, log)
        line += len(checked.labels)
        rows += len(checked.labels)
        yield checked
    if rows == 0:
        raise DataError(f"{path} has no rows; give the {log.dataset} log with --raw PATH")


def _blocks(path: Path, log: RawFormat, block_bytes: int) -> Iterator[bytes]:
    """Yield blocks of whole lines, without the header."""
    rest, header = b"", log.header
    try:
        with open_log(path) as file:
            while read := file.read(block_bytes):
                end = read.rfind(b"\n") + 1
                if not end:
                    rest += read
                    continue
                block, rest = rest + read[:end], read[end:]
                if header:
                    block, header = _without_header(block, path, log), False
                if block:
                    yield block
    except GZIP_ERRORS as error:
        raise damaged_gzip(path, error) from error
    if rest:
        block = rest + b"\n"
        if header:
            block = _without_header(block, path, log)
        if block:
            yield block


def _read_block(block: bytes, log: RawFormat) -> Chunk | None:
    """The rows of a block, None if something in it is unusual or wrong.

    pyarrow parses into dictionaries, and recipe and rules visit the distinct values alone.
    """
    # pyarrow takes a lone return for the end of a line, and drops a byte order mark.
    lone_return = b"\r" in block and block.count(b"\r") != block.count(b"\r\n")
    if lone_return or block.startswith(codecs.BOM_UTF8):
        return None
    try:
        table = csv.read_csv(
            pa.BufferReader(block),
            csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=log.columns),
            csv.ParseOptions(
                delimiter=log.separator,
                quote_char=False,
                double_quote=False,
                ignore_empty_lines=False,
            ),
            csv.ConvertOptions(
                column_types=dict.fromkeys(log.used_columns, DICTIONARY),
                include_columns=log.used_columns,
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException:
        return None
    columns = {name: _column(table[name].chunk(0)) for name in log.used_columns}
    kept = {name: column.values for name, column in columns.items()}
    for rule in log.rules:
        values = kept[rule.column].to_frame(rule.column)
        if not values.select(rule.valid.fill_null(False).all()).item():
            return None
    return _apply_recipe(columns, log)


def _read_block_slowly(block: bytes, path: Path, first_line: int, log: RawFormat) -> Chunk:
    """The rows of a block whose lines and rules are checked one by one.

    Raise `DataError` for the first that is wrong.
    """
    frame = _parse(block, path, first_line, log)
    _check_rules(frame, path, first_line, log)
    columns = {
        name: _column(frame[name].to_arrow().cast(pa.large_string()).dictionary_encode())
        for name in log.used_columns
    }
    return _apply_recipe(columns, log)


def _column(array: pa.DictionaryArray) -> Column:
    values = pl.Series(array.dictionary)
    return Column(array.indices.to_numpy(), values)


def _apply_recipe(columns: Mapping[str, Column], log: RawFormat) -> Chunk:
    """Fields and labels of rows whose columns keep the rules, by way of the distinct values."""
    label = columns[_root(log.label)]
    labels = _map(label.values, log.label.cast(pl.UInt8)).to_numpy().take(label.codes)
    fields = {}
    for name, expression in log.fields.items():
        column = columns[_root(expression)]
        fields[name] = Column(column.codes, _map(column.values, expression))
    return Chunk(labels, fields)


def _map(values: pl.Series, expression: pl.Expr) -> pl.Series:
    return values.to_frame(_root(expression)).select(expression).to_series()


def _root(expression: pl.Expr) -> str:
    """The one column that an expression of a recipe depends on."""
    (name,) = set(expression.meta.root_names())
    return name


def _without_header(block: bytes, path: Path, log: RawFormat) -> bytes:
    """`block` after its first line, which must name the columns."""
    line, _, rest = block.partition(b"\n")
    header = line.decode(errors="replace").removesuffix("\r")
    expected = log.separator.join(log.columns)
    if header != expected:
        raise DataError(
            f"{path}, line 1: the header is '{_shorten(header)}', expected '{expected}'; "
            f"is it a log of {log.dataset}?"
        )
    return rest


def _parse(block: bytes, path: Path, first_line: int, log: RawFormat) -> pl.DataFrame:
    """The columns of a block as text."""
    try:
        frame = pl.read_csv(
            block,
            has_header=False,
            schema=dict.fromkeys(log.columns, pl.String),
            separator=log.separator,
            quote_char=None,
            empty_string_is_null=False,
        )
    except pl.exceptions.PolarsError as error:
        raise _malformed_line(block, path, first_line, log, str(error)) from error
    # polars refuses a line with too many columns, but silently fills one with too few.
    lines = _count(block, "\n")
    if len(frame) != lines or _count(block, log.separator) != lines * (len(log.columns) - 1):
        raise _malformed_line(block, path, first_line, log, "columns are missing")
    return frame


def _count(block: bytes, character: str) -> int:
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord(character)))


def _malformed_line(
    block: bytes, path: Path, first_line: int, log: RawFormat, reason: str
) -> DataError:
    """The error for the first line of `block` that is not the right number of columns of UTF-8."""
    for number, line in enumerate(block.split(b"\n")[:-1], start=first_line):
        place = f"{path}, line {number}"
        columns = 1 + line.count(log.separator.encode())
        if columns != len(log.columns):
            return DataError(
                f"{place}: {columns} columns, expected {len(log.columns)} for {log.dataset} "
                f"('{_shorten(line.decode(errors='replace'))}'); repair or remove the line"
            )
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return DataError(f"{place}: not UTF-8 ({error}); repair or remove the line")
    return DataError(f"{path}, from line {first_line}: {reason}; is it a log of {log.dataset}?")


def _check_rules(frame: pl.DataFrame, path: Path, first_line: int, log: RawFormat) -> None:
    """Raise `DataError` for the first line that breaks a rule of the format."""
    kept = frame.select(
        rule.valid.fill_null(False).alias(str(number)) for number, rule in enumerate(log.rules)
    )
    broken = [
        (kept[str(number)].arg_min() or 0, rule)
        for number, rule in enumerate(log.rules)
        if not kept[str(number)].all()
    ]
    if broken:
        row, rule = min(broken, key=lambda found: found[0])
        raise DataError(
            f"{path}, line {first_line + row}: {rule.column} is "
            f"'{_shorten(frame[rule.column][row])}', expected {rule.expected}; "
            f"repair or remove the line"
        )


def _shorten(text: str, length: int = 120) -> str:
    return text if len(text) <= length else text[:length] + "..."
