"""One training step of a model on batches in memory, split into its parts, and its rivals.

`python scripts/bench/train_step.py --model deepfm --shape criteo --rival torch --json`

Prints the median step in gather, forward, backward and optimiser, samples/s, peak memory, and the
share of the machine's own float32 matrix product rate that the model reaches over its vectors,
forward and backward. That rate is the faster of torch's own product, which rivals use, and of the
one that this project trains with. Each contender runs in a process of its own. `--model all` runs
every model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.ahead import one_ahead
from modules.cost import count_macs_per_row
from modules.models import MODELS
from modules.precision import Precision, autocast, matrix_precision
from scripts.bench.contenders import CONTENDERS, EMBEDDING_DIM, SHAPES, Contender, Job, build

PARTS = ("gather", "forward", "backward", "optimiser")
RIVALS = ("torch", "torch-fused", "deepctr")
WARM_UP = 3


@dataclass(frozen=True)
class Measurement:
    """Medians of one contender. dense: the model over its vectors alone, without the table."""

    seconds: float
    parts: dict[str, float]
    peak_mib: float
    dense_seconds: float = 0.0
    dense_rate: float = 0.0  # multiply-adds in matrix products x 2, per second
    gemm_rate: float = 0.0  # the same of one product, the fastest known
    torch_gemm_rate: float = 0.0  # by torch's own library
    dense_share: float = 0.0  # median of the paired ratios


def measure(job: Job) -> Measurement:
    """Everything about one contender."""
    torch.set_num_threads(job.threads)
    contender = CONTENDERS[job.contender](job)
    batches = itertools.cycle(job.shape.batches(job.batch_size))
    steps = itertools.islice(batches, WARM_UP + job.steps)
    ahead = one_ahead((contender.prepare(ids), labels) for ids, labels in steps)
    run = _infer if job.inference else _step
    with matrix_precision(contender.precision):
        laps = list(run(contender, ahead))[WARM_UP:]
    parts = {part: statistics.median(lap[part] for lap in laps) for part in laps[0]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = Measurement(statistics.median(sum(lap.values()) for lap in laps), parts, peak)
    return _with_dense(result, job) if job.contender == "ours" else result


def _step(contender: Contender, batches: Iterator[Any]) -> Iterator[dict[str, float]]:
    """Seconds of every part of the steps over prepared ids and labels; waiting for them counts."""
    clock = [time.perf_counter()]
    for prepared, labels in batches:
        gathered = contender.gather(prepared)
        clock.append(time.perf_counter())
        loss = binary_cross_entropy_with_logits(contender.forward(*gathered), labels)
        clock.append(time.perf_counter())
        loss.backward()
        clock.append(time.perf_counter())
        contender.optimise()
        clock.append(time.perf_counter())
        yield dict(zip(PARTS, np.diff(clock).tolist(), strict=True))
        clock = [time.perf_counter()]


def _infer(contender: Contender, batches: Iterator[Any]) -> Iterator[dict[str, float]]:
    """The same of forward passes without gradients."""
    contender.evaluate()
    clock = [time.perf_counter()]
    for prepared, _ in batches:
        with torch.inference_mode():
            gathered = contender.gather(prepared)
            clock.append(time.perf_counter())
            contender.forward(*gathered)
        clock.append(time.perf_counter())
        yield dict(zip(PARTS[:2], np.diff(clock).tolist(), strict=True))
        clock = [time.perf_counter()]


def _with_dense(result: Measurement, job: Job) -> Measurement:
    """Add the model over vectors that are there, beside matrix products of its first layer's."""
    model = build(job)
    run = torch.compile(model) if job.compile else model
    shape = (job.batch_size, job.shape.num_fields)
    vectors = torch.randn(*shape, EMBEDDING_DIM).mul_(0.1).requires_grad_(not job.inference)
    weights = torch.randn(shape).mul_(0.1).requires_grad_(not job.inference)
    labels = torch.zeros(job.batch_size)

    def dense() -> None:
        with torch.inference_mode(job.inference), matrix_precision(job.precision):
            with autocast(job.precision, vectors.device):
                logits = run(vectors, weights)
            loss = binary_cross_entropy_with_logits(logits.float(), labels)
            if not job.inference:
                loss.backward()
        for tensor in (vectors, weights, *model.parameters()):
            tensor.grad = None

    left = torch.randn(job.batch_size, job.shape.num_fields * EMBEDDING_DIM)
    right = torch.randn(left.shape[1], 1024)
    out = torch.empty(job.batch_size, 1024)
    gemm_flops = 2 * left.shape[0] * left.shape[1] * right.shape[1]
    flops = _matrix_flops(model, vectors, weights, backward=not job.inference)
    laps = np.array(
        [
            (
                _seconds(lambda: torch.mm(left, right, out=out)),  # never replaced by ours
                _seconds(lambda: torch.mm(left, right)),
                _seconds(dense),
            )
            for _ in range(WARM_UP + job.steps)
        ][WARM_UP:]
    )
    torchs, ours, seconds = np.median(laps, axis=0).tolist()
    gemms = laps[:, 0] if torchs < ours else laps[:, 1]
    return replace(
        result,
        dense_seconds=seconds,
        dense_rate=flops / seconds,
        gemm_rate=gemm_flops / min(torchs, ours),
        torch_gemm_rate=gemm_flops / torchs,
        dense_share=float(np.median((flops / laps[:, 2]) / (gemm_flops / gemms))),
    )


def _matrix_flops(model: nn.Module, vectors: Tensor, weights: Tensor, *, backward: bool) -> int:
    """Floating point operations in matrix products of one pass."""
    with FlopCounterMode(display=False) as counter:
        logits = model(vectors, weights)
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops())


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rows_of(job: Job, shape_name: str, rival: str | None) -> Iterator[dict[str, Any]]:
    """One benchmark's results as rows of at least name, ours, reference, ratio, unit."""
    what = "inference" if job.inference else "train_step"
    name = f"{what}/{job.model}/{shape_name}"
    name += "" if job.precision == "float32" else f"/{job.precision}"
    name += "/compile" if job.compile else ""
    name += f"/dropout-{job.dropout:g}" if job.dropout else ""
    ours = _in_own_process(job)
    macs = count_macs_per_row(build(job), job.shape.num_fields, EMBEDDING_DIM)
    details = {"macs_per_row": macs, "batch_size": job.batch_size, "threads": job.threads}
    if ours.dense_rate > 0:
        yield {
            "name": f"{name}/dense_against_gemm",
            "ours": ours.dense_rate / 1e9,
            "reference": ours.gemm_rate / 1e9,
            "ratio": ours.dense_share,
            "unit": "GFLOP/s",
            "dense_ms": 1e3 * ours.dense_seconds,
            "torch_gemm": ours.torch_gemm_rate / 1e9,
            **details,
        }
    theirs = None if rival is None else _in_own_process(replace(job, contender=rival))
    yield {
        "name": name if rival is None else f"{name}/{rival}",
        "ours": job.batch_size / ours.seconds,
        "reference": None if theirs is None else job.batch_size / theirs.seconds,
        "ratio": None if theirs is None else theirs.seconds / ours.seconds,
        "unit": "rows/s" if job.inference else "samples/s",
        "ours_ms": _milliseconds(ours),
        "reference_ms": None if theirs is None else _milliseconds(theirs),
        "ours_peak_mib": ours.peak_mib,
        "reference_peak_mib": None if theirs is None else theirs.peak_mib,
        **details,
    }


def _milliseconds(measurement: Measurement) -> dict[str, float]:
    return {part: round(1e3 * seconds, 2) for part, seconds in measurement.parts.items()}


def _in_own_process(job: Job) -> Measurement:
    """Peak memory is a process's; so are its warm buffers. What a rival prints goes to stderr."""
    stdout, stderr = 1, 2
    with ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=os.dup2,
        initargs=(stderr, stdout),
    ) as pool:
        return pool.submit(measure, job).result()


def _print_readable(row: dict[str, Any]) -> None:
    against = "" if row["ratio"] is None else f" against {row['reference']:,.0f}"
    ratio = "" if row["ratio"] is None else f", ratio {row['ratio']:.2f}"
    print(f"{row['name']}: {row['ours']:,.0f}{against} {row['unit']}{ratio}")
    for who in ("ours", "reference"):
        if row.get(f"{who}_ms"):
            parts = ", ".join(f"{part} {ms:.1f}" for part, ms in row[f"{who}_ms"].items())
            print(f"  {who}: {parts} ms; peak {row[f'{who}_peak_mib']:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, choices=[*MODELS, "all"], metavar="NAME|all")
    parser.add_argument("--shape", default="criteo", choices=SHAPES)
    parser.add_argument("--rival", choices=RIVALS)
    parser.add_argument(
        "--features", type=int, help="rows of the feature table; default: --shape's"
    )
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--compile", action="store_true", help="our model, by torch.compile")
    parser.add_argument(
        "--dropout", type=float, default=0.0, metavar="SHARE", help="in models that have it"
    )
    parser.add_argument("--inference", action="store_true", help="scoring instead of training")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=15, help="measured steps; medians are printed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    shape, shape_name = SHAPES[args.shape], args.shape
    if args.features:
        shape = replace(shape, num_features=args.features)
        shape_name = f"{shape_name}-{args.features}"
    for model in MODELS if args.model == "all" else [args.model]:
        job = Job(
            model=model,
            shape=shape,
            contender="ours",
            batch_size=args.batch_size,
            steps=args.steps,
            inference=args.inference,
            threads=args.threads,
            precision=args.precision,
            compile=args.compile,
            dropout=args.dropout,
        )
        for row in rows_of(job, shape_name, args.rival):
            if args.json:
                print(json.dumps(row), flush=True)
            else:
                _print_readable(row)


if __name__ == "__main__":
    main()
