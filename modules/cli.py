"""The flags that `trainer.py` and `trainer_group.py` share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.cost import count_macs_per_row
from modules.models import MODELS, build_model, paper
from modules.runs import RunError

LISTED_FIELDS, LISTED_DIM = 39, 16  # the sizes of `--list-models`: Criteo's
MOST_SEEDS = 999  # by count; a larger number was meant as a seed


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Data set, settings, device and folders."""
    parser.add_argument("--dataset", required=True, help="criteo, avazu, kdd12 or your own")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="lr=3e-4 ..."
    )
    parser.add_argument(
        "--profile", action="append", default=[], help="settings of configs/profiles/NAME.yaml"
    )
    parser.add_argument(
        "--precision",
        dest="set",
        action="append",
        type="precision={}".format,
        metavar="float32|tf32|bf16",
        help="of matrix products in training, as --set precision=bf16",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--data", type=Path, help="default: data/encoded/DATASET")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--force", action="store_true", help="train again what is complete")


def parse_seeds(text: str, first: int) -> list[int]:
    """`"5"` is five seeds from `first` on; `"2001,2002"` names them. Raises `RunError`."""
    text = text.strip()
    try:
        numbers = [int(part) for part in text.split(",") if part]
    except ValueError:
        numbers = []
    if text.isdecimal() and numbers[0] > MOST_SEEDS:
        raise RunError(
            f"--seeds {text}: more than {MOST_SEEDS} members of each; for this seed alone write "
            f"--seeds {text},"
        )
    seeds = [first + i for i in range(numbers[0])] if text.isdecimal() else numbers
    written = re.fullmatch(r"\d+|(\d+\s*,\s*)+\d*", text, re.ASCII)
    if not written or not seeds or len(set(seeds)) < len(seeds):
        raise RunError(f"--seeds {text}: expected a count, as 5, or distinct seeds, as 2001,2002")
    return seeds


class ListModels(argparse.Action):
    """`--list-models`: print the models and exit, whatever else is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_args: Any) -> None:
        print(describe_models())
        parser.exit()


def describe_models() -> str:
    """Every model: name, paper, parameters beside the feature table, multiply-adds a row."""
    head = f"({LISTED_FIELDS} fields, dimension {LISTED_DIM}, default settings)"
    rows = [("model", f"paper {head}", "parameters", "multiply-adds/row")]
    for name in MODELS:
        model = build_model(name, LISTED_FIELDS, embedding_dim=LISTED_DIM)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        macs = count_macs_per_row(model, LISTED_FIELDS, LISTED_DIM)
        rows.append((name, paper(name), f"{parameters:,}", f"{macs:,}"))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:{wide[0]}}  {source:{wide[1]}}  {parameters:>{wide[2]}}  {macs:>{wide[3]}}"
        for name, source, parameters, macs in rows
    )
