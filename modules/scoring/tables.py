"""The figures of a merge: one small table a question, as CSV files that can be read back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from modules.runs import RunError
from modules.scoring.about import About

ABOUT = "about.json"
OPTIONAL = ("calibration",)
TABLES_NEEDED = "--from needs the tables that `merge.py --dataset NAME` writes into results/NAME"


@dataclass(frozen=True)
class Tables:
    """All that a report is made of; each table is a CSV file of its name."""

    about: About
    members: pd.DataFrame
    merged: pd.DataFrame
    budget: pd.DataFrame
    diversity: pd.DataFrame
    curve: pd.DataFrame
    calibration: pd.DataFrame  # empty unless it was asked for

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables by name, without an optional one that is empty."""
        frames = {name: value for name, value in vars(self).items() if name != "about"}
        return {name: frame for name, frame in frames.items() if len(frame) or name not in OPTIONAL}

    def save(self, folder: Path) -> None:
        """Write every table into `folder`."""
        (folder / ABOUT).write_text(json.dumps(asdict(self.about), indent=2) + "\n")
        for name, frame in self.frames().items():
            frame.to_csv(folder / f"{name}.csv", index=False)


def read_tables(folder: Path) -> Tables:
    """The tables that `Tables.save` left in `folder`; `RunError` where they are not all there."""
    try:
        about = About.from_json(json.loads((folder / ABOUT).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / ABOUT}: {error!r}; {TABLES_NEEDED}") from error
    frames = {}
    for name in ("members", "merged", "budget", "diversity", "curve", "calibration"):
        path = folder / f"{name}.csv"
        if name in OPTIONAL and not path.exists():
            frames[name] = pd.DataFrame()
            continue
        try:
            frames[name] = pd.read_csv(path)
        except pd.errors.EmptyDataError:  # a single member has no pair
            frames[name] = pd.DataFrame()
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: {error}; {TABLES_NEEDED}") from error
    return Tables(about, **frames)
