"""The pictures of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from modules.scoring.about import About
from modules.scoring.cost_picture import draw_cost
from modules.scoring.curve import Curve
from modules.scoring.members import BASE
from modules.scoring.panels import (
    BLUE,
    LINE,
    RED,
    finish,
    label_axes,
    make_panels,
    thin,
)
from modules.scoring.pools import POOLS, shown_pool
from modules.scoring.tables import Tables


def draw_pictures(tables: Tables) -> dict[str, Figure]:
    """The figures by file name; those that need more than there is are left out."""
    pictures = {}
    if (tables.budget["contender"] != BASE).any():
        for metric in ("auc", "logloss"):
            pictures[f"cost_{metric}.png"] = draw_cost(tables.about, tables.budget, metric)
    pictures["gain.png"] = draw_gain(tables.about, tables.merged)
    if len(tables.curve):
        pictures["curve.png"] = draw_curve(tables.about, tables.merged, tables.curve)
    if len(tables.diversity) > 1:
        pictures["pairs.png"] = draw_pairs(tables.about, tables.diversity)
        pictures["diversity.png"] = draw_diversity(tables.about, tables.diversity)
    if len(tables.calibration):
        pictures["calibration.png"] = draw_calibration(tables.about, tables.calibration)
    return pictures


def draw_gain(about: About, merged: pd.DataFrame) -> Figure:
    """Gain over the mean member against K in AUC and log loss, a panel a group, one pool."""
    pool = shown_pool(about.pool, merged)
    merged = merged[merged["pool"] == pool]
    figure, panels = make_panels(list(merged["group"].unique()), height=2.4, sharey=True)
    for group, panel in panels.items():
        rows = thin(merged[merged["group"] == group])
        styles = {"auc": ("AUC", BLUE, "o", "-"), "logloss": ("log loss, nats", RED, "s", "--")}
        for shift, (metric, (label, colour, marker, dash)) in zip(
            (-0.06, 0.06), styles.items(), strict=True
        ):
            panel.errorbar(
                rows["k"] + shift,
                1000 * rows[f"{metric}_gain"],
                yerr=1000 * rows[f"{metric}_gain_sd"],
                label=label,
                color=colour,
                marker=marker,
                linestyle=dash,
                **LINE,
            )
        panel.axhline(0, color="0.5", linewidth=0.8)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        panel.set_title(group, fontsize=9)
    label_axes(panels, "K, members merged", "gain (10⁻³)")
    finish(
        figure,
        panels,
        f"Merging on the {about.log}: test gain over the mean member",
        f"Pool: {POOLS[pool].title}. Bars: sd over subsets of K members, which overlap. "
        f"The mean member is that of the merged ones.",
    )
    return figure


def draw_curve(about: About, merged: pd.DataFrame, curve: pd.DataFrame) -> Figure:
    """Log loss against K with the fit limit + scale / K, and the K that is enough."""
    figure, panels = make_panels(list(curve["group"]), height=2.4)
    for (_, fit), panel in zip(curve.iterrows(), panels.values(), strict=True):
        rows = merged[(merged["group"] == fit["group"]) & (merged["pool"] == fit["pool"])]
        panel.errorbar(
            thin(rows)["k"],
            thin(rows)["test_logloss"],
            yerr=thin(rows)["test_logloss_sd"],
            label="mean over subsets, sd",
            color="black",
            marker="o",
            linestyle="none",
            **LINE,
        )
        k = np.linspace(1, rows["k"].max(), 100)
        curve_of_k = Curve(fit["limit"], fit["scale"], fit["residual"])
        fitted = [curve_of_k.at(value) for value in k]
        panel.plot(k, fitted, color=BLUE, linewidth=1.4, label="fit L∞ + a/K")
        panel.axhline(fit["limit"], color=BLUE, linestyle=":", linewidth=1.2, label="fitted L∞")
        if fit["enough"] <= rows["k"].max():
            panel.axvline(fit["enough"], color=RED, linestyle="--", linewidth=1.2, label="K enough")
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        panel.yaxis.set_major_locator(MaxNLocator(nbins=5))
        panel.ticklabel_format(axis="y", useOffset=False)
        panel.set_title(f"{fit['group']}: a = {fit['scale']:.5f}", fontsize=9)
    label_axes(panels, "K, members merged", "test log loss")
    finish(
        figure,
        panels,
        f"Log loss against K on the {about.log}",
        "K enough: beyond it all further members together are expected to gain less than the "
        "noise; where no line is drawn, more than the members there are.",
    )
    return figure


def draw_pairs(about: About, diversity: pd.DataFrame) -> Figure:
    """Heat maps over pairs of architectures."""
    models = list(dict.fromkeys([*diversity["first"], *diversity["second"]]))
    maps = {
        "ambiguity": ("ambiguity A (10⁻³ nats)", 1000, 2),
        "error_correlation": ("correlation of errors", 1, 3),
        "disagreement": ("disagreement (% of rows)", 100, 1),
        "test_auc": ("test AUC, merged", 1, 4),
        "auc_gain": ("AUC gain over the mean member (10⁻³)", 1000, 2),
        "auc_gain_over_better": ("AUC gain over the better member (10⁻³)", 1000, 2),
    }
    side = max(3.3, 0.46 * len(models) + 1.6)
    figure = Figure(figsize=(3 * side, 2 * side * 0.92), layout="constrained")
    for panel, (column, (title, scale, digits)) in zip(
        figure.subplots(2, 3).flat, maps.items(), strict=True
    ):
        _draw_map(figure, panel, diversity, models, column, scale, digits)
        panel.set_title(title, fontsize=10)
    finish(
        figure,
        {},
        f"Pairs of members on the {about.log}",
        "Logit mean of two members of these architectures, other seeds on the diagonal; means "
        "over pairs. Better member: by validation.",
    )
    return figure


def draw_diversity(about: About, diversity: pd.DataFrame) -> Figure:
    """Gain over the mean member against ambiguity, a point a pair of architectures."""
    figure = Figure(figsize=(9.2, 4.4), layout="constrained")
    panels = dict(zip(("auc_gain", "logloss_gain"), figure.subplots(1, 2), strict=True))
    titles = {"auc_gain": "AUC gain (10⁻³)", "logloss_gain": "log loss gain (10⁻³ nats)"}
    same = diversity["first"] == diversity["second"]
    kinds = {
        "two seeds of one architecture": (same, BLUE, "o"),
        "two architectures": (~same, RED, "^"),
    }
    for column, panel in panels.items():
        for label, (rows, colour, marker) in kinds.items():
            panel.scatter(
                1000 * diversity["ambiguity"][rows],
                1000 * diversity[column][rows],
                color=colour,
                marker=marker,
                s=28,
                alpha=0.8,
                label=label,
            )
        panel.axhline(0, color="0.5", linewidth=0.8)
        panel.set_ylabel(titles[column])
        panel.set_xlabel("ambiguity A (10⁻³ nats)")
    end = 1000 * diversity["ambiguity"].max()
    panels["logloss_gain"].plot([0, end], [0, end], color="0.5", linestyle=":", label="gain = A")
    finish(
        figure,
        panels,
        f"What pairs gain by being apart on the {about.log}",
        "Logit mean of two members, against their mean; means over pairs of members.",
    )
    return figure


def draw_calibration(about: About, calibration: pd.DataFrame) -> Figure:
    """Share of clicks against predicted probability, before and after merging."""
    figure, panels = make_panels(list(calibration["group"].unique()), height=2.8)
    styles = {
        "member": ("best member by validation", BLUE, "o"),
        "merged": ("all of the group merged", RED, "s"),
    }
    for group, panel in panels.items():
        rows = calibration[calibration["group"] == group]
        shown = rows[rows["clicked"] > 0]
        values = shown[["predicted", "clicked"]]
        ends = [values.min().min(), values.max().max()]
        panel.plot(ends, ends, color="0.6", linestyle=":", label="calibrated")
        for who, (label, colour, marker) in styles.items():
            bins = shown[shown["prediction"] == who]
            hollow = "none" if who == "merged" else colour
            panel.plot(
                bins["predicted"],
                bins["clicked"],
                color=colour,
                marker=marker,
                markerfacecolor=hollow,
                markersize=5,
                linewidth=0.9,
                label=label,
            )
        panel.set_xscale("log")
        panel.set_yscale("log")
        _plain_ticks(panel, ends)
        panel.set_title(group, fontsize=9)
    label_axes(panels, "mean predicted probability", "share clicked")
    finish(
        figure,
        panels,
        f"Calibration on the {about.log}",
        f"Bins of equally many test rows. Pool: {POOLS[about.pool].title}.",
    )
    return figure


def _draw_map(
    figure: Figure,
    panel: Axes,
    diversity: pd.DataFrame,
    models: Sequence[str],
    column: str,
    scale: float,
    digits: int,
) -> None:
    place = {model: i for i, model in enumerate(models)}
    values = np.full((len(models), len(models)), np.nan)
    for first, second, value in zip(
        diversity["first"], diversity["second"], diversity[column], strict=True
    ):
        values[place[first], place[second]] = values[place[second], place[first]] = scale * value
    image = panel.imshow(values, cmap="cividis")
    figure.colorbar(image, ax=panel, shrink=0.8).ax.tick_params(labelsize=7)
    panel.set_xticks(range(len(models)), models, rotation=60, ha="right", fontsize=8)
    panel.set_yticks(range(len(models)), models, fontsize=8)
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        if not math.isnan(value):
            colour = "black" if value > middle else "white"
            text = f"{value:z.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else None
            panel.text(
                *(j, i, text or f"{value:z.{digits}f}"),
                ha="center",
                va="center",
                fontsize=6.5,
                color=colour,
            )


def _plain_ticks(panel: Axes, ends: Sequence[float]) -> None:
    """A few round probabilities on both logarithmic axes."""
    ticks = [tick for tick in _ROUND if ends[0] * 0.95 <= tick <= ends[1] * 1.05]
    if len(ticks) > _MOST_TICKS:
        ticks = [tick for tick in ticks if tick in _DECADES]
    if len(ticks) < 2:  # a narrow range
        ticks = list(MaxNLocator(nbins=4).tick_values(*ends))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


_DECADES = [10.0**e for e in range(-6, 1)]
_ROUND = [tick * m for tick in _DECADES for m in (1, 2, 5)]
_MOST_TICKS = 8  # that a panel has room for
