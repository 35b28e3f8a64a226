"""Tables as text: Markdown for the report, plain for the terminal, LaTeX for a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate


@dataclass(frozen=True)
class Layout:
    """A titled table of ready cells; a newline in a header is for the terminal."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def render(self, style: str) -> str:
        """In a tabulate style: `simple`, `pipe` (Markdown), `latex_booktabs`."""
        header = list(self.header)
        if style != "simple":
            header = [name.replace("\n", " ") for name in header]
        aligned = ["left"] + ["right"] * (len(header) - 1)
        return tabulate(self.rows, header, tablefmt=style, disable_numparse=True, colalign=aligned)


def number(value: float, digits: int = 5, *, sign: str = "") -> str:
    """A number of fixed digits without a negative zero; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:{sign}z.{digits}f}"


def with_sd(mean: float, sd: float, *, sign: str = "") -> str:
    """ "0.76475 (0.00030)"; the sd only where it is known."""
    return number(mean, sign=sign) + ("" if math.isnan(sd) else f" ({sd:.5f})")


def interval(low: float, high: float) -> str:
    """ "[+0.00170, +0.00250]"."""
    return f"[{low:+z.5f}, {high:+z.5f}]"


def short(count: float) -> str:
    """A short count, 194584 as "195k"."""
    count = float(f"{count:.3g}")
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"
