"""Test AUC and log loss against multiply-adds: the picture of the comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from modules.scoring.about import About
from modules.scoring.budget import MERGED
from modules.scoring.groups import ALL, MIXED, SELECTED
from modules.scoring.layout import short
from modules.scoring.members import BASE
from modules.scoring.panels import (
    BLUE,
    GREEN,
    LINE,
    ORANGE,
    PINK,
    RED,
    SKY,
    finish,
    label_axes,
    make_panels,
)
from modules.scoring.pools import POOLS

ARMS = {  # colour and shape of each kind of arm; a kind without an entry is a grey hexagon
    "width": (BLUE, "s"),
    "depth": (RED, "^"),
    "joint": (GREEN, "D"),
    "multi": (PINK, "v"),
    "soup": (ORANGE, "X"),
    "soup-late": (SKY, "P"),
    ALL: ("black", "p"),
}

MERGES = {MERGED: ("black", "*", "-"), MIXED: (GREEN, "o", "none"), SELECTED: (RED, "s", "none")}


def draw_cost(about: About, budget: pd.DataFrame, metric: str) -> Figure:
    """Test AUC or log loss against multiply-adds: arms, merges, and the base they start from."""
    against_base = budget[budget["against"] == BASE]
    name = {"auc": "AUC", "logloss": "log loss"}[metric]
    groups = list(against_base["group"].unique())
    figure, panels = make_panels(groups, height=2.9)
    for group, panel in panels.items():
        rows = against_base[against_base["group"] == group]
        base = rows[rows["contender"] == BASE].iloc[0]
        _scale_by_factor(panel, rows["factor"])
        _scale_by_score(panel, rows, metric)
        _draw_base(panel, about.arm, base[f"test_{metric}"], base[f"{metric}_noise"])
        for contender in MERGES:
            _draw_merges(panel, rows[rows["contender"] == contender], contender, metric)
        scores = list(zip(rows["contender"], rows[f"test_{metric}"], strict=True))
        if about.best is not None:
            scores.append(("best possible", getattr(about.best, metric)))
            _draw_best(panel, scores[-1][1])
        shown = rows[f"test_{metric}"].between(*panel.get_ylim())
        _draw_arms(panel, rows[shown & ~rows["contender"].isin([BASE, *MERGES])], metric)
        _note_outside(panel, scores)
        title = f"several models, against {base['base_model']}" if group == ALL else group
        panel.set_title(f"{title}\n1x = {short(base['macs_per_row'])} multiply-adds", fontsize=9)
    label_axes(panels, f"multiply-adds a row, {about.arm} = 1x", f"test {name}")
    finish(
        figure,
        panels,
        f"Where an inference budget goes on the {about.log}: test {name}",
        f"Merges: {POOLS[about.pool].title}. Bars: 95 % interval of the difference to the "
        f"{about.arm} on these rows.",
    )
    return figure


def _draw_base(panel: Axes, arm: str, value: float, noise: float) -> None:
    panel.axhline(value, color="0.35", linestyle="--", linewidth=1, label=f"{arm}, mean member")
    if not math.isnan(noise):
        panel.axhspan(
            value - noise, value + noise, color="0.9", zorder=0, label="its sd over seeds"
        )


def _draw_merges(panel: Axes, rows: pd.DataFrame, contender: str, metric: str) -> None:
    if rows.empty:
        return
    colour, marker, dash = MERGES[contender]
    labels = {
        MERGED: "K members merged",
        MIXED: "K models, a member each",
        SELECTED: "K members chosen on validation",
    }
    panel.errorbar(
        rows["factor"],
        rows[f"test_{metric}"],
        yerr=_bars(rows, metric),
        color=colour,
        marker=marker,
        linestyle=dash,
        label=labels[contender],
        **{**LINE, "markersize": 7 if marker == "*" else 4.5},
    )


def _draw_arms(panel: Axes, rows: pd.DataFrame, metric: str) -> None:
    """Arms of one kind share a colour and a shape; kinds stand a little apart."""
    kinds = rows["contender"].str.split(":").str[0]
    shifts = cycle(2.0**shift for shift in (-0.06, 0.06, -0.12, 0.12, -0.18, 0.18))
    for kind in kinds.unique():
        colour, marker = ARMS.get(kind, ("0.4", "h"))
        of_kind = rows[kinds == kind]
        panel.errorbar(
            of_kind["factor"] * (1.0 if kind == ALL else next(shifts)),
            of_kind[f"test_{metric}"],
            yerr=_bars(of_kind, metric),
            color=colour,
            marker=marker,
            linestyle="none",
            label="all members merged" if kind == ALL else kind,
            **{**LINE, "markersize": 6},
        )


def _bars(rows: pd.DataFrame, metric: str) -> np.ndarray:
    half = _half_interval(rows, metric)
    return np.vstack([half, half])


def _half_interval(rows: pd.DataFrame, metric: str) -> pd.Series:
    return (rows[f"{metric}_high"] - rows[f"{metric}_low"]) / 2


def _scale_by_factor(panel: Axes, factors: pd.Series) -> None:
    """Logarithmic to base 2, with ticks at 1x, 2x, 4x ... within what is shown."""
    first = math.floor(math.log2(factors.min()) + 1e-9)
    last = math.ceil(math.log2(factors.max()) - 1e-9)
    step = max(1, math.ceil((last - first) / 6))
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_locator(FixedLocator([2.0**i for i in range(first, last + 1, step)]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    panel.set_xlim(2.0 ** (math.log2(factors.min()) - 0.4), 2.0 ** (math.log2(factors.max()) + 0.4))
    panel.ticklabel_format(axis="y", useOffset=False)


def _scale_by_score(panel: Axes, rows: pd.DataFrame, metric: str) -> None:
    """Fit the panel to base, merges and arms, but for arms that are far worse.

    An arm that fails, as averaged weights of independent seeds do, would squeeze all others.
    """
    noise = rows[f"{metric}_noise"].fillna(0.0)
    half = _half_interval(rows, metric).where(rows["contender"] != BASE, noise)
    score = rows[f"test_{metric}"]
    central = rows["contender"].isin([BASE, *MERGES])
    low, high = (score - half)[central].min(), (score + half)[central].max()
    reach = max(high - low, 1e-6)
    shown = score >= low - reach if metric == "auc" else score <= high + reach
    while True:
        low, high = (score - half)[shown].min(), (score + half)[shown].max()
        margin = 0.06 * max(high - low, 1e-6)
        also = score.between(low - 2 * margin, high + 2 * margin)  # markers at the edge
        if also.equals(shown):
            break
        shown = also
    panel.set_ylim(low - margin, high + margin)


def _draw_best(panel: Axes, best: float) -> None:
    """Draw the line if it does not squeeze the rest."""
    low, high = panel.get_ylim()
    if not low - (high - low) <= best <= high + (high - low):
        return
    panel.axhline(best, color=PINK, linewidth=1.5, label="best possible")
    margin = 0.06 * (high - low)
    panel.set_ylim(min(low, best - margin), max(high, best + margin))


def _note_outside(panel: Axes, scores: Sequence[tuple[str, float]]) -> None:
    """Name what lies beyond the panel at the edge that it lies beyond."""
    low, high = panel.get_ylim()
    for above in (True, False):
        names = [
            f"{name} {score:.4f} {'↑' if above else '↓'}"
            for name, score in scores
            if (score > high if above else score < low)
        ]
        if names:
            panel.annotate(
                "\n".join(names),
                xy=(0.03, 0.97 if above else 0.03),
                xycoords="axes fraction",
                va="top" if above else "bottom",
                fontsize=7.5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
                zorder=1,  # under bars that reach the edge
            )
