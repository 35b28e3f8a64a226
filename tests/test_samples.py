"""The tables of results/samples: each can be drawn again, and docs/findings.md quotes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import merge as command
from modules.models import MODELS
from modules.scoring.answer import answer
from modules.scoring.cost_picture import draw_cost
from modules.scoring.pictures import draw_calibration, draw_pictures
from modules.scoring.tables import Tables, read_tables
from scripts.findings import METRICS, count_verdicts, findings_tables

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = sorted(path for path in (ROOT / "results/samples").iterdir() if path.is_dir())
QUOTED = [path for path in SAMPLES if "pool" not in path.name]  # by tables
COMPARED = [path for path in QUOTED if "soups" not in path.name]  # with bigger ones
FINDINGS = ROOT / "docs/findings.md"
FIGURE = r"\b0\.\d{5}\b"
GAIN = rf"(-?{FIGURE})(?:\s+AUC)?\s+\[(-?{FIGURE}),\s+(-?{FIGURE})\]"
SCORE = rf"({FIGURE})\s+\(({FIGURE})\)"  # and its sd
SCORES = rf"^\| [^|]+ \| ({FIGURE}) \| ({FIGURE}) \|$"  # AUC and log loss
ARM_WORDS = {  # how the findings speak of an arm
    "width": r"\bwid",
    "depth": r"\bde(ep|pth)",
    "joint": r"\bjoint",
    "soup": r"soup:|[Aa]verag(ed|ing)\s+(the\s+)?weights",
    "soup-late": r"soup-late|late\s+checkpoints",
}
IN_SHORT = {  # by folder, how its row begins
    "criteo-official-settings": "Criteo | official (part 1)",
    "avazu-official-settings": "Avazu | official (part 1)",
    "synthetic-avazu": "planted: DeepFM, FinalMLP | official (part 5)",
    "synthetic-avazu-dcnv2": "planted: DCNv2 | official (part 5)",
    "synthetic-avazu-autoint": "planted: AutoInt, 2x | official (part 5)",
    "synthetic-avazu-autoint-4x": "planted: AutoInt, 4x | official (part 5)",
    "criteo-own-order": "Criteo | and a row order for each seed (part 2)",
    "avazu-own-order": "Avazu | and a row order for each seed (part 2)",
    "synthetic-avazu-own-order": (
        "planted: DeepFM, DCNv2, FinalMLP | and a row order for each seed (part 5)"
    ),
    "synthetic-avazu-own-order-autoint": (
        "planted: AutoInt | and a row order for each seed (part 5)"
    ),
    "criteo-searched": "Criteo | searched for each contender by itself (part 3)",
    "avazu-searched": "Avazu | searched for each contender by itself (part 3)",
    "synthetic-avazu-searched": (
        "planted: DeepFM, DCNv2, FinalMLP | "
        "searched for each contender, for the merge the same (part 5)"
    ),
    "synthetic-avazu-searched-autoint": (
        "planted: AutoInt | searched for each contender, for the merge the same (part 5)"
    ),
    "criteo-searched-merged": "Criteo | the base's searched for the merge (part 3)",
    "avazu-searched-merged": "Avazu | the base's searched for the merge (part 3)",
}


@pytest.mark.parametrize("folder", SAMPLES, ids=lambda folder: folder.name)
def test_the_tables_alone_give_answer_and_pictures(folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert command.main(["--from", str(folder), "--results", str(tmp_path)]) == 0
    tables = read_tables(folder)
    drawn = tmp_path / tables.about.dataset
    assert answer(tables) in (drawn / "report.md").read_text()
    assert {"cost_auc.png", "cost_logloss.png"} <= {path.name for path in drawn.iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert f"results/samples/{folder.name}" in FINDINGS.read_text()


@pytest.mark.parametrize("metric", ["auc", "logloss"])
def test_only_what_lies_beyond_a_panel_is_named_at_its_edge(metric: str) -> None:
    tables = read_tables(ROOT / "results/samples/criteo-official-settings")
    named = 0
    for panel in draw_cost(tables.about, tables.budget, metric).axes:
        low, high = panel.get_ylim()
        for line in "\n".join(text.get_text() for text in panel.texts).splitlines():
            _, score, side = line.split()
            named += 1
            beyond = float(score) - high if side == "↑" else low - float(score)
            assert beyond > -5e-5  # scores are rounded there
    assert named


def test_a_name_at_the_edge_hides_no_bar() -> None:
    tables = read_tables(ROOT / "results/samples/criteo-searched-soups")
    named = [panel for panel in draw_cost(tables.about, tables.budget, "auc").axes if panel.texts]
    assert named
    for panel in named:
        lowest = min(bars.get_zorder() for bars in panel.collections)
        assert all(text.get_zorder() < lowest for text in panel.texts)


@pytest.mark.parametrize("metric", ["auc", "logloss"])
@pytest.mark.parametrize("folder", SAMPLES, ids=lambda folder: folder.name)
def test_no_marker_lies_on_the_edge_of_a_panel(folder: Path, metric: str) -> None:
    tables = read_tables(folder)
    for panel in draw_cost(tables.about, tables.budget, metric).axes:
        low, high = panel.get_ylim()
        for line in panel.lines:
            if line.get_marker() not in ("None", "_", "|", ""):
                scores = np.asarray(line.get_ydata(), float)
                away = np.minimum(scores - low, high - scores) / (high - low)
                assert away.min() > 0.03, (panel.get_title(), scores)  # half a marker is 0.02


@pytest.mark.parametrize("shares", [(0.27, 0.33), (0.001, 0.6), (0.0301, 0.0302)])
def test_a_narrow_range_of_predictions_has_ticks_too(shares: tuple[float, float]) -> None:
    about = read_tables(SAMPLES[0]).about
    table = pd.DataFrame({"group": "fm", "prediction": "merged", "predicted": shares})
    (panel,) = draw_calibration(about, table.assign(clicked=shares)).axes
    for axis, (low, high) in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
        shown = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
        assert 2 <= len(shown) <= 12


def test_probabilities_of_a_wide_range_are_not_written_over_each_other() -> None:
    about = read_tables(SAMPLES[0]).about
    groups = ["fm", "lr", "all"]
    lines = [(group, share) for group in groups for share in (5e-5, 0.99)]
    table = pd.DataFrame(lines, columns=["group", "predicted"])
    figure = draw_calibration(about, table.assign(clicked=table["predicted"], prediction="merged"))
    figure.draw_without_rendering()
    for panel in figure.axes:
        boxes = [label.get_window_extent() for label in panel.get_xticklabels()]
        assert len(boxes) >= 3
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize("folder", SAMPLES, ids=lambda folder: folder.name)
def test_nothing_in_a_picture_is_cut_off(folder: Path) -> None:
    for name, figure in draw_pictures(read_tables(folder)).items():
        figure.draw_without_rendering()  # which lays it out
        drawn = figure.get_tightbbox()
        pixel = 1 / 150  # inches
        assert min(drawn.x0, drawn.y0) > -pixel, name
        assert drawn.x1 < figure.get_figwidth() + pixel, name
        assert drawn.y1 < figure.get_figheight() + pixel, name


def test_every_figure_of_the_findings_is_in_the_tables() -> None:
    """A section quotes the folders that it names (`_sections`).

    Its gains are of models and arms that their paragraph names. Of other folders it quotes scores
    only: those of a model's base, alone and merged, and any with its sd. A section without folders
    quotes gains of all, and single figures that stand in the others.
    """
    sections = list(_sections())
    named = "".join(text for text, own in sections if own)
    quoted = set(re.findall(FIGURE, re.sub(r"\[[^]]*\]", "", named)))  # but for intervals
    tables = {folder.name: read_tables(folder) for folder in SAMPLES}
    with_sd = _union(_scores_with_sd, tables.values())
    merges = _union(_model_scores, tables.values())
    wrong: list[object] = []
    for text, own in sections:
        of_own = [tables[name] for name in own or tables]
        for paragraph in re.split(r"\n\n|\n(?=- |\d\. )", text):
            known = set().union(*(_gains(found.budget, paragraph) for found in of_own))
            wrong += [quote for quote in re.findall(GAIN, paragraph) if quote not in known]
        text = re.sub(GAIN, "", text)
        for shape, known in (
            (SCORE, with_sd),
            (SCORES, _union(_both_scores, of_own)),
            (FIGURE, _union(_single_figures, of_own) | merges if own else quoted),
        ):
            found = re.findall(shape, text, re.MULTILINE)
            wrong += [quote for quote in found if quote not in known]
            text = re.sub(shape, "", text, flags=re.MULTILINE)
    assert quoted
    assert not wrong


@pytest.mark.parametrize("folder", QUOTED, ids=lambda folder: folder.name)
def test_the_findings_hold_its_tables(folder: Path) -> None:
    """They stand after its name and before the next folder's."""
    pieces = FINDINGS.read_text().split("results/samples/")
    own = "".join(piece for piece in pieces if piece.startswith(f"{folder.name}`"))
    for table in findings_tables(read_tables(folder).budget):
        assert table in own, table


def test_the_findings_count_its_verdicts() -> None:
    in_short = re.findall(r"^\| (.* \(part \d\) \| .*) \|$", FINDINGS.read_text(), re.MULTILINE)
    counted = {folder.name: count_verdicts(read_tables(folder).budget) for folder in COMPARED}
    assert set(IN_SHORT) == set(counted)
    assert sorted(in_short) == sorted(f"{IN_SHORT[name]} | {counted[name]}" for name in counted)


def _sections() -> Iterator[tuple[str, list[str]]]:
    """Each section, and the folders that it, or the beginning of its part, names."""
    for part in re.split(r"^(?=## )", FINDINGS.read_text(), flags=re.MULTILINE):
        beginning, *sections = re.split(r"^(?=### )", part, flags=re.MULTILINE)
        of_part = re.findall(r"results/samples/([\w-]+)", beginning)
        yield beginning, of_part
        for section in sections:
            yield section, of_part + re.findall(r"results/samples/([\w-]+)", section)


def _union(known: Callable[[Tables], set[Any]], of: Iterable[Tables]) -> set[Any]:
    return set().union(*(known(tables) for tables in of))


def _gains(budget: pd.DataFrame, paragraph: str) -> set[Any]:
    """Gains of what the paragraph names, with their intervals, and the same as losses."""
    unnamed = {name for name in MODELS if not re.search(rf"\b{MODELS[name].__name__}\b", paragraph)}
    unnamed |= {kind for kind, words in ARM_WORDS.items() if not re.search(words, paragraph)}
    known = set()
    for row in budget.to_dict("records"):
        kinds = {row[side].partition(":")[0] for side in ("contender", "against")}
        if not unnamed & {row["group"], *kinds}:
            for metric in METRICS:
                gain, low, high = (row[f"{metric}_{part}"] for part in ("gain", "low", "high"))
                known |= {_texts(gain, low, high), _texts(-gain, -high, -low)}
    return known


def _scores_with_sd(tables: Tables) -> set[Any]:
    alone = tables.budget[tables.budget["k"] == 1]
    return {_texts(*row) for row in alone[["test_auc", "test_auc_sd"]].to_numpy()}


def _both_scores(tables: Tables) -> set[Any]:
    return {_texts(*row) for row in tables.merged[["test_auc", "test_logloss"]].to_numpy()}


def _model_scores(tables: Tables) -> set[Any]:
    """Mean scores of a model's base, alone and merged."""
    merged = tables.merged[tables.merged["pool"] == tables.about.pool]
    merged = merged[merged["group"].isin(list(tables.about.seeds))]
    return set(_texts(*np.ravel(merged[["test_auc", "test_logloss"]])))


def _single_figures(tables: Tables) -> set[Any]:
    """What may stand alone: mean, lowest, highest scores, gains in AUC, sd, ambiguity of pairs."""
    budget = tables.budget
    runs = tables.members.groupby(["model", "arm"])[["test_auc", "test_logloss"]]
    best = tables.about.best
    return set(
        _texts(
            *np.ravel(budget[["test_auc", "test_logloss"]]),
            *np.ravel([runs.min(), runs.max()]),
            *budget["auc_gain"].abs(),
            *budget.loc[budget["k"] == 1, "test_auc_sd"],
            *np.ravel(tables.diversity.filter(regex="ambiguity|auc_gain")),
            *([best.auc, best.logloss] if best else []),
        )
    )


def _texts(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:z.5f}" for value in values)
