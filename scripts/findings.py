"""The Markdown tables of docs/findings.md, from the tables that merge.py wrote.

    python scripts/findings.py results/samples/criteo-official-settings ...

For each folder: how often a merge is ahead of, level with and behind one bigger model of the same
cost; the scores by multiply-adds; and what a merge is ahead by, bold where it is beyond the noise.
Where no bigger model was trained: what all contenders gain over the base.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.models import MODELS
from modules.runs import RunError
from modules.scoring.budget import MERGED
from modules.scoring.members import BASE
from modules.scoring.tables import TABLES_NEEDED, read_tables

METRICS = {"auc": "AUC", "logloss": "log loss"}
BIGGER = re.compile(r"(width|depth|joint|multi):")
VERDICTS = ("gain", "noise", "loss")  # of a merge over a bigger model


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    args = parser.parse_args(argv)
    try:
        for folder in args.folders:
            budget = read_tables(folder).budget
            print(folder, count_verdicts(budget), *findings_tables(budget), sep="\n\n", end="\n\n")
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyError, IndexError, TypeError, ValueError) as error:
        print(f"error: {folder}: {error!r}; {TABLES_NEEDED}", file=sys.stderr)
        return 1
    return 0


def count_verdicts(budget: pd.DataFrame) -> str:
    """`24 | 4 / 18 / 2 | 5 / 13 / 6`: comparisons, and ahead / level / behind in both metrics."""
    rows = _comparisons(budget)
    cells = [str(len(rows))]
    for metric in METRICS:
        verdicts = list(rows[f"{metric}_verdict"])
        cells.append(" / ".join(str(verdicts.count(verdict)) for verdict in VERDICTS))
    return " | ".join(cells)


def findings_tables(budget: pd.DataFrame) -> Iterator[str]:
    """The scores of all contenders, then in AUC and in log loss what a merge is ahead by.

    Without bigger models: what all contenders gain over the base.
    """
    models = [model for model in MODELS if model in set(budget["group"])]
    names = [MODELS[model].__name__ for model in models]
    of_base = budget[(budget["against"] == BASE) & budget["group"].isin(models)]
    yield _markdown(
        ["", "multiply-adds", *(f"{name} AUC (sd)" for name in names)],
        (
            [title, _factors(rows["factor"]), *_cells(rows, models, _score)]
            for title, rows in _titled(of_base)
        ),
    )
    comparisons = _comparisons(budget)
    if comparisons.empty:
        head = "gain in {} over the base"
        labelled = list(_titled(of_base[of_base["contender"] != BASE]))
    else:
        head = "merged, ahead in {} of"
        labelled = [
            (f"{arm}, by {k}", rows)
            for arm, of_arm in _in_order(comparisons, "against")
            for k, rows in of_arm.groupby("k")
        ]
    for metric, title in METRICS.items():
        yield _markdown(
            [head.format(title), *names],
            ([label, *_cells(rows, models, _ahead(metric))] for label, rows in labelled),
        )


def _comparisons(budget: pd.DataFrame) -> pd.DataFrame:
    """A merge of one model's seeds against a bigger model."""
    bigger = budget["against"].str.match(BIGGER)
    return budget[(budget["contender"] == MERGED) & bigger & budget["group"].isin(list(MODELS))]


def _titled(of_base: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Base, arms and the merges of 2, of 4 and of all, each with its rows."""
    arms = of_base[of_base["contender"] != MERGED]
    for arm, rows in _in_order(arms, "contender"):
        kind, _, k = arm.partition(":")
        yield arm + {"soup": f" (of {k} seeds)", "soup-late": " (of one run)"}.get(kind, ""), rows
    merged = of_base[of_base["contender"] == MERGED]
    for size in dict.fromkeys((2, 4, merged["k"].max())):
        if (merged["k"] == size).any():
            yield f"{size} merged", merged[merged["k"] == size]


def _in_order(rows: pd.DataFrame, column: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows by arm: the base, then by k, then width, depth, joint, and soups last."""
    kinds = [BASE, "width", "depth", "joint", "multi", "soup", "soup-late"]

    def place(arm: str) -> tuple[bool, float, int]:
        kind, _, k = arm.partition(":")
        is_soup = kind.startswith("soup")
        return is_soup, 0 if is_soup else float(k or 1), kinds.index(kind)

    for arm in sorted(rows[column].unique(), key=place):
        yield arm, rows[rows[column] == arm]


def _cells(rows: pd.DataFrame, models: Sequence[str], text: Any) -> list[str]:
    """One cell a model; empty where there is no such row."""
    by_model = {row["group"]: text(row) for _, row in rows.iterrows()}
    return [by_model.get(model, "") for model in models]


def _score(row: pd.Series) -> str:
    alone = row["contender"] != MERGED and pd.notna(row["test_auc_sd"])
    return f"{row['test_auc']:.5f}" + (f" ({row['test_auc_sd']:.5f})" if alone else "")


def _ahead(metric: str) -> Any:
    def text(row: pd.Series) -> str:
        gain, low, high = (row[f"{metric}_{part}"] for part in ("gain", "low", "high"))
        figures = f"{gain:z.5f} [{low:z.5f}, {high:z.5f}]"
        return figures if row[f"{metric}_verdict"] == "noise" else f"**{figures}**"

    return text


def _factors(factors: pd.Series) -> str:
    """`2x`, or `1.9 to 2x` where the models' differ."""
    low, high = (f"{factor:.1f}".removesuffix(".0") for factor in (factors.min(), factors.max()))
    return f"{low}x" if low == high else f"{low} to {high}x"


def _markdown(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    table = tabulate(list(rows), head, tablefmt="github", disable_numparse=True)
    squeezed = re.sub(r" +\|", " |", re.sub(r"\| +", "| ", table))
    return re.sub(r"-{2,}", "---", squeezed).replace("|  |", "| |")


if __name__ == "__main__":
    sys.exit(main())
