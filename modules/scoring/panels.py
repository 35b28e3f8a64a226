"""A grid of panels: one a group, told apart by shape and dash as well as by colour."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by the colour-blind; shapes and dashes tell them in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, RED, GREEN, PINK, ORANGE, SKY = COLOURS
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PANELS_A_ROW = 4
TITLE_SIZE, NOTE_SIZE = 11, 8  # of text, in points
MAX_SIZES = 16  # of K that are marked in a panel

LINE: dict[str, Any] = {"linewidth": 1.3, "markersize": 4.5, "elinewidth": 0.9, "capsize": 2}


def make_panels(
    names: Sequence[str], *, height: float, sharey: bool = False
) -> tuple[Figure, dict[str, Axes]]:
    """A grid with a panel for each name, in reading order; the cells left over are empty."""
    columns = min(PANELS_A_ROW, len(names))
    rows = math.ceil(len(names) / columns)
    size = (max(6.4, 3.2 * columns), height * rows + 1.2)
    figure = Figure(figsize=size, layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False, sharey=sharey).flatten()
    for cell in cells[len(names) :]:
        cell.remove()
    panels = dict(zip(names, cells, strict=False))
    for panel in panels.values():
        panel.grid(color="0.9", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=8)
    return figure, panels


def finish(figure: Figure, panels: dict[str, Axes], title: str, note: str) -> None:
    """Title, note, and one legend for every label of any panel."""
    figure.suptitle(_wrapped(figure, title, TITLE_SIZE), fontsize=TITLE_SIZE)
    entries = {
        label: handle
        for panel in panels.values()
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(entries.values()),
        list(entries),
        title=_wrapped(figure, note, NOTE_SIZE),
        title_fontsize=NOTE_SIZE,
        loc="outside lower center",
        ncols=max(1, min(len(entries), 5)),
        frameon=False,
        fontsize=NOTE_SIZE,
    )


def _wrapped(figure: Figure, text: str, size: float) -> str:
    """In lines that fit into the figure: a letter is up to 0.6 of its size (in points) wide."""
    inches = figure.get_figwidth()
    return textwrap.fill(text, int(inches * 72 / (0.6 * size)))


def label_axes(panels: dict[str, Axes], x: str, y: str) -> None:
    """Axis labels where a panel has none below it, or none to its left."""
    cells = list(panels.values())
    for i, cell in enumerate(cells):
        if i + PANELS_A_ROW >= len(cells):
            cell.set_xlabel(x, fontsize=9)
        if i % PANELS_A_ROW == 0:
            cell.set_ylabel(y, fontsize=9)


def thin(rows: pd.DataFrame) -> pd.DataFrame:
    """Few enough sizes to be told apart, the first and the last among them."""
    places = np.linspace(0, len(rows) - 1, min(len(rows), MAX_SIZES)).round().astype(int)
    return rows.iloc[places]
