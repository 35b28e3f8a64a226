"""How fast predictions are scored and merged, against scikit-learn on the same numbers.

    python scripts/bench/scoring.py --rows 4000000 --members 10

One JSON line a figure: ours, the reference in the same run, the ratio (above 1: we are better).
The members are planted, written to disk and memory-mapped, as a merge reads them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.scoring.groups import choose_subsets
from modules.scoring.merging import score_merged
from modules.scoring.metrics import auc, logloss, sigmoid
from modules.scoring.pools import POOLS, equal_weights
from modules.scoring.significance import auc_difference, profile


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--max-subsets", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3, help="of a metric; the median is printed")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-scoring-") as folder:
        labels, members = _plant(Path(folder), arguments.rows, arguments.members)
        _metrics(labels, members[0], arguments.runs)
        _curves(labels, members, arguments.max_subsets)
        seconds = _timed(lambda: auc_difference(*(profile([z], labels) for z in members[:2])))
        _print("paired DeLong interval", seconds, None, "s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _print("peak memory", peak, None, "GiB")


def _plant(folder: Path, rows: int, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels, and the logits of members that miss the true ones by noise, on disk."""
    random = np.random.default_rng(0)
    truth = random.normal(-1.5, 1.2, rows)
    labels = (random.random(rows) < sigmoid(truth)).astype(np.uint8)
    members = []
    for number in range(count):
        path = folder / f"{number}.npy"
        np.save(path, (truth + random.normal(0, 0.4, rows)).astype(np.float32))
        members.append(np.load(path, mmap_mode="r", allow_pickle=False))
    return labels, members


def _metrics(labels: np.ndarray, logits: np.ndarray, runs: int) -> None:
    ours, theirs = [], []
    for _ in range(runs):  # in turns, so that other work on the machine meets both
        ours.append(_timed(lambda: (auc(labels, logits), logloss(labels, logits))))
        theirs.append(_timed(lambda: _scikit_learn(labels, logits)))
    _print("AUC and log loss", statistics.median(ours), statistics.median(theirs), "s")
    expected = _scikit_learn(labels, logits)
    error = max(abs(auc(labels, logits) - expected[0]), abs(logloss(labels, logits) - expected[1]))
    _print("largest difference to scikit-learn", error, None, "")


def _scikit_learn(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    return (
        float(roc_auc_score(labels, logits)),
        float(log_loss(labels, sigmoid(logits))),
    )


def _curves(labels: np.ndarray, members: Sequence[np.ndarray], max_subsets: int) -> None:
    """Every K in both plain pools; the reference scores one merge, times their number."""
    subsets = [
        subset
        for k in range(1, len(members) + 1)
        for subset in choose_subsets(len(members), k, max_subsets)
    ]
    weights = equal_weights(subsets, len(members))
    one = _timed(lambda: _scikit_learn(labels, np.mean(members, axis=0)))
    for pool in ("prob", "logit"):
        seconds = _timed(partial(score_merged, POOLS[pool].mean, weights, members, labels))
        name = f"all K curves, {len(subsets)} merges by {POOLS[pool].title}"
        _print(name, seconds, one * len(subsets), "s")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _print(name: str, ours: float, reference: float | None, unit: str) -> None:
    figure = {
        "name": name,
        "ours": float(f"{ours:.3g}"),
        "reference": None if reference is None else float(f"{reference:.3g}"),
        "ratio": None if reference is None else float(f"{reference / ours:.3g}"),
        "unit": unit,
    }
    print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
