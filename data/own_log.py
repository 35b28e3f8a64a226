"""A user's own log, described by a YAML file instead of code.

    files: clicks-*.csv            # one, several, patterns; relative to this file
    format: csv                    # csv, tsv or parquet; default: by the files' suffix
    separator: ";"                 # default: a comma for csv, a tab for tsv
    quotes: true                   # default: true for csv, false for tsv
    columns: [time, ad, clicked]   # their names, for files without a header
    label: {column: action, equals: click}      # or greater_than: 0; `label: clicked` is 0 or 1
    fields:
      price: log2                  # none, log2, hour, weekday, is_weekend, drop
      hour: {column: time, transform: hour, time: unix}    # iso, unix, unix_ms, yymmddhh
      user: {threshold: 10}
    other_columns: keep            # or drop: those that nothing above names
    threshold: 2                   # of fields that are taken as they are
    split: {rule: time, column: time, time: unix, shares: [8, 1, 1]}

Only `files` and `label` must be there. Every mistake is a `DataError` that names the file, the
place in it, the value and the nearest known name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any, cast

import polars as pl
import yaml

from data.log import FORMATS, Layout, Log, OwnRecipe, unknown_name
from data.own_chunks import column_names
from data.raw import RawFormat, Rule
from data.schema import LABEL, PREPARE_AGAIN, SCHEMA_FILE, SPLITS, DataError, Schema
from data.split import SHARES, SPLIT_SEED, RuleName, SplitRule
from data.transforms import (
    HOUR_PARTS,
    TIME_FORMATS,
    TRANSFORMS,
    field_expression,
    instant_expression,
    label_as_it_is,
    label_equals,
    label_greater_than,
)

LAYOUT_KEYS = ("format", "separator", "quotes", "columns")
RECIPE_KEYS = (*LAYOUT_KEYS, "label", "fields", "other_columns", "threshold")
TEXT_KEYS = ("label", "column", "columns", "equals", "separator")  # whose values are texts
NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
SPLIT_RULES = ("random", "stratified", "time", "files")
DEFAULT_THRESHOLD = 2
DEFAULT_TIME = "iso"
OTHERS = ("keep", "drop")
# numpy's legacy generator, which the official split draws from, takes none above it.
MOST_SEED = 2**32 - 1


def read_own_log(description: Path, dataset: str, raw: Sequence[Path] = ()) -> Log:
    """The log that a YAML file describes, to be prepared as `dataset`; `raw` replaces its files.

    Raise `DataError` for a description that is wrong in itself or does not fit the first file.
    """
    place = Place(description)
    content = _mapping(_load(description), place, ("files", *RECIPE_KEYS, "split"))
    split, of_splits = _read_split(content.get("split", "random"), place / "split")
    if of_splits:
        for given, what in ((raw, "--raw"), (content.get("files"), "`files:`")):
            if given:
                raise place.error(f"{what} and a split by files exclude each other; leave one out")
        found = {name: _find(of_splits[name], place / "split" / name) for name in SPLITS}
        files = tuple(path for paths in found.values() for path in paths)
        names = {name: tuple(path.name for path in paths) for name, paths in found.items()}
        split = replace(split, files=names)
    elif raw:
        files = tuple(raw)
    else:
        files = _find(_needed(content, "files", place), place / "files")
    return _with_recipe(content, place, dataset, files, split)


def like_log(schema: Schema, folder: Path, dataset: str, raw: Sequence[Path]) -> Log:
    """A log whose rows are made into fields as those of the data set in `folder` were."""
    assert schema.log is not None
    place = Place(folder / SCHEMA_FILE) / "log"
    content = _mapping(schema.log, place, RECIPE_KEYS)
    log = _with_recipe(content, place, dataset, tuple(raw), SplitRule("test"))
    fields, thresholds = log.format.fields, log.format.thresholds
    if set(fields) != set(schema.field_names):
        raise (place / "fields").error(
            f"{', '.join(fields)} are not the data set's, {', '.join(schema.field_names)}; "
            f"{PREPARE_AGAIN}"
        )
    in_order = replace(
        log.format,
        fields={name: fields[name] for name in schema.field_names},
        thresholds={name: thresholds[name] for name in schema.field_names},
    )
    return replace(log, format=in_order)


@dataclass(frozen=True)
class Place:
    """A place in a YAML file, for messages."""

    file: Path
    keys: tuple[str, ...] = ()

    def __truediv__(self, key: str) -> Place:
        return Place(self.file, (*self.keys, key))

    def error(self, message: str) -> DataError:
        return DataError(": ".join([str(self.file), *self.keys, message]))


# --------------------------------------------------------------------- recipe


def _with_recipe(
    content: Mapping[str, Any],
    place: Place,
    dataset: str,
    files: tuple[Path, ...],
    split: SplitRule,
) -> Log:
    """The log of these files by the keys `RECIPE_KEYS` of a description."""
    layout = _read_layout(content, place)
    columns = column_names(files[0], layout)
    known = _Columns(columns, files[0])
    label_column, label, rule = _read_label(content.get("label"), place / "label", known)
    rules = [rule]
    time, taken = None, {label_column}
    if split.rule == "time":
        known.check(split.column, place / "split" / "column")
        time, rule = instant_expression(split.column, split.time)
        rules.append(rule)
        taken.add(split.column)
    described = _read_fields(content, place, known, taken)
    fields = {}
    for name, field in described.items():
        if field["column"] == label_column:
            raise (place / "fields" / name).error(
                f"'{label_column}' is the label's column, which no field may tell; remove the field"
            )
        fields[name], rule = field_expression(
            field["column"], field["transform"], field.get("time", DEFAULT_TIME)
        )
        rules.append(rule)
    description = {key: content[key] for key in (*LAYOUT_KEYS, "label") if key in content}
    log_format = RawFormat(
        dataset=dataset,
        suffix="",
        separator=layout.separator or "",
        header=layout.columns is None,
        columns=columns,
        label=label,
        fields=fields,
        thresholds={name: field["threshold"] for name, field in described.items()},
        rules=tuple(rule for rule in rules if rule is not None),
    )
    description |= {"fields": described, "other_columns": "drop"}
    return Log(dataset, files, log_format, split, OwnRecipe(layout, time, description))


def _read_fields(
    content: Mapping[str, Any], place: Place, known: _Columns, taken: set[str]
) -> dict[str, dict[str, Any]]:
    """Every field in order, with column, transform and threshold: those that are asked for, then
    the columns that neither these nor `taken` use.
    """
    threshold = _whole(content.get("threshold", DEFAULT_THRESHOLD), place / "threshold", 1)
    others = _one_of(content.get("other_columns", "keep"), place / "other_columns", OTHERS)
    place /= "fields"
    asked = {
        name: _read_field(name, entry, place / name, known)
        for name, entry in _mapping(content.get("fields", {}), place).items()
    }
    used = taken | {field["column"] for field in asked.values()}
    if others == "keep":
        left = [name for name in known.names if name not in used]
        for name in left:
            if name in asked:
                raise (place / name).error(
                    f"it is made of the column '{asked[name]['column']}', and there is a column "
                    f"'{name}' too; call the field otherwise, or say what becomes of the column, "
                    f"as `its_{name}: {{column: {name}}}` or `... transform: drop`"
                )
        asked |= {name: {"column": name, "transform": "none"} for name in left}
    fields = {name: field for name, field in asked.items() if field["transform"] != "drop"}
    for name, field in fields.items():
        if name == LABEL:
            raise place.error(
                f"a field cannot be called '{LABEL}'; give it another name, as "
                f"`its_{LABEL}: {{column: {LABEL}}}`, or drop it with `{LABEL}: drop`"
            )
        # Buckets and hours are few: all of them are kept.
        field.setdefault("threshold", threshold if field["transform"] == "none" else 1)
    if not fields:
        raise place.error("no column is left to be a field; name one here")
    return fields


class _Columns:
    """The columns of a log's first file, which a description must keep to."""

    def __init__(self, names: Sequence[str], path: Path) -> None:
        self.names, self.path = names, path

    def check(self, name: str, place: Place) -> str:
        if name not in self.names:
            raise place.error(f"{unknown_name('column', name, self.names)} (in {self.path})")
        return name


def _read_layout(content: Mapping[str, Any], place: Place) -> Layout:
    read: dict[str, Any] = {}
    if "format" in content:
        read["format"] = _one_of(content["format"], place / "format", FORMATS)
    if "separator" in content:
        read["separator"] = _text(content["separator"], place / "separator")
        if len(read["separator"].encode()) != 1 or read["separator"] in '"\r\n\0':
            raise (place / "separator").error(f"{read['separator']!r} is not one character")
    if "quotes" in content:
        if not isinstance(content["quotes"], bool):
            raise (place / "quotes").error(f"{content['quotes']!r} is neither true nor false")
        read["quotes"] = content["quotes"]
    if "columns" in content:
        names = _several(content["columns"], place / "columns")
        read["columns"] = tuple(_text(name, place / "columns") for name in names)
    return Layout(**read)


def _read_label(entry: object, place: Place, known: _Columns) -> tuple[str, pl.Expr, Rule | None]:
    """The column of the label, its expression for 0 or 1, and what the column must hold."""
    if entry is None:
        raise place.error(
            f"missing: which column says what was clicked? ({', '.join(known.names)})"
        )
    if not isinstance(entry, Mapping):
        entry = {"column": entry}
    content = _mapping(entry, place, ("column", "equals", "greater_than"))
    column = known.check(_text(_needed(content, "column", place), place), place / "column")
    if len(content) > 2:
        raise place.error("`equals` and `greater_than` exclude each other; leave one out")
    rule: Rule | None
    if "equals" in content:
        values = _several(content["equals"], place / "equals")
        texts = [_text(value, place / "equals") for value in values]
        expression, rule = label_equals(column, texts)
    elif "greater_than" in content:
        bound = content["greater_than"]
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise (place / "greater_than").error(f"{bound!r} is not a number")
        expression, rule = label_greater_than(column, bound)
    else:
        expression, rule = label_as_it_is(column)
    return column, expression, rule


def _read_field(name: str, entry: object, place: Place, known: _Columns) -> dict[str, Any]:
    """Column and transform of a field; its time format and threshold where they are given."""
    if entry is None:
        entry = {}
    if not isinstance(entry, Mapping):
        entry = {"transform": entry}
    content = _mapping(entry, place, ("column", "transform", "time", "threshold"))
    field: dict[str, Any] = {
        "column": known.check(_text(content.get("column", name), place), place / "column"),
        "transform": _one_of(content.get("transform", "none"), place / "transform", TRANSFORMS),
    }
    if "time" in content:
        if field["transform"] not in HOUR_PARTS:
            raise (place / "time").error(f"only goes with transform {', '.join(HOUR_PARTS)}")
        field["time"] = _one_of(content["time"], place / "time", TIME_FORMATS)
    if "threshold" in content:
        field["threshold"] = _whole(content["threshold"], place / "threshold", 1)
    return field


# ---------------------------------------------------------------------- split


def _read_split(entry: object, place: Place) -> tuple[SplitRule, Mapping[str, Any]]:
    """The rule, and for a split by files what names the files of each split."""
    if not isinstance(entry, Mapping):
        entry = {"rule": entry}
    rule = cast(RuleName, _one_of(_needed(entry, "rule", place), place / "rule", SPLIT_RULES))
    more = {"time": ("shares", "column", "time"), "files": SPLITS}.get(rule, ("shares",))
    content = _mapping(entry, place, ("rule", "seed", *more))
    seed = _whole(content.get("seed", SPLIT_SEED), place / "seed", 0)
    if seed > MOST_SEED:
        raise (place / "seed").error(f"{seed} is above the largest seed, {MOST_SEED}")
    if rule == "files":
        return SplitRule(rule, seed), {part: _needed(content, part, place) for part in SPLITS}
    shares = _read_shares(content.get("shares", SHARES), place / "shares")
    if rule == "time":
        column = _text(_needed(content, "column", place), place / "column")
        time = _one_of(content.get("time", DEFAULT_TIME), place / "time", TIME_FORMATS)
        return SplitRule(rule, seed, shares, column, time), {}
    return SplitRule(rule, seed, shares), {}


def _read_shares(value: Any, place: Place) -> tuple[float, float, float]:
    numbers = list(value) if isinstance(value, list | tuple) else []
    good = [
        number for number in numbers if type(number) in (int, float) and 0 < number < float("inf")
    ]
    if len(numbers) != 3 or len(good) != 3:
        raise place.error(
            f"{value!r} is not three numbers above 0, of train, val and test, as [8, 1, 1]"
        )
    train, val, test = good
    return train, val, test


def _find(patterns: Any, place: Place) -> tuple[Path, ...]:
    """The files of one or several names or patterns, those of a pattern in alphabetical order."""
    folder = place.file.parent
    found: list[Path] = []
    for pattern in _several(patterns, place):
        path = folder / _text(pattern, place)
        matches = [path] if path.is_file() else _matches(folder, str(pattern), place)
        if not matches:
            raise place.error(f"no file '{pattern}' in {folder.resolve()}")
        found += matches
    return tuple(found)


def _matches(folder: Path, pattern: str, place: Place) -> list[Path]:
    """The files of a pattern, which is relative to the folder unless it is absolute."""
    whole = Path(escape(str(folder))) / pattern  # a folder's own name is no pattern
    anchor = Path(whole.anchor)
    try:
        paths = sorted(anchor.glob(str(whole.relative_to(anchor))))
    except (ValueError, IndexError, NotImplementedError) as error:
        raise place.error(
            f"'{pattern}' is neither a file nor a pattern, as clicks*.csv or **/clicks.csv"
        ) from error
    return [path for path in paths if path.is_file()]


# --------------------------------------------------------------------- values


def _load(path: Path) -> Any:
    try:
        text = path.read_text()
        tree = yaml.compose(text, yaml.SafeLoader)
        _refuse_repeated_keys(tree, path)
        _refuse_rewritten_texts(tree, path)
        return yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: unreadable ({error}); --log names the log's YAML file") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    except ValueError as error:  # 2024-02-30
        raise DataError(
            f"{path}: YAML takes a text for a date or a number that there is not ({error}); put it "
            f"in quotes"
        ) from error


def _refuse_repeated_keys(node: yaml.Node | None, path: Path) -> None:
    """YAML's own reader takes the last of them in silence."""
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value]
        for number, (key, value) in enumerate(node.value):
            if key.value in names[:number]:
                line = key.start_mark.line + 1
                raise DataError(f"{path}, line {line}: '{key.value}' is there twice; remove one")
            _refuse_repeated_keys(value, path)


def _refuse_rewritten_texts(node: yaml.Node | None, path: Path) -> None:
    """YAML reads 010 as 8, 1.10 as 1.1 and 12:30 as 750, which are other texts."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        _refuse_rewritten_texts(value, path)
        several = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for one in several if key.value in TEXT_KEYS else []:
            if one.tag in NUMBER_TAGS and str(yaml.safe_load(one.value)) != one.value:
                raise DataError(
                    f"{path}, line {one.start_mark.line + 1}: YAML reads {one.value} as "
                    f"{yaml.safe_load(one.value)}; put it in quotes"
                )


def _mapping(value: Any, place: Place, known: Iterable[str] | None = None) -> dict[str, Any]:
    """A mapping with keys of text, of the known ones alone where these are given."""
    if not isinstance(value, Mapping):
        raise place.error(f"{value!r} is not a mapping (`key: value`)")
    content = {_text(key, place): entry for key, entry in value.items()}
    for key in content:
        if known is not None and key not in known:
            raise place.error(unknown_name("key", key, known))
    return content


def _needed(content: Mapping[str, Any], key: str, place: Place) -> Any:
    if key not in content:
        raise place.error(f"`{key}` is missing")
    return content[key]


def _several(value: Any, place: Place) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise place.error("an empty list")
    return values


def _text(value: Any, place: Place) -> str:
    if isinstance(value, bool):
        raise place.error(
            f"YAML reads yes, no, on, off, true and false as {value}; put the text in quotes"
        )
    if not isinstance(value, str | int | float) or value == "":
        raise place.error(f"{value!r} is not a text")
    return str(value)


def _whole(value: Any, place: Place, least: int) -> int:
    if type(value) is not int or value < least:
        raise place.error(f"{value!r} is not a whole number of at least {least}")
    return value


def _one_of(value: Any, place: Place, known: Iterable[str]) -> str:
    names = list(known)
    if value not in names:
        raise place.error(unknown_name("value", value, names))
    return str(value)
