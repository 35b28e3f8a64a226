"""Merge the saved predictions of a data set's members and compare that with bigger models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data.atomic import check_writable
from modules.names import split_names
from modules.runs import RunError
from modules.scoring.answer import answer
from modules.scoring.comparison import make_tables
from modules.scoring.members import load_members
from modules.scoring.metrics import MetricError
from modules.scoring.pools import POOLS, check_pools
from modules.scoring.report_tables import main_table
from modules.scoring.results import write_results
from modules.scoring.tables import TABLES_NEEDED, Tables, read_tables


def main(argv: Sequence[str] | None = None) -> int:
    """Merge, print the answer and where the results lie; 1 and one line for what cannot be."""
    flags = _parse(argv)
    try:
        tables = read_tables(flags.tables) if flags.tables else _merge(flags)
        folder = _results_folder(flags, tables.about.dataset)
        report, *pictures = write_results(folder, tables, latex=flags.latex)
    except (RunError, MetricError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was there before is unchanged", file=sys.stderr)
        return 130
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if not flags.tables:
            raise
        print(f"error: {flags.tables}: {error!r}; {TABLES_NEEDED}", file=sys.stderr)
        return 1
    print(f"Merging on the {tables.about.log}\n\n{main_table(tables).render('simple')}\n")
    print(f"{answer(tables)}\n\nreport:   {report}")
    print(f"pictures: {', '.join(map(str, pictures))}")
    return 0


def _merge(flags: argparse.Namespace) -> Tables:
    check_pools(flags.pool)
    check_writable(_results_folder(flags, flags.dataset))
    members = load_members(flags.runs, flags.dataset, models=flags.models, arm=flags.arm)
    if members.left_out:
        names = ", ".join(members.left_out)
        print(f"left out, as their models have no base members: {names}", file=sys.stderr)
    return make_tables(
        flags.dataset,
        members,
        pools=flags.pool,
        max_subsets=flags.max_subsets,
        calibration=flags.calibration,
    )


def _results_folder(flags: argparse.Namespace, dataset: str) -> Path:
    """Where the results go; redrawn ones replace those that they come from."""
    if flags.results is None and flags.tables:
        return Path(flags.tables)
    return Path(flags.results or "results") / dataset


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--dataset", help="name of the data set, as in runs/")
    parser.add_argument("--models", type=split_names, help="comma-separated; default: all trained")
    parser.add_argument(
        "--pool",
        type=split_names,
        default=["prob", "logit"],
        help=f"comma-separated, of {','.join(POOLS)}; default: prob,logit",
    )
    parser.add_argument(
        "--arm",
        default="base",
        help="the arm to merge; default: %(default)s, which is compared with all others",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    parser.add_argument("--results", type=Path, help="default: results; with --from, its folder")
    parser.add_argument(
        "--max-subsets",
        type=_positive,
        default=64,
        metavar="N",
        help="score all subsets of K members up to N of them, else a sample; default: %(default)s",
    )
    parser.add_argument(
        "--calibration", action="store_true", help="also check it before and after merging"
    )
    parser.add_argument("--latex", action="store_true", help="also write tables.tex")
    parser.add_argument(
        "--from",
        type=Path,
        dest="tables",
        metavar="DIR",
        help="redraw report and pictures from the tables in DIR, without runs",
    )
    flags = parser.parse_args(argv)
    if not flags.dataset and not flags.tables:
        parser.error("--dataset names what to merge, or --from the tables to redraw")
    for name in ("dataset", "models", "pool", "arm", "runs", "max_subsets", "calibration"):
        if flags.tables and getattr(flags, name) != parser.get_default(name):
            flag = name.replace("_", "-")
            parser.error(f"--from redraws what was merged: argument --{flag} not allowed")
    return flags


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
