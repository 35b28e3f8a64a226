"""The tables of results/samples: each can be drawn again, and docs/findings.md quotes them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import merge as command
from modules.scoring.answer import answer
from modules.scoring.cost_picture import draw_cost
from modules.scoring.pictures import draw_calibration, draw_pictures
from modules.scoring.tables import read_tables
from scripts.findings import count_verdicts, findings_tables

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = sorted(path for path in (ROOT / "results/samples").iterdir() if path.is_dir())
COMPARED = [path for path in SAMPLES if "pool" not in path.name]  # pools hold no bigger models
FINDINGS = ROOT / "docs/findings.md"


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
    frames = [pd.read_csv(path) for folder in SAMPLES for path in folder.glob("*.csv")]
    known: set[str] = set()
    for frame in frames:
        for _, column in frame.select_dtypes("number").items():
            known |= {f"{abs(value):.5f}" for value in column.dropna()}
    for best in [read_tables(folder).about.best for folder in SAMPLES]:
        known |= {f"{best.auc:.5f}", f"{best.logloss:.5f}"} if best else set()
    quoted = set(re.findall(r"\b0\.\d{5}\b", FINDINGS.read_text()))
    assert quoted
    assert quoted <= known, sorted(quoted - known)


@pytest.mark.parametrize("folder", COMPARED, ids=lambda folder: folder.name)
def test_the_findings_hold_its_tables(folder: Path) -> None:
    for table in findings_tables(read_tables(folder).budget):
        assert table in FINDINGS.read_text(), table


def test_the_findings_count_its_verdicts() -> None:
    counted = [count_verdicts(read_tables(folder).budget) for folder in COMPARED]
    in_short = re.findall(r"\(part \d\) \| (.*) \|", FINDINGS.read_text())
    assert sorted(in_short) == sorted(counted)
