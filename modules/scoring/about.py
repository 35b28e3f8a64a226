"""What was merged: the log, its rows, the seeds, and where the members were trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from modules.scoring.members import Members, reported
from modules.scoring.metrics import auc, logloss_of_probabilities
from modules.scoring.settings import own_settings

DATASET_NAMES = {"avazu": "Avazu", "criteo": "Criteo", "kdd12": "KDD12"}


@dataclass(frozen=True)
class Best:
    """What no model can beat on these test rows: the scores of their true probabilities."""

    auc: float
    logloss: float


@dataclass(frozen=True)
class About:
    """What was merged, on what rows, and where it was trained."""

    dataset: str
    synthetic: bool
    rows: dict[str, int]  # per split
    positives: dict[str, int]
    seeds: dict[str, list[int]]  # per model, of the merged members
    arm: str  # that is merged
    pool: str  # of intervals and costs
    trained_on: dict[str, list[str]]  # machines, device, versions, commit: every value met
    best: Best | None  # of a planted log
    own_settings: dict[str, dict[str, str]] = field(default_factory=dict)  # of arms, see settings

    @classmethod
    def of(cls, dataset: str, members: Members, pool: str) -> About:
        """Gathered from the members' own reports."""
        runs = members.runs
        seeds: dict[str, list[int]] = {}
        for run in runs:
            seeds.setdefault(run.model, []).append(run.seed)
        everyone = [*runs, *members.rivals]
        trained_on = {
            "machine": {str(reported(run, "machine")) for run in everyone},
            "latency measured on": {
                str(run.report.get("latency_machine", reported(run, "machine"))) for run in everyone
            },
            "device": {str(reported(run, "device")) for run in everyone},
            "versions": {
                ", ".join(f"{name} {number}" for name, number in reported(run, "versions").items())
                for run in everyone
            },
            "commit": {str(reported(run, "git_commit") or "unknown") for run in everyone},
        }
        return cls(
            dataset=dataset,
            synthetic=reported(runs[0], "data", "synthetic"),
            rows=reported(runs[0], "data", "rows"),
            positives=reported(runs[0], "data", "positives"),
            seeds=seeds,
            arm=runs[0].arm,
            pool=pool,
            trained_on={name: sorted(values) for name, values in trained_on.items()},
            best=_best(members),
            own_settings=own_settings(members),
        )

    @classmethod
    def from_json(cls, entries: dict[str, Any]) -> About:
        """Made again from `dataclasses.asdict`."""
        best = entries["best"]
        return cls(**{**entries, "best": Best(**best) if best else None})

    @property
    def log(self) -> str:
        """The data set and its size, "synthetic Avazu log, 200,000 rows"."""
        planted = "synthetic " if self.synthetic else ""
        name = DATASET_NAMES.get(self.dataset, self.dataset)
        return f"{planted}{name} log, {sum(self.rows.values()):,} rows"


def _best(members: Members) -> Best | None:
    if members.truth is None:
        return None
    labels = members.labels["test"]
    return Best(auc(labels, members.truth), logloss_of_probabilities(labels, members.truth))
