"""The figures of a merge: one small table a question, as CSV files that can be read back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd

from modules.runs import RunError
from modules.scoring.about import About

ABOUT = "about.json"
OPTIONAL = ("calibration",)
EMPTY = ("diversity",)  # may be: a single member has no pair
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
        frames = {name: getattr(self, name) for name in FRAMES}
        return {name: frame for name, frame in frames.items() if len(frame) or name not in OPTIONAL}

    def merged_members(self) -> pd.DataFrame:
        """The rows of `members` that were merged, without their rivals."""
        of_arm = self.members["arm"] == self.about.arm
        return self.members[of_arm & self.members["model"].isin(list(self.about.seeds))]

    def save(self, folder: Path) -> None:
        """Write every table into `folder`."""
        (folder / ABOUT).write_text(json.dumps(asdict(self.about), indent=2) + "\n")
        for name, frame in self.frames().items():
            frame.to_csv(folder / f"{name}.csv", index=False)


FRAMES = [field.name for field in fields(Tables) if field.name != "about"]


def read_tables(folder: Path) -> Tables:
    """The tables that `Tables.save` left in `folder`; `RunError` where they are not all there."""
    try:
        about = About.from_json(json.loads((folder / ABOUT).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / ABOUT}: {error!r}; {TABLES_NEEDED}") from error
    frames = {}
    for name in FRAMES:
        path = folder / f"{name}.csv"
        if name in OPTIONAL and not path.exists():
            frames[name] = pd.DataFrame()
            continue
        try:
            frames[name] = pd.read_csv(path)
        except (OSError, ValueError) as error:
            if name not in EMPTY or not isinstance(error, pd.errors.EmptyDataError):
                raise RunError(f"{path}: {error}; {TABLES_NEEDED}") from error
            frames[name] = pd.DataFrame()
    return Tables(about, **frames)
