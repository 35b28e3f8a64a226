"""A group of members: what is complete, what is to train, and the training of that."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from data.schema import DataError, Schema, read_schema
from modules.arms import resolved_settings
from modules.config import Arm, ConfigError, RunConfig, setting_differences, with_defaults
from modules.models import ModelError
from modules.runs import (
    SCORED_SPLITS,
    Member,
    RunError,
    read_member,
    read_settings,
    run_folder,
)
from modules.scoring.metrics import MetricError
from modules.soup import LateSoupTrainer, SeedSoupTrainer, averages_present_members
from modules.training import Trainer, train_member
from modules.weights import has_weights

# What a user can cause; anything else that ends a member is a defect and shows its traceback.
USER_ERRORS = (DataError, RunError, ModelError, ConfigError, MetricError, OSError)


class State(Enum):
    """Whether a member still has to be trained."""

    MISSING = "to train"
    COMPLETE = "complete"
    REDO = "to train again"
    OTHER_DATA = "to train again (made from other data, which is set aside)"


@dataclass(frozen=True)
class Planned:
    """One member of the group and what is to be done for it.

    replaces: the inode of the run that is done again because that was asked for.
    """

    config: RunConfig
    state: State
    replaces: int | None = None

    @property
    def name(self) -> str:
        return f"{self.config.model}/{self.config.arm}/seed-{self.config.seed}"


@dataclass(frozen=True)
class Outcome:
    """What became of one planned member: the member, or the reason why there is none."""

    planned: Planned
    member: Member | None
    failure: str = ""


def plan_group(
    configs: Sequence[RunConfig], data: Path, runs: Path, *, force: bool = False
) -> list[Planned]:
    """The state of every member; `force` redoes the complete ones.

    A run made from other data (its schema differs), or without its weights or predictions, is
    trained again; so is a soup whose members were. Raises `RunError` where a run cannot be read or
    was made with other settings, or where two configs have one place, `ConfigError` where a model
    has no such arm, and `DataError` where the data set cannot be read.
    """
    schema = read_schema(data)
    planned = [_plan(config, runs, schema, force) for config in configs]
    for place, entry in enumerate(planned):
        if entry.name in (other.name for other in planned[:place]):
            raise RunError(
                f"two members would both be {entry.name}; train one of them with --runs DIR"
            )
    return planned


def train_group(
    planned: Sequence[Planned], data: Path, runs: Path, device: torch.device
) -> Iterator[Outcome]:
    """Train what is to train, yielding each outcome; a failing member does not stop the rest.

    A member that another process has completed since it was planned is taken as it is.
    """
    for entry in planned:
        try:
            now = entry
            if entry.replaces is None or entry.replaces != _inode(_folder(entry.config, runs)):
                (now,) = plan_group([entry.config], data, runs)
            yield Outcome(now, _member(now, data, runs, device))
        except USER_ERRORS as error:
            yield Outcome(entry, None, str(error))
        except Exception as error:
            traceback.print_exc()
            yield Outcome(entry, None, repr(error))


def _member(planned: Planned, data: Path, runs: Path, device: torch.device) -> Member:
    """The member as it is, or trained."""
    config = planned.config
    folder = _folder(config, runs)
    if planned.state is State.COMPLETE:
        return read_member(folder)
    return train_member(
        config,
        data,
        runs,
        device,
        replace=planned.state is State.REDO,
        aside=_aside(folder) if planned.state is State.OTHER_DATA else None,
        make_trainer=_trainer_of(config, runs),
    )


def _trainer_of(config: RunConfig, runs: Path) -> Callable[..., Trainer]:
    """The kind of trainer that an arm takes."""
    arm = Arm.parse(config.arm)
    if arm.kind == "soup":
        return partial(SeedSoupTrainer, runs=runs, members=int(arm.k))
    if arm.kind == "soup-late":
        return partial(LateSoupTrainer, snapshots=int(arm.k))
    return Trainer


def summarise(member: Member) -> str:
    """One line: who, how good, at what cost."""
    report = member.report
    test = report["metrics"]["test"]
    return (
        f"{member.name}: test AUC {test['auc']:.5f}, log loss {test['logloss']:.5f}, "
        f"val AUC {report['metrics']['val']['auc']:.5f} in epoch {report['best_epoch']} of "
        f"{len(report['epochs'])}, {report['seconds']:.1f} s, "
        f"{report['rows_per_second']:,.0f} rows/s"
    )


def _folder(config: RunConfig, runs: Path) -> Path:
    return run_folder(runs, config.dataset, config.model, config.arm, config.seed)


def _inode(folder: Path) -> int | None:
    """What tells a run from another one that took its place; None where there is none."""
    return folder.stat().st_ino if folder.exists() else None


def _plan(config: RunConfig, runs: Path, schema: Schema, force: bool) -> Planned:
    settings = resolved_settings(config, schema.num_fields)
    there = _inode(_folder(config, runs))
    if there is None:
        return Planned(config, State.MISSING)
    if force:
        other = _is_of_other_data(_folder(config, runs), schema)
        return Planned(config, State.OTHER_DATA if other else State.REDO, replaces=there)
    return Planned(config, _state_of_run(_folder(config, runs), settings, schema))


def _state_of_run(folder: Path, settings: dict[str, Any], schema: Schema) -> State:
    """The state of the run in `folder`, which was asked for with these settings."""
    member = read_member(folder)
    if member.fingerprint != schema.fingerprint:
        return State.OTHER_DATA
    there = with_defaults(read_settings(folder))
    differences = [
        f"{key} is {old!r} there and {new!r} here"
        for key, old, new in setting_differences(there, yaml.safe_load(yaml.safe_dump(settings)))
    ]
    if differences:
        raise RunError(
            f"{folder} was trained with other settings: {'; '.join(differences)}. "
            f"--force trains it again, --runs DIR keeps both"
        )
    return State.COMPLETE if _is_whole(member) else State.REDO


def _is_of_other_data(folder: Path, schema: Schema) -> bool:
    """Whether a run was made from other data; one that cannot be read counts as of this."""
    try:
        return read_member(folder).fingerprint != schema.fingerprint
    except RunError:
        return False


def _is_whole(member: Member) -> bool:
    """Whether weights and predictions are there, and those that a soup was made of."""
    try:
        for split in SCORED_SPLITS:
            member.logits(split)
    except RunError:
        return False
    return has_weights(member.folder) and averages_present_members(member)


def _aside(folder: Path) -> Path:
    """Where a run that was made from other data is kept: beside its place, named by that data."""
    return folder.with_name(f"{folder.name}.data-{read_member(folder).fingerprint[:8]}")
