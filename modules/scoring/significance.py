"""How sure a difference is: paired intervals for AUC and log loss on the same test rows.

AUC: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), by sorting as in Sun and Xu, IEEE
Signal Processing Letters 21 (2014). The AUC is the mean over positive rows of the share of
negative rows below them, and over negative rows of the share of positive rows above them; these
shares are its structural components, and the variance of a difference of AUCs is that of the
difference of the components. Being means, the components of a mean AUC over several predictions
are the means of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from modules.scoring.metrics import Floats, MetricError, count_below, row_loss
from modules.scoring.threads import num_threads

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Profile:
    """What each test row contributes to a contender's scores, as a mean over its predictions.

    wins: (positives,) share of the negative rows ranked below each positive one. losses:
    (negatives,) share of the positive rows ranked above each negative one. nats: (rows,) log loss.
    aucs, loglosses: of each prediction alone.
    """

    wins: Floats
    losses: Floats
    nats: Floats
    aucs: Floats
    loglosses: Floats


@dataclass(frozen=True)
class Difference:
    """A difference and its standard error; above 0 the first contender is better."""

    value: float
    error: float

    @property
    def low(self) -> float:
        return self.value - Z95 * self.error

    @property
    def high(self) -> float:
        return self.value + Z95 * self.error


def profile(predictions: Iterable[np.ndarray], labels: np.ndarray) -> Profile:
    """The profile of predictions, logits (rows,) each, on rows with these labels (rows,)."""
    clicks = np.asarray(labels, dtype=bool)
    positives, negatives = int(clicks.sum()), int((~clicks).sum())
    if min(positives, negatives) < 2:
        raise MetricError(
            f"an interval needs two test rows of each class, but {positives} are positive and "
            f"{negatives} are not; prepare a larger log"
        )
    wins, losses, nats = np.zeros(positives), np.zeros(negatives), np.zeros(len(labels))
    aucs, loglosses = [], []
    left = iter(predictions)
    with ThreadPoolExecutor(num_threads()) as threads:
        while batch := list(islice(left, num_threads())):  # memory: as many as are worked on
            for won, lost, lost_nats in threads.map(partial(_components, labels, clicks), batch):
                wins += won
                losses += lost
                nats += lost_nats
                aucs.append(won.mean())
                loglosses.append(lost_nats.mean())
    count = len(aucs)
    return Profile(wins / count, losses / count, nats / count, np.array(aucs), np.array(loglosses))


def auc_difference(one: Profile, other: Profile) -> Difference:
    """AUC of `one` less that of `other`, on the same rows."""
    wins, losses = one.wins - other.wins, one.losses - other.losses
    variance = wins.var(ddof=1) / len(wins) + losses.var(ddof=1) / len(losses)
    return Difference(float(wins.mean()), float(np.sqrt(variance)))


def logloss_gain(one: Profile, other: Profile) -> Difference:
    """Log loss of `other` less that of `one`, in nats, on the same rows."""
    gains = other.nats - one.nats
    return Difference(float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains))))


def _components(
    labels: np.ndarray, clicks: np.ndarray, logits: np.ndarray
) -> tuple[Floats, Floats, Floats]:
    """The structural components of one AUC, ranked in float32 as every saved prediction; nats."""
    scores = np.asarray(logits, dtype=np.float32)
    clicked, other = scores[clicks], scores[~clicks]
    order_clicked, order_other = np.argsort(clicked), np.argsort(other)
    clicked, other = clicked[order_clicked], other[order_other]
    wins, losses = np.empty(len(clicked)), np.empty(len(other))
    below, tied = count_below(other, clicked)
    wins[order_clicked] = (below + tied / 2) / len(other)
    below, tied = count_below(clicked, other)
    losses[order_other] = 1 - (below + tied / 2) / len(clicked)
    return wins, losses, row_loss(labels, np.asarray(logits, np.float64))
