"""Are predicted probabilities met? Calibration before and after merging."""

from __future__ import annotations

import numpy as np
import pandas as pd

from modules.scoring.groups import ALL, places_by_model
from modules.scoring.members import Members
from modules.scoring.merging import merge_subset
from modules.scoring.metrics import sigmoid

BINS = 15


def reliability(labels: np.ndarray, logits: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Equally many rows a bin, by predicted probability: rows, mean predicted, share clicked.

    Rows of one prediction count alike, by the share of them that was clicked: which of them stand
    on which side of a bin's end says nothing.
    """
    distinct, which, counts = np.unique(logits, return_inverse=True, return_counts=True)
    probabilities = np.repeat(sigmoid(distinct), counts)
    clicks = np.repeat(np.bincount(which, labels) / counts, counts)
    starts = np.unique(np.linspace(0, len(clicks), bins + 1).astype(int)[:-1])
    rows = np.diff(np.r_[starts, len(clicks)])
    return pd.DataFrame(
        {
            "bin": np.arange(len(rows)),
            "rows": rows,
            "predicted": np.add.reduceat(probabilities, starts) / rows,
            "clicked": np.add.reduceat(clicks, starts) / rows,
        }
    )


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Mean over rows of |predicted - clicked| of their bin (Naeini et al., AAAI 2015)."""
    misses = (table["predicted"] - table["clicked"]).abs()
    return float((misses * table["rows"]).sum() / table["rows"].sum())


def calibration_table(members: Members, scores: pd.DataFrame, pool: str) -> pd.DataFrame:
    """Bins of each group's member best on validation, and of all its members merged."""
    groups = places_by_model(scores)
    if len(groups) > 1:
        groups[ALL] = list(range(len(scores)))
    labels = members.labels["test"]
    tables = []
    for group, places in groups.items():
        best = max(places, key=lambda i: scores["val_auc"].iloc[i])
        logits = {
            "member": members.runs[best].logits("test"),
            "merged": merge_subset(members, scores, places, pool),
        }
        for who, predicted in logits.items():
            bins = reliability(labels, predicted)
            bins.insert(0, "group", group)
            bins.insert(1, "prediction", who)
            tables.append(bins)
    return pd.concat(tables, ignore_index=True)
