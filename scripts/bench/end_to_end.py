"""What a training costs beyond its steps, and an evaluation beyond its forward passes.

    python scripts/bench/end_to_end.py --data data/encoded/avazu --model deepfm

One JSON line a figure: rows/s of the trainer from the shards on disk, as reference those of the
same steps and passes over batches that are in memory already, and the ratio of both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.ahead import one_ahead
from data.loader import Batch, Loader
from data.schema import read_schema
from modules.config import resolve
from modules.training import Streams, Trainer, build_placed_network

IN_MEMORY = 64  # batches


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/encoded/avazu"))
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=int, default=3, help="medians of so many are printed")
    args = parser.parse_args(argv)
    schema = read_schema(args.data)
    config = resolve(schema.dataset, args.model, overrides=args.set)
    streams = Streams.of(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        network = build_placed_network(config, schema, streams, torch.device("cpu"))
        trainer = Trainer(config, schema, args.data, network, streams, Path(folder))
        batch_size = config.training.batch_size
        loader = Loader(args.data, "train", batch_size=batch_size, schema=schema)
        batches = list(itertools.islice(loader, IN_MEMORY))
        for batch in batches:  # the first steps take twice the time for resting rows
            trainer.train_step(trainer.prepare(batch))
        training, evaluation = [], []
        for run in range(args.runs):
            training.append(
                (
                    _rate(partial(trainer.train_epoch, run), schema.rows["train"]),
                    _rate(partial(_train, trainer, batches), _rows(batches)),
                )
            )
            evaluation.append(
                (
                    _rate(lambda: trainer.predict("val"), schema.rows["val"]),
                    _rate(lambda: _forward(trainer, batches), _rows(batches)),
                )
            )
    for name, rates in (("train", training), ("evaluate", evaluation)):
        ours, reference = map(statistics.median, zip(*rates, strict=True))
        row = {
            "name": f"{name}/{args.model} from disk (reference: from memory)",
            "ours": ours,
            "reference": reference,
            "ratio": statistics.median(ours / reference for ours, reference in rates),
            "unit": "rows/s",
        }
        print(json.dumps(row), flush=True)


def _train(trainer: Trainer, batches: Sequence[Batch]) -> None:
    for batch in one_ahead(map(trainer.prepare, batches)):
        trainer.train_step(batch)


def _forward(trainer: Trainer, batches: Sequence[Batch]) -> None:
    trainer.network.eval()
    with torch.inference_mode():
        for batch in batches:
            trainer.network(batch.ids)


def _rows(batches: Sequence[Batch]) -> int:
    return sum(len(batch.labels) for batch in batches)


def _rate(run: Callable[[], object], rows: int) -> float:
    started = time.perf_counter()
    run()
    return rows / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
