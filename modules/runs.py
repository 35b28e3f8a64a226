"""The run folder: one trained member, written once, read by merge. Imports no torch.

runs/<dataset>/<model>/<arm>/seed-<n>/
    config.yaml  report.json  val.npy  test.npy  model.safetensors  log.txt
runs/<dataset>/labels/
    <sha256>.npy        the labels of one split, stored once for all members
    <sha256>.truth.npy  the true probabilities behind them, for a synthetic log
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import yaml

SCORED_SPLITS = ("val", "test")
LABELS = "labels"
REPORTED = (  # what every report has, beside whose it is
    *("labels.val", "labels.test", "data.fingerprint"),
    *("metrics.val.auc", "metrics.val.logloss", "metrics.test.auc", "metrics.test.logloss"),
    *("best_epoch", "epochs", "seconds", "rows_per_second"),
)


class RunError(Exception):
    """A run that cannot be made or used; the message names it and the way out."""


@dataclass(frozen=True)
class Member:
    """A complete run: who it is, where it lies and what it reported."""

    folder: Path
    model: str
    arm: str
    seed: int
    report: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.model}/{self.arm}/seed-{self.seed}"

    @property
    def fingerprint(self) -> str:
        """That of the data set that it was trained on."""
        fingerprint: str = self.report["data"]["fingerprint"]
        return fingerprint

    def logits(self, split: str) -> np.ndarray:
        """Logits of `split` in file order, (rows,) float32, memory-mapped."""
        path = self.folder / f"{split}.npy"
        try:
            logits = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise RunError(
                f"{path}: unreadable predictions ({error}); train it again with --force"
            ) from error
        return np.asarray(logits)


def run_folder(root: Path, dataset: str, model: str, arm: str, seed: int) -> Path:
    """Where the run of one member lies."""
    return Path(root) / dataset / model / arm / f"seed-{seed}"


def read_member(folder: Path) -> Member:
    """Read the run in `folder`; raise `RunError` where its report is missing or malformed."""
    path = folder / "report.json"
    try:
        report = json.loads(path.read_text())
        for entry in REPORTED:
            reduce(getitem, entry.split("."), report)
        return Member(folder, report["model"], report["arm"], int(report["seed"]), report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: not a run's report ({error!r}); train it again with --force"
        ) from error


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in `folder`; `RunError` where they are missing or malformed."""
    path = folder / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text())
        return {**content, **{key: {**content[key]} for key in ("training", "model_settings")}}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunError(
            f"{path}: not a run's settings ({error!r}); train it again with --force"
        ) from error


def find_members(root: Path, dataset: str, models: Sequence[str] | None = None) -> list[Member]:
    """All complete runs of a data set, by model, arm and seed; `models` restricts and orders them.

    Raises `RunError` if there is none, or none of one of `models`, or one that lost its report.
    """
    folder = Path(root) / dataset
    members = [
        read_member(path)
        for path in folder.glob("*/*/seed-*")
        if path.name.removeprefix("seed-").isdigit() and path.is_dir()
    ]
    found = sorted({member.model for member in members})
    if not found:
        raise RunError(
            f"no trained member under {folder}; train some with "
            f"`python trainer_group.py --dataset {dataset}`"
        )
    for model in models or ():
        if model not in found:
            raise RunError(
                f"no trained member of model '{model}' under {folder}; there are: "
                f"{', '.join(found)}"
            )
    order = list(models or found)
    return sorted(
        (member for member in members if member.model in order),
        key=lambda member: (order.index(member.model), member.arm, member.seed),
    )


def store_labels(
    root: Path, dataset: str, labels: np.ndarray, truth: np.ndarray | None = None
) -> str:
    """Store the labels (rows,) of one split once, and return their hash.

    truth: the probability (rows,) that each label was drawn with, where it is known.
    """
    labels = np.ascontiguousarray(labels, dtype=np.uint8)
    digest = hashlib.sha256(labels.tobytes()).hexdigest()
    folder = Path(root) / dataset / LABELS
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / f"{digest}.npy", labels)
    if truth is not None:
        _save(folder / f"{digest}.truth.npy", truth)
    return digest


def load_labels(root: Path, dataset: str, digest: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The labels (rows,) uint8 stored under `digest`, and their true probabilities if known."""
    path = Path(root) / dataset / LABELS / f"{digest}.npy"
    truth_path = path.with_suffix(".truth.npy")
    labels = _load(path)
    truth = _load(truth_path) if truth_path.exists() else None
    if truth is not None and truth.shape != labels.shape:
        raise RunError(
            f"{truth_path}: {truth.shape} probabilities for {labels.shape} labels; train a member "
            f"again with --force"
        )
    if hashlib.sha256(labels.tobytes()).hexdigest() != digest:
        raise RunError(f"{path}: the labels were changed after they were stored")
    return labels, truth


def _load(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise RunError(
            f"{path}: unreadable labels ({error}); train a member again with --force"
        ) from error
    return array


def _save(path: Path, array: np.ndarray) -> None:
    """Write `array` in one step; members trained side by side may do so at once."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    np.save(partial, array, allow_pickle=False)
    partial.replace(path)
