"""Averaged weights: of members from independent seeds, and of late checkpoints of one run.

Weights that lie in different basins have no useful mean (Wortsman et al., arXiv 2203.05482), so
the first is expected to fail; the second (Izmailov et al., arXiv 1803.05407) is the fair version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from modules.config import RunConfig, setting_differences, with_defaults
from modules.runs import Member, RunError, read_member, read_settings, run_folder
from modules.training import Epoch, Trainer, TrainingBatch
from modules.weights import load_weights, save_weights

SAME = ("training", "model_settings")  # settings that the members of a soup have in common


class WeightMean:
    """The running mean of networks' weights. Counters (of batch normalisation) are the last's."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, Tensor] = {}

    def add(self, state: dict[str, Tensor]) -> None:
        """Take in the weights of one more network of the same shape."""
        self.count += 1
        for name, tensor in state.items():
            if self.count == 1 or not tensor.is_floating_point():
                self.mean[name] = tensor.clone()
            else:
                self.mean[name].lerp_(tensor, 1 / self.count)


class SeedSoupTrainer(Trainer):
    """Does not train: its network is the mean of the base members of seeds n .. n + members - 1.

    n is the seed of the run. Raises `RunError` where one of them is missing, was trained with other
    settings or on other data, or has lost its weights.
    """

    def __init__(self, config: RunConfig, *args: Any, runs: Path, members: int) -> None:
        super().__init__(config, *args)
        seeds = range(config.seed, config.seed + members)
        self.members = [self._read_base_member(config.with_seed(seed), runs) for seed in seeds]
        self.seconds_before = sum(float(member.report["seconds"]) for member in self.members)
        self.averaged = {member.name: _val_logloss(member) for member in self.members}

    def fit(self) -> list[Epoch]:
        """Average the members' weights; there are no epochs."""
        mean = WeightMean()
        for member in self.members:
            load_weights(self.network, member.folder)
            mean.add(self.network.state_dict())
        self.network.load_state_dict(mean.mean)
        self.best_val_logits = self.predict("val")
        save_weights(self.network, self.folder)
        names = ", ".join(member.name for member in self.members)
        (self.folder / "log.txt").write_text(f"mean weights of {names}\n")
        return []

    def _read_base_member(self, config: RunConfig, runs: Path) -> Member:
        folder = run_folder(runs, config.dataset, config.model, "base", config.seed)
        if not folder.exists():
            raise RunError(
                f"arm '{config.arm}' averages base members, and {folder} is missing; train the "
                f"arm base first, as in --arms base,{config.arm}"
            )
        member = read_member(folder)
        if member.fingerprint != self.schema.fingerprint:
            raise RunError(f"{folder} was trained on other data; train the arm base again")
        there = with_defaults(read_settings(folder))
        here = yaml.safe_load(config.to_yaml())
        for key in SAME:
            for setting, old, new in setting_differences(there[key], here[key]):
                raise RunError(
                    f"{folder} was trained with {setting}={old}, and arm '{config.arm}' is asked "
                    f"for with {setting}={new}; give both the same settings"
                )
        return member


def averages_present_members(soup: Member) -> bool:
    """Whether the members of a soup are still those that it averaged, or gone."""
    folders = {soup.folder.parents[2] / name: loss for name, loss in _averaged(soup).items()}
    return all(
        _val_logloss(read_member(folder)) == loss
        for folder, loss in folders.items()
        if folder.exists()
    )


def _averaged(soup: Member) -> dict[str, float]:
    averaged: dict[str, float] = soup.report.get("averaged", {})  # older runs do not say
    return averaged


def _val_logloss(member: Member) -> float:
    return float(member.report["metrics"]["val"]["logloss"])


class LateSoupTrainer(Trainer):
    """At the end of every epoch, the mean of checkpoints of its second half is what is scored.

    The checkpoints are taken at equal distances, the last one at the epoch's end. Training goes on
    from the weights as they were, not from their mean; with one checkpoint this is the base arm.
    """

    def __init__(self, config: RunConfig, *args: Any, snapshots: int) -> None:
        super().__init__(config, *args)
        steps = -(-self.schema.rows["train"] // self.settings.batch_size)
        gap = steps / 2 / max(1, snapshots - 1)
        if snapshots > 1 and gap < 1:
            raise RunError(
                f"arm '{config.arm}': an epoch of {steps} steps has no {snapshots} checkpoints in "
                f"its second half; use fewer, or --set a smaller batch_size"
            )
        self.at_steps = {steps - min(round(gap * back), steps // 2) for back in range(snapshots)}
        self.step_of_epoch = 0
        self.mean = WeightMean()
        self.trained: dict[str, Tensor] | None = None  # the weights behind the mean

    def train_epoch(self, number: int) -> float:
        if self.trained is not None:
            self.network.load_state_dict(self.trained)
        self.step_of_epoch, self.mean = 0, WeightMean()
        loss = super().train_epoch(number)
        self.trained = {name: tensor.clone() for name, tensor in self._weights().items()}
        self.network.load_state_dict(self.mean.mean)
        return loss

    def train_step(self, batch: TrainingBatch) -> Tensor:
        loss = super().train_step(batch)
        self.step_of_epoch += 1
        if self.step_of_epoch in self.at_steps:
            self.mean.add(self._weights())
        return loss

    def _weights(self) -> dict[str, Tensor]:
        self.table_optimizer.synchronize()
        return self.network.state_dict()
