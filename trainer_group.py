"""Train a grid of members: `python trainer_group.py --dataset criteo --models deepfm --seeds 5`.

What is complete is skipped; a member that fails does not stop the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from modules.cli import add_shared_arguments, parse_seeds
from modules.config import Arm, ConfigError, RunConfig, resolve
from modules.group import (
    USER_ERRORS,
    Planned,
    State,
    plan_group,
    summarise,
    train_group,
)
from modules.models import MODELS
from modules.names import split_names
from modules.runs import RunError
from modules.training import resolve_device


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    data = args.data or Path("data/encoded") / args.dataset
    try:
        planned = plan_group(_configs(args), data, args.runs, force=args.force)
        device = resolve_device(args.device)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _print_plan(planned, f"{args.dataset} ({data}) on {device}")
    if args.dry_run:
        return 0
    try:
        return _train(planned, data, args.runs, device)
    except KeyboardInterrupt:
        goes_on = "--force would train them again" if args.force else "the same command goes on"
        print(f"interrupted: complete members are kept, {goes_on}", file=sys.stderr)
        return 130


def _train(planned: Sequence[Planned], data: Path, runs: Path, device: torch.device) -> int:
    failures = []
    for number, outcome in enumerate(train_group(planned, data, runs, device), start=1):
        place = f"[{number}/{len(planned)}]"
        if outcome.member is None:
            failures.append(f"{outcome.planned.name}: {outcome.failure}")
            print(f"{place} FAILED {failures[-1]}", flush=True)
        else:
            done = " (was complete)" if outcome.planned.state is State.COMPLETE else ""
            print(f"{place} {summarise(outcome.member)}{done}", flush=True)
    complete = len(planned) - len(failures)
    print(f"{complete} of {len(planned)} members are complete", flush=True)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--models", type=split_names, help="default: all, or none beside --joint")
    parser.add_argument("--seeds", default="5", help="5: five from the configured first; or 1,2,3")
    parser.add_argument(
        "--arms",
        type=split_names,
        default=["base"],
        help="base,width:2,depth:2,joint:2,multi:2,soup:5,soup-late:5",
    )
    parser.add_argument(
        "--joint",
        type=split_names,
        default=[],
        metavar="MIX",
        help="architectures trained jointly, with a dimension for each: rankmixer:24+wukong:16",
    )
    parser.add_argument("--executor", default="inline", choices=["inline"])
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    add_shared_arguments(parser)
    return parser.parse_args(argv)


def _configs(args: argparse.Namespace) -> list[RunConfig]:
    """The grid models x arms x seeds, in this order, soups last of a model; then the mixes."""
    models = args.models or ([] if args.joint else list(MODELS))
    arms = sorted(args.arms, key=lambda arm: arm.startswith("soup:"))  # need the base
    for mix in args.joint:
        if "+" not in mix:
            raise ConfigError(
                f"--joint {mix}: a mix names two modules at least, as {mix}+{mix}; for one "
                f"architecture alone there is --arms joint:2"
            )
    grid = [(model, arm) for model in models for arm in arms]
    configs = []
    for model, arm in [*grid, *((mix, "base") for mix in args.joint)]:
        first = resolve(
            args.dataset,
            model,
            arm=arm,
            profiles=args.profile,
            overrides=args.set,
            models=models,
        )
        seeds = parse_seeds(args.seeds, first.seed)
        if Arm.parse(first.arm).kind == "soup":
            seeds = _soup_seeds(arm, seeds)
        configs += [first.with_seed(seed) for seed in seeds]
    return configs


def _soup_seeds(arm: str, seeds: Sequence[int]) -> list[int]:
    """The seeds of the soups that can be made of the members of `seeds`, each used once."""
    size = int(Arm.parse(arm).k)
    firsts: list[int] = []
    for seed in sorted(seeds):
        needed = set(range(seed, seed + size))
        if needed <= set(seeds) and (not firsts or seed >= firsts[-1] + size):
            firsts.append(seed)
    if not firsts:
        raise RunError(
            f"arm '{arm}' averages {size} members of consecutive seeds, and --seeds gives "
            f"{', '.join(map(str, seeds))}; give --seeds {size} or more"
        )
    return firsts


def _print_plan(planned: Sequence[Planned], where: str) -> None:
    print(f"plan: {len(planned)} members of {where}")
    for entry in planned:
        print(f"  {entry.name}: {entry.state.value}")


if __name__ == "__main__":
    sys.exit(main())
