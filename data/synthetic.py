"""Planted click logs: rows shaped like a public data set, clicks of known probability.

A log is written in the raw format of the data set it imitates, chunk by chunk, so that its size
is bounded by the disk alone. Every field draws from a Zipf law or is decided by another field;
the click of a row is a coin with probability sigmoid(logit), and the logit is a sum of planted
effects of single fields, of pairs and of triples of fields. That probability, the *truth*, is
kept beside the log: its AUC and log loss are the best that any model can reach.

    python -m data.synthetic avazu --rows 200000 --output data/raw/avazu/synthetic.csv

In this file n is a number of rows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from data.schema import DataError

TRUTH_SUFFIX = ".truth.npy"
CHUNK_ROWS = 1 << 16
# The rows that effects are scaled and the base rate is met on.
PILOT_ROWS = 1 << 16
# A field with more values than this reuses effects: value v has that of v % TABLE_ROWS.
TABLE_ROWS = 1 << 16
GOLDEN_RATIO = (1 + 5**0.5) / 2
MISSING = -1
# Multipliers that send integers of their width to integers of that width, one to one.
ODD_32, ODD_64 = np.uint32(0x9E3779B1), np.uint64(0x9E3779B97F4A7C15)
# The four digits of each 16-bit number, as one integer.
HEX_DIGITS = np.frombuffer(b"".join(b"%04x" % number for number in range(1 << 16)), np.uint32)

Values = dict[str, np.ndarray]  # field -> (n,) value numbers: 0 the most popular, -1 missing


@dataclass(frozen=True)
class Field:
    """One field of a planted log; its values are numbered by falling popularity.

    values: how many distinct ones the data set has at full size.
    exponent: of the Zipf law that the values follow.
    top: share of value 0 where it stands apart from that law, as the id of "none" does.
    missing: share of rows without a value. Fields of one share miss it on the same rows.
    parent: the field drawn before that this one depends on, in the way `coupling` says:
        decides   the parent's value decides this one on a share `loyalty` of the rows,
        excludes  drawn from the other end of the parent's draw: where a share `top` of one and
                  `1 - top` of the other is "none", just one of the two has a value,
        bounds    uniform on 0 .. the parent's value.
    kind: how a value is written, and which values have an effect of their own:
        hex     eight hexadecimal digits,
        number  `first` + value,
        count   the same, but a quantity: neighbours have similar effects,
        hash    a 64-bit number,
        hour    YYMMDDHH, rising through the log; the effect is that of the hour of the day.
    """

    name: str
    values: int
    exponent: float = 1.0
    top: float = 0.0
    missing: float = 0.0
    parent: str = ""
    coupling: Literal["decides", "excludes", "bounds"] = "decides"
    loyalty: float = 1.0
    kind: Literal["hex", "number", "count", "hash", "hour"] = "hex"
    first: int = 0


@dataclass(frozen=True)
class Recipe:
    """What a planted log looks like and why its rows are clicked.

    fields: in the order they are drawn in, parents first. columns: of the file, in order.
    effects: "site_id" or "site_id*C14" -> weight of the effect of that field or combination: its
    standard deviation over rows, in logits before all are scaled together to meet `best_auc`.
    base_rate: the share of clicked rows. best_auc: the AUC of the truth.
    """

    fields: tuple[Field, ...]
    columns: str
    header: bool
    separator: str
    effects: Mapping[str, float]
    base_rate: float
    best_auc: float


AVAZU = Recipe(
    fields=(
        Field("hour", 240, kind="hour"),
        Field("site_id", 4737, 1.39, top=0.353),
        Field("site_domain", 7745, 1.01, parent="site_id", loyalty=0.98),
        Field("site_category", 26, 2.15, top=0.09, parent="site_id"),
        Field("banner_pos", 7, 3.5, top=0.62, parent="site_id", loyalty=0.84, kind="number"),
        Field("app_id", 8552, 1.25, top=0.647, parent="site_id", coupling="excludes"),
        Field("app_domain", 559, 1.49, parent="app_id"),
        Field("app_category", 36, 2.49, top=0.03, parent="app_id"),
        Field("device_id", 2_686_408, 0.72, top=0.82),
        Field("device_ip", 6_729_486, 0.82, top=0.005),
        Field("device_model", 8251, 1.11, parent="device_ip", loyalty=0.3),
        Field("device_type", 5, 0.22, top=0.92, parent="device_model", loyalty=0.8, kind="number"),
        Field("device_conn_type", 4, 3.5, top=0.89, kind="number"),
        Field("C1", 7, 1.56, parent="device_type", loyalty=0.96, kind="number", first=1001),
        Field("C14", 2626, 1.17, kind="number", first=375),
        Field("C17", 435, 0.89, parent="C14", kind="number", first=112),
        Field("C21", 60, 0.91, top=0.08, parent="C17", kind="number", first=1),
        Field("C18", 4, 1.56, parent="C21", loyalty=0.9, kind="number"),
        Field("C19", 68, 1.33, top=0.26, parent="C17", loyalty=0.94, kind="number", first=33),
        Field("C16", 9, 0.21, top=0.935, parent="C14", kind="number", first=50),
        Field("C15", 8, 2.5, parent="C16", loyalty=0.88, kind="number", first=320),
        Field("C20", 172, 1.27, top=0.53, kind="number", first=-1),
    ),
    columns=(
        "id click hour C1 banner_pos site_id site_domain site_category app_id app_domain "
        "app_category device_id device_ip device_model device_type device_conn_type "
        "C14 C15 C16 C17 C18 C19 C20 C21"
    ),
    header=True,
    separator=",",
    effects={
        "hour": 0.25,
        "site_id": 0.45,
        "app_id": 0.45,
        "banner_pos": 0.2,
        "device_model": 0.15,
        "device_ip": 0.15,
        "device_id": 0.1,
        "device_conn_type": 0.25,
        "C14": 0.35,
        "C17": 0.2,
        "C21": 0.35,
        "C18": 0.25,
        "C20": 0.3,
        "site_category*C20": 0.33,
        "site_category*C21": 0.33,
        "app_category*C21": 0.33,
        "hour*site_category": 0.33,
        "hour*C21": 0.33,
        "C20*C21": 0.33,
        "site_category*C18*C20": 0.3,
        "app_category*hour*C18": 0.3,
    },
    base_rate=0.17,
    best_auc=0.79,
)

CRITEO = Recipe(
    fields=(
        Field("I1", 5776, 2, top=0.15, missing=0.45, kind="count"),
        Field("I2", 257_676, 1.36, top=0.18, kind="count", first=-1),
        Field("I3", 65_536, 1.47, top=0.15, missing=0.21, kind="count"),
        Field("I4", 970, 1.53, top=0.24, missing=0.21, kind="count"),
        Field("I5", 23_159_457, 1.03, top=0.025, missing=0.026, kind="count"),
        Field("I6", 431_038, 1.25, top=0.07, missing=0.22, kind="count"),
        Field("I7", 56_312, 1.51, top=0.225, missing=0.043, kind="count"),
        Field("I8", 6048, 1.44, top=0.21, missing=0.001, kind="count"),
        Field("I9", 29_020, 1.21, top=0.04, missing=0.043, kind="count"),
        Field("I10", 12, 3.5, top=0.48, missing=0.45, kind="count"),
        Field("I11", 232, 1.92, top=0.35, missing=0.043, kind="count"),
        Field("I12", 4009, 2.2, top=0.74, missing=0.765, kind="count"),
        Field("I13", 7394, 1.54, top=0.24, missing=0.21, kind="count"),
        Field("C1", 1460, 1.71, top=0.5),
        Field("C3", 10_131_227, 0.98, top=0.03, missing=0.035),
        Field("C4", 2_202_608, 0.95, missing=0.035, parent="C3"),
        Field("C12", 8_351_593, 0.79, missing=0.035, parent="C3"),
        Field("C16", 5_461_306, 0.88, missing=0.035, parent="C3"),
        Field("C21", 7_046_547, 0.84, missing=0.035, parent="C3"),
        Field("C24", 286_181, 0.96, top=0.055, missing=0.035, parent="C4"),
        Field("C26", 142_572, 0.96, top=0.02, missing=0.44, parent="C24", loyalty=0.6),
        Field("C5", 305, 2.1, top=0.67),
        Field("C6", 24, 2.6, top=0.45, missing=0.12),
        Field("C7", 12_517, 0.88),
        Field("C9", 3, 3.5, top=0.89, parent="C7"),
        Field("C11", 5683, 0.7, parent="C7", loyalty=0.94),
        Field("C13", 3194, 0.21, parent="C11"),
        Field("C8", 633, 2.3),
        Field("C10", 93_145, 0.98, top=0.22),
        Field("C15", 14_992, 1.01),
        Field("C18", 5652, 0.99, top=0.035, parent="C15", loyalty=0.55),
        Field("C2", 583, 0.86, parent="C18"),
        Field("C14", 27, 2.1, top=0.31, parent="C15"),
        Field("C17", 10, 1.65),
        Field("C19", 2173, 1.07, top=0.62, missing=0.44),
        Field("C20", 4, 2.4, top=0.16, missing=0.44, parent="C19", loyalty=0.52),
        Field("C22", 18, 3.5, top=0.57, missing=0.76),
        Field("C23", 15, 1.73, top=0.44),
        Field("C25", 105, 1.6, top=0.13, missing=0.44, parent="C2", loyalty=0.86),
    ),
    columns=" ".join(["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]),
    header=False,
    separator="\t",
    effects={
        "I1": 0.25,
        "I5": 0.2,
        "I6": 0.35,
        "I7": 0.3,
        "I11": 0.35,
        "I13": 0.3,
        "C2": 0.3,
        "C3": 0.15,
        "C5": 0.25,
        "C6": 0.35,
        "C7": 0.2,
        "C14": 0.4,
        "C15": 0.25,
        "C17": 0.4,
        "C20": 0.25,
        "C23": 0.4,
        "C24": 0.2,
        "C26": 0.2,
        "C2*C17": 0.23,
        "C2*C23": 0.23,
        "C6*C14": 0.23,
        "C6*C17": 0.23,
        "C6*C23": 0.23,
        "C14*C17": 0.23,
        "C14*C23": 0.23,
        "C17*C23": 0.23,
        "I11*C17": 0.23,
        "I11*C23": 0.23,
        "C6*C17*C23": 0.25,
        "C2*C14*C17": 0.25,
        "I11*C6*C14": 0.25,
    },
    base_rate=0.256,
    best_auc=0.81,
)

KDD12 = Recipe(
    fields=(
        Field("impression", 2000, 2.15, top=0.845, kind="count", first=1),
        Field("query_id", 26_243_606, 0.89, kind="number"),
        Field("keyword_id", 1_249_785, 0.88, parent="query_id", loyalty=0.67, kind="number"),
        Field("title_id", 4_051_441, 0.87, parent="query_id", loyalty=0.4, kind="number"),
        Field("description_id", 3_170_218, 0.81, parent="title_id", loyalty=0.9, kind="number"),
        Field("ad_id", 641_707, 0.82, parent="title_id", loyalty=0.8, kind="number"),
        Field("advertiser_id", 14_847, 0.91, top=0.08, parent="ad_id", kind="number", first=80),
        Field("display_url", 26_273, 0.73, parent="advertiser_id", loyalty=0.9, kind="hash"),
        Field("user_id", 23_907_634, 0.57, top=0.24, kind="number"),
        Field("depth", 3, 0.93, kind="number", first=1),
        Field("position", 3, parent="depth", coupling="bounds", kind="number", first=1),
    ),
    columns=(
        "click impression display_url ad_id advertiser_id depth position query_id keyword_id "
        "title_id description_id user_id"
    ),
    header=False,
    separator="\t",
    effects={
        "impression": 0.3,
        "position": 0.5,
        "depth": 0.4,
        "advertiser_id": 0.5,
        "display_url": 0.2,
        "ad_id": 0.15,
        "query_id": 0.15,
        "keyword_id": 0.2,
        "title_id": 0.15,
        "user_id": 0.15,
        "position*advertiser_id": 0.45,
        "depth*advertiser_id": 0.35,
        "impression*position": 0.3,
        "position*depth*impression": 0.25,
        "position*depth*advertiser_id": 0.3,
    },
    # That of the full log; samples of it in circulation have fewer negatives.
    base_rate=0.045,
    best_auc=0.79,
)

RECIPES: dict[str, Recipe] = {"criteo": CRITEO, "avazu": AVAZU, "kdd12": KDD12}


def write_log(dataset: str, path: Path, rows: int, seed: int = 2021) -> None:
    """Write a planted log of `rows` rows at `path` and its truth at `path` + ".truth.npy".

    dataset: criteo, avazu or kdd12, whose raw format and shape the log has.
    The truth is float64 (rows,), the probability that each row is clicked, in the order of the
    log. A log that exists is complete and has its truth: both are written elsewhere and renamed,
    the log last. The same arguments give the same bytes. Memory does not grow with `rows`.

    Raise `DataError` for an unknown data set, fewer rows than one, a negative seed or a .gz path.
    """
    path = Path(path)
    recipe = _recipe(dataset)
    if rows < 1:
        raise DataError(f"a log of {rows} rows: ask for at least 1")
    if seed < 0:
        raise DataError(f"seed {seed}: choose one that is not negative")
    if path.suffix == ".gz":
        raise DataError(f"{path}: the log is written uncompressed; leave out '.gz'")
    model = plant(recipe, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        log, truth = Path(scratch) / "log", Path(scratch) / "truth"
        with log.open("wb") as log_file, truth.open("wb") as truth_file:
            _write_rows(recipe, model, rows, seed, log_file, truth_file)
        # No older log may stand beside the new truth, nor the new log beside an older truth.
        path.unlink(missing_ok=True)
        truth.rename(truth_path(path))
        log.rename(path)


def truth_path(log: Path) -> Path:
    """Where the truth of the planted log at `log` is."""
    return log.with_name(log.name + TRUTH_SUFFIX)


def _recipe(dataset: str) -> Recipe:
    if dataset not in RECIPES:
        raise DataError(f"no synthetic log is like '{dataset}'; choose one of {', '.join(RECIPES)}")
    return RECIPES[dataset]


def _write_rows(
    recipe: Recipe, model: PlantedModel, rows: int, seed: int, log: BinaryIO, truth: BinaryIO
) -> None:
    shape = {"descr": "<f8", "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(truth, shape)
    for chunk, start in enumerate(range(0, rows, CHUNK_ROWS)):
        # Each chunk has a generator of its own; stream 0 is the planted model's.
        rng = np.random.default_rng([seed, chunk + 1])
        numbers = np.arange(start, min(start + CHUNK_ROWS, rows))
        values = draw_values(recipe.fields, (numbers + 0.5) / rows, rng)
        probabilities = model.probabilities(values)
        clicked = rng.random(len(numbers)) < probabilities
        _frame(recipe, values, clicked, rng).write_csv(
            log,
            include_header=recipe.header and start == 0,
            separator=recipe.separator,
            quote_style="never",
        )
        truth.write(probabilities.astype("<f8").tobytes())


def draw_values(fields: Sequence[Field], when: np.ndarray, rng: np.random.Generator) -> Values:
    """Draw a value number of every field for the rows at `when` (n,), 0..1 through the log."""
    draws: dict[str, np.ndarray] = {}  # field -> (n,) uniform on 0..1; its quantile is the value
    values: Values = {}
    absent = {
        share: rng.random(len(when)) < share
        for share in sorted({field.missing for field in fields if field.missing})
    }
    for field in fields:
        if field.kind == "hour":
            values[field.name] = _hour_at(when)
            continue
        own = rng.random(len(when))
        if field.parent and field.coupling == "bounds":
            values[field.name] = (own * (values[field.parent] + 1)).astype(np.int64)
            continue
        if field.parent and field.coupling == "excludes":
            own = 1 - draws[field.parent]
        elif field.parent:
            decided = _scatter(values[field.parent])
            own = np.where(rng.random(len(when)) < field.loyalty, decided, own)
        draws[field.name] = own
        values[field.name] = _quantile(field, own)
        if field.missing:
            values[field.name][absent[field.missing]] = MISSING
    return values


def _quantile(field: Field, share: np.ndarray) -> np.ndarray:
    """The value number below which a share `share` (n,) of the rows lies."""
    if not field.top:
        return _zipf_quantile(field.values, field.exponent, share)
    others = np.clip((share - field.top) / (1 - field.top), 0, 1)
    ranks = 1 + _zipf_quantile(field.values - 1, field.exponent, others)
    return np.where(share < field.top, 0, ranks)


def _zipf_quantile(values: int, exponent: float, share: np.ndarray) -> np.ndarray:
    """Inverse distribution function of the density x^-exponent on 1 .. values + 1, cut to 0..."""
    if exponent == 1:
        x = (values + 1) ** share
    else:
        x = (1 + share * ((values + 1) ** (1 - exponent) - 1)) ** (1 / (1 - exponent))
    return np.clip(x.astype(np.int64) - 1, 0, values - 1)


def _scatter(values: np.ndarray) -> np.ndarray:
    """Send each value to a place of its own on 0..1, evenly; the most popular value to 0."""
    turns = values * GOLDEN_RATIO
    places: np.ndarray = turns - np.floor(turns)
    return places


def _hour_at(when: np.ndarray) -> np.ndarray:
    """The hour, 0..239, of the rows at `when` (n,) of ten days that are busy around noon."""
    hours = np.arange(240)
    traffic = np.cumsum(1 - 0.6 * np.cos(hours * (2 * np.pi / 24)))
    return np.searchsorted(traffic / traffic[-1], when, side="right")


@dataclass(frozen=True)
class PlantedModel:
    """P(click) = sigmoid(bias + the sum of the planted effects).

    fields: those that have effects.
    tables: field -> (table rows, 3): what each value does by itself, then its latent vector, the
    one that all interactions of the field share. The last row is that of a missing value. Shared
    and of rank 2, the vectors can be learned from a few hundred rows of a value.
    scales: effect -> the factor that gives it its standard deviation.
    """

    fields: tuple[Field, ...]
    tables: Mapping[str, np.ndarray]
    scales: Mapping[str, float]
    bias: float

    def logits(self, values: Values) -> np.ndarray:
        """Logits (n,) of rows given by their value numbers."""
        looked_up = _look_up(self.fields, self.tables, values)
        logits = np.full(len(values[self.fields[0].name]), self.bias)
        for name, scale in self.scales.items():
            logits += scale * _unscaled_effect(name, looked_up)
        return logits

    def probabilities(self, values: Values) -> np.ndarray:
        """The truth (n,) of rows given by their value numbers."""
        return _sigmoid(self.logits(values))


def plant(recipe: Recipe, seed: int) -> PlantedModel:
    """Draw the effects of `recipe`; a pilot log sets their scales, the base rate and best AUC."""
    rng = np.random.default_rng([seed, 0])
    pilot = draw_values(recipe.fields, (np.arange(PILOT_ROWS) + 0.5) / PILOT_ROWS, rng)
    named = {name for effect in recipe.effects for name in effect.split("*")}
    fields = tuple(field for field in recipe.fields if field.name in named)
    tables = {field.name: _draw_table(field, pilot[field.name], rng) for field in fields}
    looked_up = _look_up(fields, tables, pilot)
    scales = {
        effect: weight / float(_unscaled_effect(effect, looked_up).std())
        for effect, weight in recipe.effects.items()
    }
    logits = np.sort(PlantedModel(fields, tables, scales, bias=0.0).logits(pilot))
    thinned = logits[:: PILOT_ROWS // 4096]
    scale, bias = _calibrate(thinned, recipe.base_rate, recipe.best_auc)
    scales = {effect: scale * own for effect, own in scales.items()}
    return PlantedModel(fields, tables, scales, bias)


def _draw_table(field: Field, pilot: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random (table rows, 3), a number and a vector for each value, centred over `pilot` (n,).

    They are points of circles, so that every value has about as much to say as any other.
    Centred, an interaction of independent fields holds nothing that they would tell one by one.
    """
    rows = _table_rows(field)
    if field.kind == "count":
        alone, joint = rng.normal(0, 0.5, (rows, 2)).cumsum(axis=0).T
    else:
        alone, joint = rng.uniform(0, 2 * np.pi, (rows, 2)).T
    table = np.stack([np.cos(alone), np.cos(joint), np.sin(joint)], axis=1)
    table -= table.take(_places(field, pilot), axis=0).mean(axis=0)
    return table


def _look_up(
    fields: Sequence[Field], tables: Mapping[str, np.ndarray], values: Values
) -> dict[str, np.ndarray]:
    """field -> (n, 3), the rows of the tables that `values` select."""
    return {
        field.name: tables[field.name].take(_places(field, values[field.name]), axis=0)
        for field in fields
    }


def _unscaled_effect(name: str, looked_up: Mapping[str, np.ndarray]) -> np.ndarray:
    """The effect (n,) of a field, or of a combination such as "site_id*C14"."""
    first, *others = name.split("*")
    if not others:
        return looked_up[first][:, 0]
    vectors = looked_up[first][:, 1:]
    for other in others:
        vectors = vectors * looked_up[other][:, 1:]  # (n, 2)
    effect: np.ndarray = vectors[:, 0] + vectors[:, 1]
    return effect


def _places(field: Field, values: np.ndarray) -> np.ndarray:
    """The row of the field's tables for each of `values` (n,)."""
    if field.kind == "count":
        places = _magnitude(values)
    else:
        places = values % (24 if field.kind == "hour" else TABLE_ROWS)
    return np.where(values == MISSING, -1, places) if field.missing else places


def _table_rows(field: Field) -> int:
    """One row for each place that a value can have, and one for the missing value."""
    if field.kind == "count":
        return int(_magnitude(np.array(field.values - 1))) + 2
    return min(field.values, TABLE_ROWS) + 1


def _magnitude(values: np.ndarray) -> np.ndarray:
    """Quantities (n,) on a log scale, four steps for each factor of e."""
    steps = 4 * np.log1p(np.maximum(values, 0))
    return np.asarray(steps, dtype=np.int64)


def _calibrate(logits: np.ndarray, base_rate: float, best_auc: float) -> tuple[float, float]:
    """Scale and bias for rising `logits` (n,), so that the clicks have this rate and best AUC."""

    def bias_at(scale: float) -> float:
        return _solve(
            lambda bias: float(_sigmoid(scale * logits + bias).mean()), base_rate, -30, 30
        )

    def auc_at(scale: float) -> float:
        return _expected_auc(_sigmoid(scale * logits + bias_at(scale)))

    scale = _solve(auc_at, best_auc, 0, 10)
    return scale, bias_at(scale)


def _solve(rising: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where in low .. high the function `rising` has the value `target`, by bisection."""
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return low


def _expected_auc(truth: np.ndarray) -> float:
    """The AUC of rising probabilities (n,) over the clicks that they give, in expectation."""
    unclicked = 1 - truth
    outranked = np.cumsum(unclicked) - unclicked / 2
    return float((truth * outranked).sum() / (truth.sum() * unclicked.sum()))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    odds: np.ndarray = np.exp(logits)
    probabilities: np.ndarray = odds / (1 + odds)
    return probabilities


def _frame(
    recipe: Recipe, values: Values, clicked: np.ndarray, rng: np.random.Generator
) -> pl.DataFrame:
    """The rows of the raw file, its columns in order."""
    clicks = clicked.astype(np.int64)
    if "impression" in values:
        # KDD12 counts the clicks of several impressions.
        clicks += clicked & (values["impression"] > 0) & (rng.random(len(clicks)) < 0.2)
    columns = {field.name: _written(field, values[field.name]) for field in recipe.fields}
    columns["label"] = columns["click"] = pl.Series(clicks)
    columns["id"] = pl.Series(rng.integers(2**64, size=len(clicks), dtype=np.uint64))
    return pl.DataFrame({name: columns[name] for name in recipe.columns.split()})


def _written(field: Field, values: np.ndarray) -> pl.Series:
    """`values` (n,) as they stand in the raw file; a missing one is null."""
    match field.kind:
        case "hex":
            column = _hex_names(values, salt=zlib.crc32(field.name.encode()))
        case "hash":
            column = pl.Series((values.astype(np.uint64) + np.uint64(1)) * ODD_64)
        case "hour":
            day, hour = np.divmod(values, 24)
            column = pl.Series(14102100 + 100 * day + hour)
        case "number" | "count":
            column = pl.Series(values + field.first)
    if field.missing:
        column = column.set(pl.Series(values == MISSING), None)
    return column


def _hex_names(values: np.ndarray, salt: int) -> pl.Series:
    """Eight hexadecimal digits for each of `values` (n,), other ones for another value or salt."""
    mixed = (values.astype(np.uint32) + np.uint32(1)) * ODD_32 ^ np.uint32(salt)  # one to one
    digits = np.stack([HEX_DIGITS[mixed >> 16], HEX_DIGITS[mixed & 0xFFFF]], axis=1)
    ends = np.arange(0, digits.nbytes + 1, 8, dtype=np.int32)
    names = pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(digits))
    return pl.Series(names)


def main(argv: Sequence[str] | None = None) -> int:
    """Write one log and print how long it took; return the exit code."""
    arguments = _parse_arguments(argv)
    started = time.perf_counter()
    try:
        write_log(arguments.dataset, arguments.output, arguments.rows, arguments.seed)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - started
    print(
        f"{arguments.output}: {arguments.rows:,} rows in {seconds:.2f} s "
        f"({arguments.rows / seconds:,.0f} rows/s)"
    )
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data.synthetic", description="Write a planted click log and its truth."
    )
    parser.add_argument("dataset", choices=list(RECIPES))
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=2021)
    parser.add_argument("--output", type=Path, required=True, metavar="PATH")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
