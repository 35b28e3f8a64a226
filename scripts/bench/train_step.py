"""One training step of a model on batches in memory, split into its parts, and its rivals.

`python scripts/bench/train_step.py --model deepfm --shape criteo --rival torch --json`

Prints the median step in gather, forward, backward and optimiser, samples/s, peak memory, and the
share of the machine's own float32 matrix product rate that the model reaches over its vectors,
forward and backward. Each contender runs in a process of its own. `--model all` runs every model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
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
from modules.distinct import DistinctIds, find_distinct
from modules.embedding import EmbeddingTable
from modules.memory import keep_freed_memory
from modules.models import MODELS, build_model
from modules.optim import DeferredAdam
from modules.precision import Precision, autocast, matrix_precision

PARTS = ("gather", "forward", "backward", "optimiser")
RIVALS = ("torch", "torch-fused", "deepctr")
EMBEDDING_DIM, LR = 16, 1e-3
WARM_UP, BATCHES = 3, 32
STEPS_BEFORE = 1000


@dataclass(frozen=True)
class Shape:
    """A data set by its fields: two huge ones, the others of equal size."""

    num_fields: int
    num_features: int

    def field_sizes(self) -> list[int]:
        small = self.num_features // (5 * (self.num_fields - 2))  # a fifth of all features
        huge = (self.num_features - small * (self.num_fields - 2)) // 2
        sizes = [huge, huge] + [small] * (self.num_fields - 2)
        sizes[0] += self.num_features - sum(sizes)
        return sizes

    def batches(self, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Seeded batches of local ids (B, F) and labels (B,); ids are Zipf-like in every field."""
        generator = np.random.default_rng(0)
        sizes = np.array(self.field_sizes())
        batches = []
        for _ in range(BATCHES):
            uniform = generator.random((batch_size, self.num_fields))
            ids = (sizes + 1.0) ** uniform - 1  # log-uniform: the frequency of rank r is about 1/r
            labels = (generator.random(batch_size) < 0.2).astype(np.float32)
            batches.append((torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(labels)))
        return batches


SHAPES = {"avazu": Shape(24, 4_400_000), "criteo": Shape(39, 1_100_000)}


@dataclass(frozen=True)
class Job:
    """What one process measures."""

    model: str
    shape: Shape
    contender: str
    batch_size: int
    steps: int
    inference: bool
    threads: int
    precision: Precision = "float32"  # ours alone; a rival computes in float32
    compile: bool = False


@dataclass(frozen=True)
class Measurement:
    """Medians of one contender. dense: the model over its vectors alone, without the table."""

    seconds: float
    parts: dict[str, float]
    peak_mib: float
    dense_seconds: float = 0.0
    dense_rate: float = 0.0  # multiply-adds in matrix products x 2, per second
    gemm_rate: float = 0.0
    dense_share: float = 0.0  # median of the paired ratios


class Contender:
    """A network and its optimisers; a step is these parts, one after the other."""

    precision: Precision = "float32"

    def prepare(self, ids: Tensor) -> Any:
        """What `gather` takes of a batch's ids, made by a thread during the step before."""
        return ids

    def gather(self, prepared: Any) -> tuple[Tensor, ...]:
        """What `forward` needs of the feature table."""
        raise NotImplementedError

    def forward(self, *gathered: Tensor) -> Tensor:
        """Logits (B,)."""
        raise NotImplementedError

    def optimise(self) -> None:
        """Move all parameters by their gradients, and forget these."""
        raise NotImplementedError

    def evaluate(self) -> None:
        """From now on only `gather` and `forward`, without gradients."""


class Ours(Contender):
    """As `modules.training` steps."""

    def __init__(self, job: Job) -> None:
        keep_freed_memory()
        self.offsets = _offsets(job.shape)
        self.model = _build(job)
        self.compiled = torch.compile(self.model) if job.compile else self.model
        self.precision = job.precision
        self.table = EmbeddingTable(
            job.shape.num_features,
            EMBEDDING_DIM if self.model.uses_vectors else 0,
            first_order=bool(self.model.uses_weights),
            generator=torch.Generator().manual_seed(0),
        )
        self.parameters = list(self.model.parameters())
        self.training = not job.inference
        if self.training:
            self.table_optimizer = DeferredAdam(self.table.weight, lr=LR)
            # As later in a training: the first 256 steps take twice the time for resting rows.
            state = self.table_optimizer.state_dict() | {"step": STEPS_BEFORE}
            self.table_optimizer.load_state_dict(state)
            self.optimizer = torch.optim.Adam(self.parameters, lr=LR, fused=True)

    def prepare(self, ids: Tensor) -> Tensor | DistinctIds:
        ids = torch.from_numpy(ids.numpy() + self.offsets.numpy())
        return find_distinct(ids, len(self.table.weight)) if self.training else ids

    def gather(self, prepared: Any) -> tuple[Tensor, ...]:
        if not self.training:
            embedded: tuple[Tensor, Tensor] = self.table(prepared)
            return embedded
        self.batch = prepared
        self.rows = self.table_optimizer.gather(self.batch.ids)
        return self.table.embed(self.rows, self.batch)

    def forward(self, *gathered: Tensor) -> Tensor:
        with autocast(self.precision, gathered[0].device):
            logits: Tensor = self.compiled(*gathered)
        return logits.float()

    def optimise(self) -> None:
        self.table_optimizer.update(self.batch.ids, self.rows)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Torch(Contender):
    """The same network over nn.Embedding, with torch's dense Adam over everything."""

    def __init__(self, job: Job, *, fused: bool) -> None:
        self.offsets = _offsets(job.shape)
        self.model = _build(job)
        self.vectors = nn.Embedding(job.shape.num_features, EMBEDDING_DIM)
        self.weights = nn.Embedding(job.shape.num_features, 1)
        # As ours: under nn.Embedding's N(0, 1) logits saturate and gradients become denormal
        # numbers, which slow a processor down several times.
        for embedding in (self.vectors, self.weights):
            nn.init.xavier_uniform_(embedding.weight)
        used = [self.model]
        used += [self.vectors] if self.model.uses_vectors else []
        used += [self.weights] if self.model.uses_weights else []
        parameters = [parameter for module in used for parameter in module.parameters()]
        if not job.inference:
            self.optimizer = torch.optim.Adam(parameters, lr=LR, fused=fused or None)

    def prepare(self, ids: Tensor) -> Tensor:
        return torch.from_numpy(ids.numpy() + self.offsets.numpy())

    def gather(self, prepared: Tensor) -> tuple[Tensor, ...]:
        zeros = torch.zeros(())
        return (
            self.vectors(prepared) if self.model.uses_vectors else zeros.expand(*prepared.shape, 0),
            self.weights(prepared).squeeze(2)
            if self.model.uses_weights
            else zeros.expand(prepared.shape),
        )

    def forward(self, *gathered: Tensor) -> Tensor:
        logits: Tensor = self.model(*gathered)
        return logits

    def optimise(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


# Our models by DeepCTR-Torch's class, and the settings that make it the same size.
DEEPCTR: dict[str, tuple[str, dict[str, Any]]] = {
    "deepfm": ("DeepFM", {}),
    "ipnn": ("PNN", {}),
    "dcn": ("DCN", {"cross_num": 3}),
    "dcnv2": ("DCN", {"cross_num": 3, "cross_parameterization": "matrix"}),
    "xdeepfm": ("xDeepFM", {"cin_layer_size": (128, 128, 128), "cin_split_half": False}),
    "autoint": ("AutoInt", {"att_layer_num": 3, "att_head_num": 2}),
}


class DeepCTR(Contender):
    """DeepCTR-Torch's own model of that name, without regularisation; it gathers in `forward`."""

    def __init__(self, job: Job) -> None:
        if job.model not in DEEPCTR:
            raise SystemExit(f"DeepCTR-Torch has {', '.join(DEEPCTR)}, not {job.model}")
        try:
            from deepctr_torch import models
            from deepctr_torch.inputs import SparseFeat
        except ImportError as error:
            raise SystemExit("DeepCTR-Torch: pip install -r requirements-bench.txt") from error
        name, settings = DEEPCTR[job.model]
        columns = [
            SparseFeat(f"field_{field}", size, embedding_dim=EMBEDDING_DIM)
            for field, size in enumerate(job.shape.field_sizes())
        ]
        settings = settings | {"dnn_hidden_units": (1024, 512, 256), "l2_reg_embedding": 0}
        if name == "PNN":
            self.network = models.PNN(columns, **settings)
        else:
            linear = {} if name == "AutoInt" else {"l2_reg_linear": 0}
            self.network = getattr(models, name)(columns, columns, **linear, **settings)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LR)

    def gather(self, prepared: Tensor) -> tuple[Tensor, ...]:
        return (prepared.float(),)

    def forward(self, *gathered: Tensor) -> Tensor:
        probabilities: Tensor = self.network(*gathered).squeeze(1)
        return probabilities.logit(eps=1e-7)

    def optimise(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def evaluate(self) -> None:
        self.network.eval()


def _offsets(shape: Shape) -> Tensor:
    """Where every field begins among the global ids (F,)."""
    sizes = torch.tensor(shape.field_sizes())
    return sizes.cumsum(0) - sizes


def _build(job: Job) -> Any:
    torch.manual_seed(0)
    model = build_model(job.model, job.shape.num_fields, embedding_dim=EMBEDDING_DIM)
    return model.eval() if job.inference else model.train()


CONTENDERS: dict[str, Callable[[Job], Contender]] = {
    "ours": Ours,
    "torch": lambda job: Torch(job, fused=False),
    "torch-fused": lambda job: Torch(job, fused=True),
    "deepctr": DeepCTR,
}


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
    """Add the model over vectors that are there, beside a matrix product of its first layer's."""
    model = _build(job)
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
    laps = [
        (_seconds(lambda: torch.mm(left, right, out=out)), _seconds(dense))
        for _ in range(WARM_UP + job.steps)
    ][WARM_UP:]
    seconds = statistics.median(dense for _, dense in laps)
    return replace(
        result,
        dense_seconds=seconds,
        dense_rate=flops / seconds,
        gemm_rate=gemm_flops / statistics.median(gemm for gemm, _ in laps),
        dense_share=statistics.median(
            (flops / dense) / (gemm_flops / gemm) for gemm, dense in laps
        ),
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
    ours = _in_own_process(job)
    macs = count_macs_per_row(_build(job), job.shape.num_fields, EMBEDDING_DIM)
    details = {"macs_per_row": macs, "batch_size": job.batch_size, "threads": job.threads}
    if ours.dense_rate > 0:
        yield {
            "name": f"{name}/dense_against_gemm",
            "ours": ours.dense_rate / 1e9,
            "reference": ours.gemm_rate / 1e9,
            "ratio": ours.dense_share,
            "unit": "GFLOP/s",
            "dense_ms": 1e3 * ours.dense_seconds,
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
    """Peak memory is a process's; so are its warm buffers."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
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
        )
        for row in rows_of(job, shape_name, args.rival):
            if args.json:
                print(json.dumps(row), flush=True)
            else:
                _print_readable(row)


if __name__ == "__main__":
    main()
