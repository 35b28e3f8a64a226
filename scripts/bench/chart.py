"""Pictures of what scripts/bench/train_step.py measured, from its JSON lines.

    python scripts/bench/train_step.py --model all --shape avazu --rival torch --json > FILE
    python scripts/bench/chart.py FILE... --output docs

Draws samples/s by model against each rival in the files, and, where a model was measured over
tables of several sizes (`--features`), its step time against the size of the table.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.scoring.panels import COLOURS, MARKERS

BY_MODEL, BY_FEATURES = "samples_by_model.png", "step_by_features.png"
RIVAL_NAMES = {
    "torch": "torch, dense Adam",
    "torch-fused": "torch, fused dense Adam",
    "deepctr": "DeepCTR-Torch",
}
HATCHES = ("", "//", "..", "xx")
# As train_step.py names its rows: what, model, shape[-features], rival.
NAME = re.compile(r"train_step/(\w+)/([a-z]+)(?:-(\d+))?/(torch-fused|torch|deepctr)")
Rows = Mapping[tuple[str, int | None, str], Mapping[str, Any]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("docs"))
    args = parser.parse_args(argv)
    rows = read_rows(args.files)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, draw in ((BY_MODEL, draw_models), (BY_FEATURES, draw_features)):
        figure = draw(rows)
        if figure is not None:
            figure.savefig(args.output / name, dpi=150)
            print(args.output / name)


def read_rows(files: Sequence[Path]) -> Rows:
    """(model, features where they were given, rival) -> the last row of that name."""
    rows = {}
    for file in files:
        for line in file.read_text().splitlines():
            row = json.loads(line)
            found = NAME.fullmatch(row["name"])
            if found:
                model, _, features, rival = found.groups()
                rows[model, int(features) if features else None, rival] = row
    return rows


def draw_models(rows: Rows) -> Figure | None:
    """Bars of samples/s, of each model ours and its rivals'."""
    of_models = {(model, rival): row for (model, size, rival), row in rows.items() if size is None}
    if not of_models:
        return None
    models = list(dict.fromkeys(model for model, _ in of_models))
    rivals = [rival for rival in RIVAL_NAMES if any(key[1] == rival for key in of_models)]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / (1 + len(rivals))
    for place, rival in enumerate([None, *rivals]):
        bars = {}
        for number, model in enumerate(models):
            row = of_models.get((model, rival or rivals[0]))
            if row is not None:
                bars[number + (place - len(rivals) / 2) * width] = row[
                    "ours" if rival is None else "reference"
                ]
        axes.bar(
            list(bars),
            list(bars.values()),
            width,
            color=COLOURS[place],
            hatch=HATCHES[place],
            edgecolor="white",
            label="here" if rival is None else RIVAL_NAMES[rival],
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e3)
    axes.set_ylabel("training samples per second")
    axes.set_xticks(range(len(models)), models, rotation=30)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    return figure


def draw_features(rows: Rows) -> Figure | None:
    """Lines of milliseconds a step against rows of the feature table."""
    by_size = {(m, r): {} for m, size, r in rows if size is not None}  # type: ignore[var-annotated]
    for (model, size, rival), row in rows.items():
        if size is not None:
            by_size[model, rival][size] = row
    if not by_size:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (model, rival), of_size in by_size.items():
        for number, (key, label) in enumerate(
            ((("ours_ms"), f"{model}, here"), ("reference_ms", f"{model}, {RIVAL_NAMES[rival]}"))
        ):
            points = sorted(
                (size, sum(row[key].values())) for size, row in of_size.items() if row[key]
            )
            axes.plot(
                *zip(*points, strict=True),
                color=COLOURS[number],
                marker=MARKERS[number],
                linestyle="-" if number == 0 else "--",
                label=label,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("features in the table")
    axes.set_ylabel("milliseconds a step of 4096 samples")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
