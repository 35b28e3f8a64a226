"""Raw click logs: how each is laid out, and the official recipe that makes fields of its columns.

Values stay text; a missing value is the empty text, a category of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from data.schema import DataError


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
        roots = {root(expression) for expression in (self.label, *self.fields.values())}
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


def root(expression: pl.Expr) -> str:
    """The one column that an expression of a recipe depends on."""
    (name,) = set(expression.meta.root_names())
    return name
