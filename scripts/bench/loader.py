"""How fast batches come from shards, and TFRecord files are read and written.

    python scripts/bench/loader.py --data data/encoded/avazu

One JSON line a figure: ours, the reference in the same run, the ratio (above 1: we are better).
References: pyarrow reading the same row groups into columns, the PyPI package tfrecord.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import tfrecord as package
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data import parquet, tfrecord  # noqa: E402
from data.loader import Loader  # noqa: E402
from data.schema import Rows, read_schema  # noqa: E402
from data.shards import find_shards  # noqa: E402

# The package takes half a minute for a million records.
RECORDS, PACKAGE_RECORDS = 500_000, 50_000


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "data/encoded/avazu")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args(argv)
    schema = read_schema(arguments.data)
    paths = find_shards(arguments.data, "train", "parquet")
    rows = schema.rows["train"]

    def rate(function: Callable[[], object], count: int) -> float:
        """Rows per second, in the median of several runs."""
        return count / statistics.median(_seconds(function) for _ in range(arguments.runs))

    def one_pass(generator: torch.Generator | None = None) -> None:
        for _ in Loader(
            arguments.data, "train", batch_size=arguments.batch_size, generator=generator
        ):
            pass

    groups = rate(lambda: _read_groups(paths), rows)
    ordered = rate(one_pass, rows)
    _print("loader, file order", ordered, groups)
    _print(
        "loader, shuffled (reference: file order)",
        rate(lambda: one_pass(torch.Generator()), rows),
        ordered,
    )
    names = schema.field_names
    read = rate(
        lambda: [torch.from_numpy(parquet.read_shard(path, names).ids) for path in paths], rows
    )
    _print("parquet into tensors", read, groups)
    shard = parquet.read_shard(paths[0], names)
    part = Rows(shard.ids[:RECORDS], shard.labels[:RECORDS])
    with tempfile.TemporaryDirectory(prefix="bench-loader-") as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        few = Rows(part.ids[:PACKAGE_RECORDS], part.labels[:PACKAGE_RECORDS])
        count, few_count = len(part.labels), len(few.labels)
        written = rate(lambda: tfrecord.write_shard(ours, names, [part]), count)
        _print("tfrecord write", written, few_count / _seconds(lambda: _package_write(theirs, few)))
        read = rate(lambda: tfrecord.read_shard(ours, names), count)
        _print("tfrecord read", read, few_count / _seconds(lambda: _package_read(theirs)))


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _read_groups(paths: Sequence[Path]) -> None:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)


def _package_write(path: Path, rows: Rows) -> None:
    writer = package.TFRecordWriter(str(path))
    for ids, label in zip(rows.ids.tolist(), rows.labels.tolist(), strict=True):
        writer.write({"label": ([float(label)], "float"), "feature": (ids, "int")})
    writer.close()


def _package_read(path: Path) -> None:
    for _ in package.tfrecord_loader(str(path), None, {"label": "float", "feature": "int"}):
        pass


def _print(name: str, ours: float, reference: float) -> None:
    figure = {
        "name": name,
        "ours": round(ours),
        "reference": round(reference),
        "ratio": round(ours / reference, 2),
        "unit": "rows/s",
    }
    print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
