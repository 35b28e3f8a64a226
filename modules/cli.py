"""The flags that `trainer.py` and `trainer_group.py` share."""

from __future__ import annotations

import argparse
from pathlib import Path

from modules.runs import RunError


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Data set, settings, device and folders."""
    parser.add_argument("--dataset", required=True, help="criteo, avazu, kdd12 or your own")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="lr=3e-4 ..."
    )
    parser.add_argument(
        "--profile", action="append", default=[], help="settings of configs/profiles/NAME.yaml"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--data", type=Path, help="default: data/encoded/DATASET")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--force", action="store_true", help="train again what is complete")


def parse_seeds(text: str, first: int) -> list[int]:
    """`"5"` is five seeds from `first` on; `"2001,2002"` names them. Raises `RunError`."""
    try:
        numbers = [int(part) for part in text.split(",") if part]
    except ValueError:
        numbers = []
    seeds = [first + i for i in range(numbers[0])] if text.isdigit() else numbers
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise RunError(f"--seeds {text}: expected a count, as 5, or distinct seeds, as 2001,2002")
    return seeds
