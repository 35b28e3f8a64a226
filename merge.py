"""Merge the saved predictions of a data set's members and report what that gains."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.runs import RunError
from modules.scoring.members import load_members, score_members
from modules.scoring.merging import POOLS, check_pools, merge_members
from modules.scoring.report import About, answer, main_table, write_results


def main(argv: Sequence[str] | None = None) -> int:
    """Merge, print the answer and where the results lie; 1 and one line for what cannot be."""
    flags = _parser().parse_args(argv)
    try:
        check_pools(flags.pool)
        members = load_members(flags.runs, flags.dataset, models=flags.models, arm=flags.arm)
        scores = score_members(members)
        merged = merge_members(members, scores, pools=flags.pool, max_subsets=flags.max_subsets)
        about = About.of(flags.dataset, members)
        report, picture = write_results(flags.results / flags.dataset, about, scores, merged)
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Merging on the {about.log}\n\n{main_table(scores, merged)}\n")
    print(f"{answer(scores, merged)}\n\nreport:  {report}\npicture: {picture}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="name of the data set, as in runs/")
    parser.add_argument("--models", type=_names, help="comma-separated; default: all trained")
    parser.add_argument(
        "--pool", type=_names, default=list(POOLS), help="comma-separated; default: prob,logit"
    )
    parser.add_argument("--arm", default="base", help="default: %(default)s")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="default: %(default)s"
    )
    parser.add_argument(
        "--max-subsets",
        type=_positive,
        default=64,
        metavar="N",
        help="score all subsets of K members up to N of them, else a sample; default: %(default)s",
    )
    return parser


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",")))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
