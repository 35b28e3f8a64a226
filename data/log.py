"""A log to prepare: its files, how they are laid out, what is made of a row, how rows are split."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from data.raw import RawFormat, raw_format
from data.schema import DataError
from data.split import SplitRule

# Format -> the separator of its columns.
SEPARATORS = {"csv": ",", "tsv": "\t"}
FORMATS = (*SEPARATORS, "parquet")


@dataclass(frozen=True)
class Layout:
    """How the files of a user's own log are laid out. What is None goes by the format.

    format: one of `FORMATS`; None goes by each file's suffix. quotes: a value may stand in double
    quotes, and then hold separators, line ends and, doubled, quotes. columns: their names where
    the file does not say them.
    """

    format: str | None = None
    separator: str | None = None
    quotes: bool | None = None
    columns: tuple[str, ...] | None = None

    def of(self, path: Path) -> Layout:
        """The same with the format known, by the file's suffix; raise `DataError` if it is not."""
        suffix = path.name.lower().removesuffix(".gz").rpartition(".")[2]
        name = self.format or suffix
        if name not in FORMATS:
            raise DataError(
                f"{path}: what format is it? Say so in the log's description, as `format: csv`; "
                f"known are {', '.join(FORMATS)}"
            )
        return replace(
            self,
            format=name,
            separator=self.separator or SEPARATORS.get(name),
            quotes=name == "csv" if self.quotes is None else self.quotes,
        )


@dataclass(frozen=True)
class OwnRecipe:
    """What sets a user's own log apart from the official ones.

    time: expression for the time of a row, where the split needs it. description: of layout,
    label and fields, from which other rows can be encoded in the same way.
    """

    layout: Layout
    time: pl.Expr | None = None
    description: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Log:
    """A log to prepare as the data set `dataset`. own: None for an official format."""

    dataset: str
    files: tuple[Path, ...]
    format: RawFormat
    split: SplitRule
    own: OwnRecipe | None = None

    @property
    def description(self) -> Mapping[str, Any] | None:
        """What `schema.yaml` must keep of it, beside the name of the data set."""
        return self.own.description if self.own else None


def official_log(dataset: str, *files: Path) -> Log:
    """A log in one of the official formats; raise `DataError` for an unknown name."""
    return Log(dataset, files, raw_format(dataset), SplitRule())


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for an unknown name: the nearest known one, and all of them."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown {kind} '{name}'; {guess}known: {', '.join(names) or 'none'}"
