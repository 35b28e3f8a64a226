"""The results folder: tables, report and pictures, written at once."""

from __future__ import annotations

import tempfile
from pathlib import Path

from modules.scoring.pictures import draw_pictures
from modules.scoring.report import PICTURE_TITLES, render_latex, render_report
from modules.scoring.tables import OPTIONAL, Tables

REPORT, LATEX = "report.md", "tables.tex"


def write_results(folder: Path, tables: Tables, *, latex: bool = False) -> list[Path]:
    """Write tables, report and pictures into `folder`; the paths of the report and the pictures.

    Everything is written into a folder of its own and moved when all of it is there. What an older
    merge left and this one does not make is removed; other files in `folder` are left alone.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    near = folder if folder.is_dir() else folder.parent  # `folder` may be on a disk of its own
    with tempfile.TemporaryDirectory(dir=near, prefix=f".{folder.name}-") as name:
        staging = Path(name)
        tables.save(staging)
        pictures = draw_pictures(tables)
        for file, figure in pictures.items():
            figure.savefig(staging / file, dpi=150)
        (staging / REPORT).write_text(render_report(tables, list(pictures)))
        if latex:
            (staging / LATEX).write_text(render_latex(tables))
        folder.mkdir(exist_ok=True)
        made = list(staging.iterdir())
        for path in made:
            path.replace(folder / path.name)
        optional = {*PICTURE_TITLES, *(f"{table}.csv" for table in OPTIONAL), LATEX}
        for older in optional - {path.name for path in made}:
            (folder / older).unlink(missing_ok=True)
    return [folder / file for file in [REPORT, *pictures]]
