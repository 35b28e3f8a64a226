"""Train one member: `python trainer.py --dataset avazu --model deepfm --seed 2021`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.cli import ListModels, add_shared_arguments
from modules.config import resolve
from modules.group import USER_ERRORS, plan_group, summarise, train_group
from modules.training import resolve_device


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--list-models", action=ListModels, help="names, papers and costs; exit")
    parser.add_argument(
        "--model",
        required=True,
        help="lr, fm, deepfm, ... (see --list-models), or a joint mix, rankmixer:24+wukong:16",
    )
    parser.add_argument("--seed", type=int, help="default: the configured first seed")
    parser.add_argument("--arm", default="base", help="base, width:2, depth:2, joint:2, ...")
    add_shared_arguments(parser)
    args = parser.parse_args(argv)
    data = args.data or Path("data/encoded") / args.dataset
    try:
        config = resolve(
            args.dataset,
            args.model,
            seed=args.seed,
            arm=args.arm,
            profiles=args.profile,
            overrides=args.set,
        )
        device = resolve_device(args.device)
        planned = plan_group([config], data, args.runs, force=args.force)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        (outcome,) = train_group(planned, data, args.runs, device)
    except KeyboardInterrupt:
        print("interrupted: what was there before is unchanged", file=sys.stderr)
        return 130
    if outcome.member is None:
        print(f"error: {outcome.failure}", file=sys.stderr)
        return 1
    print(f"[{planned[0].state.value}] {summarise(outcome.member)}")
    print(outcome.member.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
