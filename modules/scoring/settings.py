"""Which arms were trained with other settings than the base that they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.runs import Member, read_settings
from modules.scoring.members import MIX, Members, reported


def own_settings(members: Members) -> dict[str, dict[str, str]]:
    """For each arm of a model, `dcnv2/width:2`, the settings that are not those of its base.

    A value is as "0.002 (base 0.004205)", several values over seeds as "0.002, 0.003 (base 0.001)".
    The merged arm is listed where its own seeds differ, by what they have: "0.001, 0.002". Joint
    mixes of several models have no one base and are left out; settings that the program did not
    have yet when one of the two was trained are not compared. One of them is the `encoding` of the
    rows, by the first digits of its fingerprint. Raises `RunError` where a run's settings cannot be
    read.
    """
    base = _values_by_arm(members.runs)
    of_model = {name.partition("/")[0]: values for name, values in base.items()}
    found = {}
    for name, values in base.items():
        found[name] = {key: _join(each) for key, each in values.items() if len(each) > 1}
    for name, values in _values_by_arm(members.rivals).items():
        there = of_model[name.partition("/")[0]]
        found[name] = {
            key: f"{_join(each)} (base {_join(there[key])})"
            for key, each in values.items()
            if key in there and set(map(str, each)) != set(map(str, there[key]))
        }
    return {name: settings for name, settings in found.items() if settings}


def _values_by_arm(runs: Sequence[Member]) -> dict[str, dict[str, list[Any]]]:
    """For each model/arm the values that its seeds have of each setting, in order of seeds."""
    arms: dict[str, dict[str, list[Any]]] = {}
    for run in runs:
        if MIX in run.model:
            continue
        values = arms.setdefault(f"{run.model}/{run.arm}", {})
        settings = read_settings(run.folder)
        encoding = {"encoding": reported(run, "data", "fingerprint")[:8]}
        for key, value in {
            **settings["training"],
            **settings["model_settings"],
            **encoding,
        }.items():
            if value not in values.setdefault(key, []):
                values[key].append(value)
    return arms


def _join(values: Sequence[Any]) -> str:
    return ", ".join(sorted("none" if value is None else str(value) for value in values))
