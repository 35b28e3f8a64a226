"""The tables of results/samples: each can be drawn again, and docs/findings.md quotes them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

import merge as command
from modules.scoring.answer import answer
from modules.scoring.tables import read_tables

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = sorted(path for path in (ROOT / "results/samples").iterdir() if path.is_dir())
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
