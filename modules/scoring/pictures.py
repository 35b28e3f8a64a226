"""The pictures of a report: a panel a group, told apart by shape and dash as well as by colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from modules.scoring.about import About
from modules.scoring.budget import BASE, MERGED
from modules.scoring.curve import Curve
from modules.scoring.groups import ALL, MIXED, SELECTED
from modules.scoring.pools import POOLS
from modules.scoring.tables import Tables

# Okabe and Ito's colours, told apart by the colour-blind; shapes and dashes tell them in print.
BLUE, RED, GREEN, PINK, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
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
PANELS_A_ROW = 4
MAX_SIZES = 16  # of K that are marked in a panel


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


def draw_cost(about: About, budget: pd.DataFrame, metric: str) -> Figure:
    """Test AUC or log loss against multiply-adds: arms, merges, and the base they start from."""
    against_base = budget[budget["against"] == BASE]
    name = {"auc": "AUC", "logloss": "log loss"}[metric]
    groups = list(against_base["group"].unique())
    figure, panels = _panels(groups, height=2.9)
    for group, panel in panels.items():
        rows = against_base[against_base["group"] == group]
        base = rows[rows["contender"] == BASE].iloc[0]
        _draw_base(panel, base[f"test_{metric}"], base[f"{metric}_noise"])
        for contender in MERGES:
            _draw_merges(panel, rows[rows["contender"] == contender], contender, metric)
        _draw_arms(panel, rows[~rows["contender"].isin([BASE, *MERGES])], metric)
        _scale_by_factor(panel, rows["factor"])
        outside = _scale_by_score(panel, rows, metric)
        if about.best is not None:
            best = getattr(about.best, metric)
            if not _draw_best(panel, best):
                outside.append(("best possible", best))
        _note_outside(panel, outside)
        title = f"several models, against {base['base_model']}" if group == ALL else group
        panel.set_title(f"{title}\n1x = {_count(base['macs_per_row'])} multiply-adds", fontsize=9)
    _label(panels, "multiply-adds a row, base = 1x", f"test {name}")
    _finish(
        figure,
        panels,
        f"Where an inference budget goes on the {about.log}: test {name}",
        f"Merges: {POOLS[about.pool].title}. Bars: 95 % interval of the difference to the base on "
        f"these rows.",
    )
    return figure


def draw_gain(about: About, merged: pd.DataFrame) -> Figure:
    """Gain over the mean member against K in AUC and log loss, a panel a group, one pool."""
    pool = shown_pool(about, merged)
    merged = merged[merged["pool"] == pool]
    figure, panels = _panels(list(merged["group"].unique()), height=2.4, sharey=True)
    for group, panel in panels.items():
        rows = _thin(merged[merged["group"] == group])
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
                **_LINE,
            )
        panel.axhline(0, color="0.5", linewidth=0.8)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        panel.set_title(group, fontsize=9)
    _label(panels, "K, members merged", "gain (10⁻³)")
    _finish(
        figure,
        panels,
        f"Merging on the {about.log}: test gain over the mean member",
        f"Pool: {POOLS[pool].title}. Bars: sd over subsets of K members, which overlap. "
        f"The mean member is that of the merged ones.",
    )
    return figure


def draw_curve(about: About, merged: pd.DataFrame, curve: pd.DataFrame) -> Figure:
    """Log loss against K with the fit limit + scale / K, and the K that is enough."""
    figure, panels = _panels(list(curve["group"]), height=2.4)
    for (_, fit), panel in zip(curve.iterrows(), panels.values(), strict=True):
        rows = merged[(merged["group"] == fit["group"]) & (merged["pool"] == fit["pool"])]
        panel.errorbar(
            _thin(rows)["k"],
            _thin(rows)["test_logloss"],
            yerr=_thin(rows)["test_logloss_sd"],
            label="mean over subsets, sd",
            color="black",
            marker="o",
            linestyle="none",
            **_LINE,
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
    _label(panels, "K, members merged", "test log loss")
    _finish(
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
    _finish(
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
    _finish(
        figure,
        panels,
        f"What pairs gain by being apart on the {about.log}",
        "Logit mean of two members, against their mean; means over pairs of members.",
    )
    return figure


def draw_calibration(about: About, calibration: pd.DataFrame) -> Figure:
    """Share of clicks against predicted probability, before and after merging."""
    figure, panels = _panels(list(calibration["group"].unique()), height=2.8)
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
    _label(panels, "mean predicted probability", "share clicked")
    _finish(
        figure,
        panels,
        f"Calibration on the {about.log}",
        f"Bins of equally many test rows. Pool: {POOLS[about.pool].title}.",
    )
    return figure


def shown_pool(about: About, merged: pd.DataFrame) -> str:
    """The pool of intervals where it was merged in, else the first one that was."""
    pools = list(merged["pool"].unique())
    return about.pool if about.pool in pools else str(pools[0])


_LINE: dict[str, Any] = {"linewidth": 1.3, "markersize": 4.5, "elinewidth": 0.9, "capsize": 2}


def _panels(
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


def _finish(figure: Figure, panels: dict[str, Axes], title: str, note: str) -> None:
    """Title, note, and one legend for every label of any panel."""
    figure.suptitle(title, fontsize=11)
    entries = {
        label: handle
        for panel in panels.values()
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(entries.values()),
        list(entries),
        title=note,
        title_fontsize=8,
        loc="outside lower center",
        ncols=max(1, min(len(entries), 5)),
        frameon=False,
        fontsize=8,
    )


def _label(panels: dict[str, Axes], x: str, y: str) -> None:
    """Axis labels where a panel has none below it, or none to its left."""
    cells = list(panels.values())
    for i, cell in enumerate(cells):
        if i + PANELS_A_ROW >= len(cells):
            cell.set_xlabel(x, fontsize=9)
        if i % PANELS_A_ROW == 0:
            cell.set_ylabel(y, fontsize=9)


def _thin(rows: pd.DataFrame) -> pd.DataFrame:
    """Few enough sizes to be told apart, the first and the last among them."""
    places = np.linspace(0, len(rows) - 1, min(len(rows), MAX_SIZES)).round().astype(int)
    return rows.iloc[places]


def _draw_base(panel: Axes, value: float, noise: float) -> None:
    panel.axhline(value, color="0.35", linestyle="--", linewidth=1, label="base, mean member")
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
        MIXED: "one seed each of K models",
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
        **{**_LINE, "markersize": 7 if marker == "*" else 4.5},
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
            **{**_LINE, "markersize": 6},
        )


def _bars(rows: pd.DataFrame, metric: str) -> np.ndarray:
    half = (rows[f"{metric}_high"] - rows[f"{metric}_low"]) / 2
    return np.vstack([half, half])


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


def _scale_by_score(panel: Axes, rows: pd.DataFrame, metric: str) -> list[tuple[str, float]]:
    """Fit the panel to base and merges; the arms that this leaves outside, and their scores.

    An arm that fails, as averaged weights of independent seeds do, would squeeze all others.
    """
    bars = (rows[f"{metric}_high"] - rows[f"{metric}_low"]) / 2
    noise = rows[f"{metric}_noise"].fillna(0.0)
    half = bars.where(rows["contender"] != BASE, noise)
    score = rows[f"test_{metric}"]
    central = rows["contender"].isin([BASE, *MERGES])
    low, high = (score - half)[central].min(), (score + half)[central].max()
    reach = max(high - low, 1e-6)
    inside = score.between(low - reach, high + reach)
    low, high = (score - half)[inside].min(), (score + half)[inside].max()
    margin = 0.06 * max(high - low, 1e-6)
    panel.set_ylim(low - margin, high + margin)
    return list(zip(rows["contender"][~inside], score[~inside], strict=True))


def _draw_best(panel: Axes, best: float) -> bool:
    """Draw the line if it does not squeeze the rest."""
    low, high = panel.get_ylim()
    if not low - (high - low) <= best <= high + (high - low):
        return False
    panel.axhline(best, color=PINK, linewidth=1.5, label="best possible")
    margin = 0.06 * (high - low)
    panel.set_ylim(min(low, best - margin), max(high, best + margin))
    return True


def _note_outside(panel: Axes, outside: Sequence[tuple[str, float]]) -> None:
    """Name what lies beyond the panel at the edge that it lies beyond."""
    middle = sum(panel.get_ylim()) / 2
    for above in (True, False):
        names = [
            f"{name} {score:.4f} {'↑' if above else '↓'}"
            for name, score in outside
            if (score > middle) == above
        ]
        if names:
            panel.annotate(
                "\n".join(names),
                xy=(0.03, 0.97 if above else 0.03),
                xycoords="axes fraction",
                va="top" if above else "bottom",
                fontsize=7.5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
            )


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
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


_ROUND = [m * 10.0**e for e in range(-6, 0) for m in (1, 2, 5)] + [1.0]


def _count(number: float) -> str:
    """A short count, 194584 as "195k"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"
