"""Run folders as the trainer writes them, filled with planted predictions instead of trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from modules.runs import run_folder, store_labels
from modules.scoring.metrics import auc, logloss, sigmoid

ROWS = {"train": 3200, "val": 400, "test": 500}


class FakeLog:
    """A planted log: true logits and labels of the scored splits."""

    def __init__(self, seed: int = 0, rows: dict[str, int] | None = None) -> None:
        self.random = np.random.default_rng(seed)
        self.rows = rows or ROWS
        self.true_logits = {
            split: self.random.normal(-1.0, 1.2, self.rows[split]) for split in ("val", "test")
        }
        self.labels = {
            split: (self.random.random(len(z)) < sigmoid(z)).astype(np.uint8)
            for split, z in self.true_logits.items()
        }

    def predictions(self, noise: float) -> dict[str, np.ndarray]:
        """Logits float32 that miss the true ones by normal noise."""
        return {
            split: (z + self.random.normal(0, noise, len(z))).astype(np.float32)
            for split, z in self.true_logits.items()
        }

    def write_run(
        self,
        root: Path,
        model: str,
        seed: int,
        *,
        dataset: str = "avazu",
        arm: str = "base",
        noise: float = 0.5,
        macs: int = 1000,
        latency: float | None = None,
        predictions: dict[str, np.ndarray] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Path:
        """Write one complete run under `root` and return its folder."""
        logits = predictions or self.predictions(noise)
        hashes = {
            split: store_labels(root, dataset, labels, sigmoid(self.true_logits[split]))
            for split, labels in self.labels.items()
        }
        report: dict[str, Any] = {
            "dataset": dataset,
            "model": model,
            "arm": arm,
            "seed": seed,
            "metrics": {
                split: {
                    "auc": auc(labels, logits[split]),
                    "logloss": logloss(labels, logits[split]),
                }
                for split, labels in self.labels.items()
            },
            "labels": hashes,
            "best_epoch": 1,
            "epochs": [],
            "parameters": {"table": 10_000, "dense": 500},
            "macs_per_row": macs,
            **({} if latency is None else {"latency_ms": latency}),
            "seconds": 2.5,
            "rows_per_second": 1000.0,
            "data": {
                "fingerprint": "f" * 64,
                "synthetic": True,
                "rows": self.rows,
                "positives": {
                    "train": 900,
                    **{split: int(labels.sum()) for split, labels in self.labels.items()},
                },
            },
            "versions": {"python": "3.11", "torch": "2.13.0", "numpy": "2.4.6"},
            "device": "cpu",
            "machine": "a test's machine, 2 cores",
            "latency_machine": "a server, 4 cores",
            "git_commit": None,
        }
        folder = run_folder(root, dataset, model, arm, seed)
        folder.mkdir(parents=True)
        for split, values in logits.items():
            np.save(folder / f"{split}.npy", values)
        (folder / "report.json").write_text(json.dumps(report))
        content = {"training": {"lr": 1e-3, **(settings or {})}, "model_settings": {}}
        (folder / "config.yaml").write_text(yaml.safe_dump(content))
        return folder


def read_report(folder: Path) -> dict[str, Any]:
    """What a run reported."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def edit_report(folder: Path, **changes: Any) -> None:
    """Replace top-level entries of a run's report."""
    (folder / "report.json").write_text(json.dumps({**read_report(folder), **changes}))
