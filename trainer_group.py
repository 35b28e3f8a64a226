"""Train a grid of members: `python trainer_group.py --dataset criteo --models deepfm --seeds 5`.

What is complete is skipped; a member that fails does not stop the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.cli import add_shared_arguments, parse_seeds
from modules.config import RunConfig, resolve
from modules.group import (
    USER_ERRORS,
    Planned,
    State,
    plan_group,
    summarise,
    train_group,
)
from modules.models import MODELS
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
    failures = []
    for number, outcome in enumerate(train_group(planned, data, args.runs, device), start=1):
        place = f"[{number}/{len(planned)}]"
        if outcome.member is None:
            failures.append(f"{outcome.planned.name}: {outcome.failure}")
            print(f"{place} FAILED {failures[-1]}", flush=True)
        else:
            done = " (was complete)" if outcome.planned.state is State.COMPLETE else ""
            print(f"{place} {summarise(outcome.member)}{done}", flush=True)
    print(f"{len(planned) - len(failures)} of {len(planned)} members are complete")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="default: all")
    parser.add_argument("--seeds", default="5", help="5: five from the configured first; or 1,2,3")
    parser.add_argument("--arms", default="base")
    parser.add_argument("--executor", default="inline", choices=["inline"])
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    add_shared_arguments(parser)
    return parser.parse_args(argv)


def _configs(args: argparse.Namespace) -> list[RunConfig]:
    """The grid models x arms x seeds, in this order."""
    models = args.models.split(",")
    configs = []
    for model in models:
        for arm in args.arms.split(","):
            first = resolve(
                args.dataset,
                model,
                arm=arm,
                profiles=args.profile,
                overrides=args.set,
                models=models,
            )
            configs += [first.with_seed(seed) for seed in parse_seeds(args.seeds, first.seed)]
    return configs


def _print_plan(planned: Sequence[Planned], where: str) -> None:
    print(f"plan: {len(planned)} members of {where}")
    for entry in planned:
        print(f"  {entry.name}: {entry.state.value}")


if __name__ == "__main__":
    sys.exit(main())
