"""How the log loss falls with the number of merged members, and where that stops to matter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modules.scoring.metrics import ROUNDING


@dataclass(frozen=True)
class Curve:
    """The log loss of K merged members as limit + scale / K, in nats.

    residual: root mean square of what the fit misses at the measured K.
    """

    limit: float
    scale: float
    residual: float

    def at(self, k: float) -> float:
        """The fitted log loss of K members."""
        return self.limit + self.scale / k

    def enough(self, noise: float) -> float:
        """The K beyond which all further members together are expected to gain less than `noise`.

        From K on, scale / K is left to gain. 1 where one member is enough already.
        """
        if self.scale <= max(noise, ROUNDING):
            return 1
        return math.ceil(self.scale / noise) if noise > 0 else math.inf


def fit_curve(k: np.ndarray, logloss: np.ndarray) -> Curve:
    """Least squares over the measured K, which must be two at least.

    The form is what independent members give: the mean of K has 1/K of the spread of one.
    """
    design = np.column_stack([np.ones(len(k)), 1 / np.asarray(k, float)])
    (limit, scale), *_ = np.linalg.lstsq(design, logloss, rcond=None)
    residual = float(np.sqrt(np.mean((design @ [limit, scale] - logloss) ** 2)))
    return Curve(float(limit), float(scale), residual)


def curve_table(merged: pd.DataFrame, pool: str, noise: dict[str, float]) -> pd.DataFrame:
    """One fit a group that has two sizes at least: limit, scale, residual, and the K enough.

    noise: for each group the gain in nats that its test rows cannot tell from none.
    """
    rows = []
    for group, level in noise.items():
        sizes = merged[(merged["group"] == group) & (merged["pool"] == pool)]
        if len(sizes) < 2:
            continue
        curve = fit_curve(sizes["k"].to_numpy(), sizes["test_logloss"].to_numpy())
        rows.append(
            {
                "group": group,
                "pool": pool,
                "sizes": len(sizes),
                "limit": curve.limit,
                "scale": curve.scale,
                "residual": curve.residual,
                "noise": level,
                "enough": curve.enough(level),
            }
        )
    columns = ["group", "pool", "sizes", "limit", "scale", "residual", "noise", "enough"]
    return pd.DataFrame(rows, columns=columns)
