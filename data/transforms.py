"""What a user's own log may make of a column: fields, labels and times, as polars expressions.

Each depends on one column of text and goes with the rule that lets it work. A missing value is
the empty text and stays a category of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from data.raw import Rule

MICROSECONDS = 1_000_000
# Between the seconds of any log (below: the year 5138) and its milliseconds (above: 1973).
SECONDS_END = 1e11
TRUE, FALSE = ("1", "1.0", "true"), ("0", "0.0", "false")
HOUR_PARTS = ("hour", "weekday", "is_weekend")
TRANSFORMS = ("none", "log2", *HOUR_PARTS, "drop")


@dataclass(frozen=True)
class TimeFormat:
    """How a column tells the time. wall: of a column's text, the time as it is written there.

    instant: the same in microseconds since 1970, offsets from UTC taken off. Both are null for
    another text.
    """

    expected: str
    wall: Callable[[pl.Expr], pl.Expr]
    instant: Callable[[pl.Expr], pl.Expr]


def _compact_hour(text: pl.Expr) -> pl.Expr:
    # polars parses no hour without its minute.
    time = ("20" + text + "00").str.to_datetime("%Y%m%d%H%M", strict=False)
    return pl.when(text.str.len_bytes() == 8).then(time)


def _since_1970(text: pl.Expr, unit: float, low: float, high: float) -> pl.Expr:
    number = text.cast(pl.Float64, strict=False)
    within = number.is_finite() & (number >= low) & (number < high)
    return pl.when(within).then((number * unit * MICROSECONDS).round().cast(pl.Int64, strict=False))


def _seconds(text: pl.Expr) -> pl.Expr:
    return _since_1970(text, 1, 0, SECONDS_END)


def _milliseconds(text: pl.Expr) -> pl.Expr:
    return _since_1970(text, 1e-3, SECONDS_END, SECONDS_END * 1e3)


# An offset from UTC follows a time of day; a date alone may end with the same characters.
ISO_OFFSET = r"([Tt ]\d\d.*?)(?:[Zz]|([+-])(\d\d)(?::?(\d\d))?)$"


def _iso(text: pl.Expr) -> pl.Expr:
    plain = text.str.replace(ISO_OFFSET, "$1").str.replace("[Tt]", " ")
    formats = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
    times = [plain.str.to_datetime(form, strict=False, time_unit="us") for form in formats]
    date = plain.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    # polars also takes a year of two digits, and so the day of 31-05-24 for one.
    return pl.when(text.str.contains(r"^\d{4}-")).then(pl.coalesce(*times, date))


def _iso_instant(text: pl.Expr) -> pl.Expr:
    sign, hours, minutes = (text.str.extract(ISO_OFFSET, group) for group in (2, 3, 4))
    size = hours.cast(pl.Int64) * 60 + minutes.cast(pl.Int64).fill_null(0)
    offset = pl.when(sign == "-").then(-size).otherwise(size).fill_null(0)
    return _iso(text).dt.epoch("us") - offset * 60 * MICROSECONDS


TIME_FORMATS = {
    "iso": TimeFormat("a time as 2024-05-31 or 2024-05-31T23:59:00", _iso, _iso_instant),
    "unix": TimeFormat(
        "seconds since 1970 (for milliseconds: unix_ms)",
        lambda text: _seconds(text).cast(pl.Datetime("us")),
        _seconds,
    ),
    "unix_ms": TimeFormat(
        "milliseconds since 1970 (for seconds: unix)",
        lambda text: _milliseconds(text).cast(pl.Datetime("us")),
        _milliseconds,
    ),
    "yymmddhh": TimeFormat(
        "an hour as YYMMDDHH", _compact_hour, lambda text: _compact_hour(text).dt.epoch("us")
    ),
}


def field_expression(column: str, transform: str, time: str) -> tuple[pl.Expr, Rule | None]:
    """The text of a field, and what its column must hold.

    transform: one of `TRANSFORMS` but `drop`. time: one of `TIME_FORMATS`, for parts of an hour.
    """
    text = pl.col(column)
    if transform == "none":
        return text, None
    if transform == "log2":
        return _log_bucket(text), _or_missing(column, _number(text), "a number")
    time_format = TIME_FORMATS[time]
    wall = time_format.wall(text)
    return _hour_part(wall, transform), _or_missing(column, wall, time_format.expected)


def instant_expression(column: str, time: str) -> tuple[pl.Expr, Rule]:
    """The time of a row in microseconds since 1970 (Int64), and what its column must hold."""
    time_format = TIME_FORMATS[time]
    instant = time_format.instant(pl.col(column))
    return instant, Rule(column, instant.is_not_null(), time_format.expected)


def label_as_it_is(column: str) -> tuple[pl.Expr, Rule]:
    """0 or 1, also as pandas and Parquet may write them: 0.0, true, False."""
    text = pl.col(column).str.to_lowercase()
    return text.is_in(TRUE), Rule(column, text.is_in([*FALSE, *TRUE]), "0 or 1")


def label_equals(column: str, values: Sequence[str]) -> tuple[pl.Expr, None]:
    """1 where the column holds one of the values."""
    return pl.col(column).is_in(list(values)), None


def label_greater_than(column: str, bound: float) -> tuple[pl.Expr, Rule]:
    """1 where the number in the column is greater than the bound."""
    number = _number(pl.col(column))
    return number > bound, Rule(column, number.is_not_null(), "a number")


def _number(text: pl.Expr) -> pl.Expr:
    """The text as Float64, null where it is no finite number."""
    number = text.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def _log_bucket(text: pl.Expr) -> pl.Expr:
    """A number v above 2 as floor(ln(v)^2), another cut to an integer: the recipe for Criteo's.

    Below -2^63 all are that.
    """
    value = _number(text)
    bucket = value.log().pow(2).floor()
    chosen = pl.when(value > 2).then(bucket).otherwise(value.clip(-(2.0**63)))
    return chosen.cast(pl.Int64, strict=False).cast(pl.String).fill_null("")


def _hour_part(wall: pl.Expr, part: str) -> pl.Expr:
    # polars counts Monday 1 .. Sunday 7, the official recipe Sunday 0 .. Saturday 6.
    weekday = wall.dt.weekday() % 7
    parts = {
        "hour": wall.dt.hour(),
        "weekday": weekday,
        "is_weekend": weekday.is_in([0, 6]).cast(pl.Int8),
    }
    return parts[part].cast(pl.String).fill_null("")


def _or_missing(column: str, parsed: pl.Expr, expected: str) -> Rule:
    valid = (pl.col(column) == "") | parsed.is_not_null()
    return Rule(column, valid, f"{expected} or nothing")
