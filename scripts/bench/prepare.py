"""How long a planted log takes to prepare, against what pandas takes only to read it.

    python scripts/bench/prepare.py --dataset avazu --rows 2000000

One JSON line a figure: ours, the reference in the same run, the ratio (above 1: we are better).
Both are timed when their libraries are imported.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {"avazu": "csv", "criteo": "txt", "kdd12": "tsv"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=list(SUFFIXES), default="avazu")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--log", type=Path, help="a log of so many rows; default: planted")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-prepare-") as folder:
        log = arguments.log
        if log is None:
            log = Path(folder) / f"log.{SUFFIXES[arguments.dataset]}"
            _run("data.synthetic", arguments.dataset, "--rows", arguments.rows, "--output", log)
        ours, commands, reference, peak = [], [], [], 0.0
        # In turns, so that other work on the machine meets both.
        for _ in range(arguments.runs):
            reference.append(_read_with_pandas(log))
            output = Path(folder) / "set"
            started = time.perf_counter()
            printed = _run(
                "data.prepare", arguments.dataset, "--raw", log, "--output", output, "--force"
            )
            commands.append(time.perf_counter() - started)
            seconds, found = re.findall(r"in ([\d.]+) s .*peak memory ([\d.]+) GiB", printed)[-1]
            ours.append(float(seconds))
            peak = max(peak, float(found))
    name = f"prepare {arguments.dataset} {arguments.rows}"
    mine, theirs = statistics.median(ours), statistics.median(reference)
    _print(name, mine, theirs, theirs / mine, "s")
    _print(f"{name} rate", arguments.rows / mine, arguments.rows / theirs, theirs / mine, "rows/s")
    whole = statistics.median(commands)
    _print(f"{name} with the start of Python", whole, None, None, "s")
    _print(f"{name} peak memory", peak, None, None, "GiB")


def _read_with_pandas(log: Path) -> float:
    """Seconds that `pandas.read_csv` takes with its default settings."""
    started = time.perf_counter()
    if log.suffix == ".csv":
        pd.read_csv(log)
    else:
        pd.read_csv(log, sep="\t", header=None)
    return time.perf_counter() - started


def _run(module: str, *arguments: object) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _print(name: str, ours: float, reference: float | None, ratio: float | None, unit: str) -> None:
    figure = {"name": name, "ours": ours, "reference": reference, "ratio": ratio, "unit": unit}
    rounded = {
        key: round(value, 3) if isinstance(value, float) else value for key, value in figure.items()
    }
    print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
