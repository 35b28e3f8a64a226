"""Groups: which subsets of the members are merged with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd

from modules.scoring.members import Members
from modules.scoring.selection import best_choices, forward_selection, turned

ALL = "all"  # K of all members of all models
MIXED = "mixed"  # a member of each of K models, of different seeds; chosen on validation
SELECTED = "selected"  # K members of any model, chosen on validation
SUBSET_SEED = 2021
MAX_EXHAUSTIVE = 8  # models, 255 choices; of more models one is added after another
MAX_SELECTED = 20  # members; beyond that the order of choice is noise


@dataclass(frozen=True)
class Group:
    """Subsets of members, by their size K. Numbers are places in `Members.runs`."""

    name: str
    members: Sequence[int]
    subsets: dict[int, list[tuple[int, ...]]]
    possible: dict[int, int]  # how many subsets of this size there are
    chosen: bool = False  # on validation, so that one set of each size stands for no other


def make_groups(members: Members, scores: pd.DataFrame, max_subsets: int) -> list[Group]:
    """A group for each model; with several models also those of members of different models.

    scores: `score_members(members)`. max_subsets: more subsets of one size than this are sampled.
    """
    by_model = places_by_model(scores)
    groups = [_any_of(model, places, max_subsets) for model, places in by_model.items()]
    if len(by_model) > 1:
        groups += [
            _mixed(members, [by_model[model] for model in sorted(by_model)]),
            _selected(members),
            _any_of(ALL, range(len(scores)), max_subsets),
        ]
    return groups


def places_by_model(scores: pd.DataFrame) -> dict[str, list[int]]:
    """The places of each model's members in the table, models in the table's order."""
    return {
        model: np.flatnonzero(scores["model"] == model).tolist()
        for model in scores["model"].unique()
    }


def choose_subsets(members: int, k: int, max_subsets: int) -> list[tuple[int, ...]]:
    """All subsets of k of `members` members, or a seeded sample of `max_subsets` of them."""
    if comb(members, k) <= max_subsets:
        return list(combinations(range(members), k))
    random = np.random.default_rng([SUBSET_SEED, members, k])
    chosen: set[tuple[int, ...]] = set()
    while len(chosen) < max_subsets:
        chosen.add(tuple(sorted(random.choice(members, k, replace=False).tolist())))
    return sorted(chosen)


def balanced_subsets(members: int, k: int, max_subsets: int) -> list[tuple[int, ...]]:
    """All subsets of k of `members` members; if too many, one a member, which is in k of them.

    A mean over a random sample would count some members more than others, and so differ from the
    mean over all members by more than merging does. Here the members stand in a circle, in seeded
    order, and k neighbours are a subset.
    """
    if comb(members, k) <= max_subsets:
        return list(combinations(range(members), k))
    circle = np.random.default_rng([SUBSET_SEED, members]).permutation(members)
    return [tuple(sorted(np.roll(circle, -start)[:k].tolist())) for start in range(members)]


def _any_of(name: str, places: Sequence[int], max_subsets: int) -> Group:
    size = len(places)
    subsets = {
        k: [tuple(places[i] for i in subset) for subset in choose_subsets(size, k, max_subsets)]
        for k in range(1, size + 1)
    }
    return Group(name, places, subsets, {k: comb(size, k) for k in subsets})


def _mixed(members: Members, by_model: Sequence[Sequence[int]]) -> Group:
    """The best K models in turn: the r-th seed of the first, the next one of the second, ...

    Where all models have the same seeds, and K at least, no two members are of one seed.
    """
    seeds = min(map(len, by_model))
    logits = members.logits("val")
    candidates = [[logits[i] for i in places[:seeds]] for places in by_model]
    labels = members.labels["val"]
    if len(by_model) <= MAX_EXHAUSTIVE:
        choices = best_choices(candidates, labels)
    else:
        path, _ = forward_selection(candidates, labels, len(by_model), repeat=False)
        choices = [tuple(path[:k]) for k in range(1, len(path) + 1)]
    subsets = {}
    for models in choices:
        turns = [turned(by_model[model][:seeds], place) for place, model in enumerate(models)]
        subsets[len(models)] = list(zip(*turns, strict=True))
    places = sorted(i for places in by_model for i in places[:seeds])
    return Group(MIXED, places, subsets, dict.fromkeys(subsets, seeds), chosen=True)


def _selected(members: Members) -> Group:
    logits = members.logits("val")
    size = min(len(logits), MAX_SELECTED)
    path, _ = forward_selection([[z] for z in logits], members.labels["val"], size, repeat=False)
    subsets = {k: [tuple(path[:k])] for k in range(1, size + 1)}
    return Group(SELECTED, sorted(path), subsets, dict.fromkeys(subsets, 1), chosen=True)
