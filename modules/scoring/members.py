"""The members of a merge: which runs may be merged, and their own scores, computed anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modules.runs import (
    SCORED_SPLITS,
    Member,
    RunError,
    find_members,
    load_labels,
    run_folder,
)
from modules.scoring.metrics import MetricError, auc, logloss

BASE = "base"
MIX = "+"  # joins the names of models that were trained as one
MAX_LOGIT = 700.0  # exp of more leaves float64: a probability that cannot be averaged
REPORTED_TOLERANCE = 1e-6  # between a run's reported metrics and those of its saved logits


@dataclass(frozen=True)
class Members:
    """Runs that predict the same rows, by model and seed, and the labels of those rows.

    runs: those that are merged, all of one arm. rivals: where that is the base, the other arms of
    the same models, and the joint trainings of several of them, whose model is `a+b`; by model,
    arm and seed. left_out: model/arm of runs that would be rivals, had their models base members.
    labels: (rows,) uint8 for each scored split. truth: the probability (rows,) that each test
    label was drawn with, where the log was planted.
    """

    runs: Sequence[Member]
    labels: dict[str, np.ndarray]
    truth: np.ndarray | None
    rivals: Sequence[Member] = ()
    left_out: Sequence[str] = ()

    def logits(self, split: str) -> list[np.ndarray]:
        """The logits (rows,) float32 of each run, memory-mapped."""
        return [run.logits(split) for run in self.runs]


def load_members(
    root: Path, dataset: str, *, models: Sequence[str] | None = None, arm: str = BASE
) -> Members:
    """The complete runs of one arm, of all models or of `models` in that order, and their rivals.

    What `models` does not name is not listed as left out. Raises `RunError` where there are no
    such runs, where they do not predict the same rows of this data set, or where saved predictions
    cannot be used.
    """
    runs = _of_arm(find_members(root, dataset, models), arm, models or ())
    merged = {run.model for run in runs}
    others = find_members(root, dataset) if arm == BASE else []
    others = [run for run in others if run.arm != arm or MIX in run.model]
    rivals = [run for run in others if set(run.model.split(MIX)) <= merged]
    left_out = [] if models else [f"{run.model}/{run.arm}" for run in others if run not in rivals]
    hashes = {split: _common_labels([*runs, *rivals], split) for split in SCORED_SPLITS}
    for run in [*runs, *rivals]:
        _check_place(run, root, dataset)
    val_labels, _ = load_labels(root, dataset, hashes["val"])
    test_labels, truth = load_labels(root, dataset, hashes["test"])
    labels = {"val": val_labels, "test": test_labels}
    for run in [*runs, *rivals]:
        for split in SCORED_SPLITS:
            _check_logits(run, split, len(labels[split]))
    return Members(runs, labels, truth, rivals, list(dict.fromkeys(left_out)))


def score_members(members: Members) -> pd.DataFrame:
    """One row a member: its metrics on both splits, computed from the saved logits, and its cost.

    Raises `RunError` where a metric is not the one that the run reported.
    """
    return score_runs(members.runs, members.labels)


def score_runs(runs: Sequence[Member], labels: dict[str, np.ndarray]) -> pd.DataFrame:
    """`score_members` of any runs that predict rows with these labels."""
    return pd.DataFrame([_score(run, labels) for run in runs])


def reported(run: Member, *keys: str) -> Any:
    """The entry of a run's report under nested `keys`; `RunError` where it is missing."""
    entry: Any = run.report
    for key in keys:
        if not isinstance(entry, dict) or key not in entry:
            raise RunError(
                f"{run.folder / 'report.json'} has no '{'.'.join(keys)}'; train it again"
            )
        entry = entry[key]
    return entry


def _score(run: Member, labels: dict[str, np.ndarray]) -> dict[str, Any]:
    metrics = {}
    for split in SCORED_SPLITS:
        logits = run.logits(split)
        try:
            metrics[f"{split}_auc"] = auc(labels[split], logits)
        except MetricError as error:
            raise RunError(f"the {split} split cannot be scored: {error}") from error
        metrics[f"{split}_logloss"] = logloss(labels[split], logits)
        for metric in ("auc", "logloss"):
            _check_reported(run, split, metric, metrics[f"{split}_{metric}"])
    table, dense = (reported(run, "parameters", part) for part in ("table", "dense"))
    return {
        "model": run.model,
        "arm": run.arm,
        "seed": run.seed,
        **metrics,
        "parameters": table + dense,
        "macs_per_row": reported(run, "macs_per_row"),
        "seconds": reported(run, "seconds"),
        "table_parameters": table,
        "dense_parameters": dense,
        "latency_ms": float(run.report.get("latency_ms", float("nan"))),  # older runs have none
    }


def _of_arm(runs: Sequence[Member], arm: str, models: Sequence[str]) -> list[Member]:
    """The runs of `arm`; there must be some, and some of each of `models`."""
    chosen = [run for run in runs if run.arm == arm and MIX not in run.model]
    missing = set(models) - {run.model for run in chosen}
    if missing or not chosen:
        of = f" of {', '.join(sorted(missing))}" if missing else ""
        there = sorted({f"{run.model}/{run.arm}" for run in runs})
        mixes = any(MIX in name for name in there)
        note = f" ({MIX}: trained as one, a rival of its models' merges)" if mixes else ""
        raise RunError(
            f"no trained member{of} in arm '{arm}'; there are: {', '.join(there)}{note}; train it "
            f"with trainer_group.py --arms {arm}, or name other --models or another --arm"
        )
    return chosen


def _check_place(run: Member, root: Path, dataset: str) -> None:
    """A run that was copied elsewhere would count twice, or under another name."""
    trained_for = reported(run, "dataset")
    if run.folder != run_folder(root, trained_for, run.model, run.arm, run.seed):
        raise RunError(
            f"{run.folder} holds the run {run.name} of data set '{trained_for}'; move it out of "
            f"{Path(root) / dataset}, or train the run that belongs there with --force"
        )


def _common_labels(runs: Sequence[Member], split: str) -> str:
    """The hash of the labels that all of `runs` were scored on."""
    names = defaultdict(list)
    for run in runs:
        names[str(reported(run, "labels", split))].append(run.name)
    if len(names) > 1:
        found = "; ".join(f"{digest[:8]} for {_some(names[digest])}" for digest in names)
        raise RunError(
            f"only members that predict the same rows can be merged, but the hashes of their "
            f"{split} labels are {found}; move the runs of other data away, or train them again "
            f"with --force"
        )
    return next(iter(names))


def _check_logits(run: Member, split: str, rows: int) -> None:
    logits = run.logits(split)
    place = f"{run.folder / split}.npy"
    if logits.dtype != np.float32 or logits.shape != (rows,):
        raise RunError(
            f"{place}: {logits.dtype} of shape {logits.shape}, where {rows} rows of float32 "
            f"logits belong; train it again with --force"
        )
    usable = np.abs(logits) < MAX_LOGIT  # False for NaN
    if not usable.all():
        row = int(np.argmin(usable))
        raise RunError(
            f"{place}: the logit of row {row} is {logits[row]}; the training diverged, repeat it "
            f"with a lower learning rate and --force, move {run.folder} away, or merge other "
            f"models with --models"
        )


def _check_reported(run: Member, split: str, metric: str, value: float) -> None:
    expected = reported(run, "metrics", split, metric)
    if not abs(value - expected) <= REPORTED_TOLERANCE:
        raise RunError(
            f"{run.name}: {split} {metric} of the saved logits is {value:.7f}, but the run "
            f"reported {expected:.7f}; {split}.npy was changed, train it again with --force"
        )


def _some(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more" if others else first
