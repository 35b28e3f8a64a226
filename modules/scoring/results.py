"""The results folder: tables, report and pictures, written at once."""

from __future__ import annotations

import shutil
from pathlib import Path

from data.atomic import check_writable, locked_folder
from modules.scoring.pictures import draw_pictures
from modules.scoring.report import PICTURE_TITLES, render_latex, render_report
from modules.scoring.tables import OPTIONAL, Tables

REPORT, LATEX = "report.md", "tables.tex"


def write_results(folder: Path, tables: Tables, *, latex: bool = False) -> list[Path]:
    """Write tables, report and pictures into `folder`; the paths of the report and the pictures.

    Everything is written into a folder of its own and moved when all of it is there. What an older
    merge left and this one does not make is removed; other files in `folder` are left alone.
    Raises `OSError` as `check_writable`, and `BlockingIOError` while another process writes there.
    """
    check_writable(folder)
    place = folder.resolve()
    near = place if place.is_dir() else place.parent  # `place` may be a disk of its own
    staging = near / f".{place.name}.partial"
    with locked_folder(staging, folder):
        try:
            pictures = _write(staging, tables, latex)
            made = [path.name for path in staging.iterdir()]
            place.mkdir(exist_ok=True)
            for name in made:
                (staging / name).replace(place / name)
            optional = {*PICTURE_TITLES, *(f"{table}.csv" for table in OPTIONAL), LATEX}
            for older in optional.difference(made):
                (place / older).unlink(missing_ok=True)
        finally:
            shutil.rmtree(staging)
    return [folder / name for name in (REPORT, *pictures)]


def _write(folder: Path, tables: Tables, latex: bool) -> list[str]:
    """Write everything into `folder`; the names of the pictures."""
    tables.save(folder)
    pictures = draw_pictures(tables)
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=150)
    (folder / REPORT).write_text(render_report(tables, list(pictures)))
    if latex:
        (folder / LATEX).write_text(render_latex(tables))
    return list(pictures)
