"""The training of one member: batches in, a complete run folder out.

Shapes: B rows of a batch, F fields, U distinct ids of a batch, W width of the feature table.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from data.ahead import one_ahead
from data.atomic import atomic_folder
from data.loader import Batch, Loader, read_labels, read_truth
from data.schema import SPLITS, Schema, read_schema
from modules.arms import achieved_scale, build_parts, resolved_settings
from modules.config import Arm, Part, RunConfig, TrainingConfig
from modules.cost import count_macs_per_row, count_parameters, measure_latency_ms
from modules.distinct import DistinctIds, find_distinct, to_device
from modules.embedding import EmbeddingTable, Network
from modules.joint import JointModel, MultiEmbeddingModel, join_tables
from modules.matrix_products import use_fast_matrix_products
from modules.memory import keep_freed_memory
from modules.models import build_model
from modules.optim import DeferredAdam, DenseAdam
from modules.precision import autocast, matrix_precision
from modules.provenance import provenance
from modules.runs import SCORED_SPLITS, Member, RunError, read_member, run_folder, store_labels
from modules.schedule import LearningRate
from modules.scoring.metrics import auc, logloss
from modules.weights import load_weights, save_weights

CHECK_EVERY = 50  # steps between looks at the loss: each look waits for the device


@dataclass(frozen=True)
class Streams:
    """The independent random streams of one seed."""

    table: torch.Generator  # initialisation of the feature table
    order: torch.Generator  # order of the training rows
    model: int  # seed of the model's initialisation
    dropout: int
    bootstrap: int  # seed of the rows that are drawn anew

    @classmethod
    def of(cls, seed: int, part: int = 0) -> Streams:
        """The streams of a run or, of a network of several modules, of its module `part`."""
        sequence = np.random.SeedSequence(seed, spawn_key=(part,) if part else ())
        table, order, model, dropout, bootstrap = sequence.generate_state(5).tolist()
        return cls(
            table=torch.Generator().manual_seed(table),
            order=torch.Generator().manual_seed(order),
            model=model,
            dropout=dropout,
            bootstrap=bootstrap,
        )


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    epoch: int
    train_loss: float  # mean over the epoch's rows, each before it was learnt from
    val_auc: float
    val_logloss: float
    seconds: float  # of training, without the evaluation
    rows_per_second: float


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:1` as a device that is there; `RunError` otherwise."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or name.startswith("cpu:"):
        raise RunError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RunError(
            f"--device {name}: this machine shows {torch.cuda.device_count()} CUDA devices; "
            f"use --device auto, or look at CUDA_VISIBLE_DEVICES"
        )
    return device


def train_member(
    config: RunConfig,
    data: Path,
    runs: Path,
    device: torch.device,
    *,
    replace: bool = False,
    aside: Path | None = None,
    make_trainer: Callable[..., Trainer] | None = None,
) -> Member:
    """Train one member on the encoded data set in `data` and write its run folder under `runs`.

    The epoch with the best val AUC is restored, then the test split is scored, once. The folder
    is complete or absent. aside: where a run that is there is moved when the new one is complete;
    `replace` removes it. make_trainer: a kind of `Trainer`; its arguments are those of the class.
    Raises `DataError` for unusable data, `RunError` where the training diverges, cannot be done
    with these settings, or outlives its data set, `FileExistsError` where the run is there and
    neither `replace` nor `aside` is given.
    """
    schema = read_schema(data)
    target = run_folder(runs, config.dataset, config.model, config.arm, config.seed)
    with atomic_folder(target, replace=replace, aside=aside) as folder:
        started = time.perf_counter()
        trainer, epochs = fit_member(config, schema, data, folder, device, make_trainer)
        network = trainer.network
        logits = {"val": trainer.best_val_logits, "test": trainer.predict("test")}
        for split in SCORED_SPLITS:
            np.save(folder / f"{split}.npy", logits[split], allow_pickle=False)
        seconds = time.perf_counter() - started
        if read_schema(data).fingerprint != schema.fingerprint:
            raise RunError(f"{data} was prepared again during the training; train it again")
        report = {
            "dataset": config.dataset,
            "model": config.model,
            "arm": config.arm,
            "seed": config.seed,
            **_scores(logits, data, schema, runs, config.dataset),
            "best_epoch": max(epochs, key=lambda epoch: epoch.val_auc).epoch if epochs else 0,
            "epochs": [asdict(epoch) for epoch in epochs],
            **({"averaged": dict(trainer.averaged)} if trainer.averaged else {}),
            **_costs(network, schema, config),
            "rows_per_second": _median([epoch.rows_per_second for epoch in epochs]),
            "seconds": trainer.seconds_before + seconds,
            **provenance(schema, device),
        }
        settings = resolved_settings(config, schema.num_fields)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return read_member(target)


def fit_member(
    config: RunConfig,
    schema: Schema,
    data: Path,
    folder: Path,
    device: torch.device,
    make_trainer: Callable[..., Trainer] | None = None,
) -> tuple[Trainer, list[Epoch]]:
    """Build a member and train it; its best weights and its log go to `folder`.

    Only rows of the train and val splits are read. Raises `RunError` where memory is too small.
    """
    streams = Streams.of(config.seed)
    network = build_placed_network(config, schema, streams, device)
    with _enough_memory(device), _seeded(streams.dropout, device):
        trainer = (make_trainer or Trainer)(config, schema, data, network, streams, folder)
        return trainer, trainer.fit()


def build_placed_network(
    config: RunConfig, schema: Schema, streams: Streams, device: torch.device
) -> Network:
    """`build_network`, the models on `device` and the table where the settings want it.

    From then on this process multiplies and keeps memory as suits a network. Raises `RunError`
    where it cannot be built, or memory is too small.
    """
    keep_freed_memory()
    use_fast_matrix_products()
    on_host = config.training.table_device == "cpu"
    network = build_network(config, schema, streams)
    with _enough_memory(device):
        return network.place(device, table_device=torch.device("cpu") if on_host else device)


@contextmanager
def _enough_memory(device: torch.device) -> Iterator[None]:
    """Raise `RunError` with the ways out where the memory of `device` is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise RunError(
            f"the memory of {device} is too small ({reason}); --set a smaller batch_size or "
            f"embedding_dim, or table_device=cpu"
        ) from error


def build_network(config: RunConfig, schema: Schema, streams: Streams) -> Network:
    """A freshly initialised feature table and the model or models over it, on the CPU."""
    parts = build_parts(config, schema.num_fields)
    own_streams = [streams, *(Streams.of(config.seed, part) for part in range(1, len(parts)))]
    networks = [
        _build_part(part, config.training.embedding_init, schema, own)
        for part, own in zip(parts, own_streams, strict=True)
    ]
    if len(networks) == 1:
        return networks[0]
    table, columns = join_tables(networks)
    models = [network.model for network in networks]
    if Arm.parse(config.arm).kind == "multi":
        return Network(table, MultiEmbeddingModel(config.model, models, columns))
    return Network(table, JointModel(models, columns))


def _build_part(part: Part, init: float | None, schema: Schema, streams: Streams) -> Network:
    try:
        with _seeded(streams.model, torch.device("cpu")):
            model = build_model(
                part.model, schema.num_fields, embedding_dim=part.embedding_dim, **part.settings
            )
        table = EmbeddingTable(
            schema.num_features,
            part.embedding_dim if model.uses_vectors else 0,
            first_order=bool(model.uses_weights),
            generator=streams.table,
            init=init,
        )
    except (MemoryError, RuntimeError) as error:  # the latter is torch's, for the model
        raise RunError(
            f"model '{part.model}' with embedding_dim={part.embedding_dim}, {dict(part.settings)} "
            f"cannot be built over {schema.num_features} features ({error}); choose smaller sizes"
        ) from error
    return Network(table, model)


def build_table_optimizer(table: Tensor, settings: TrainingConfig) -> DenseAdam | DeferredAdam:
    """The optimiser of the feature table that the settings ask for."""
    lr, l2 = settings.lr, settings.l2
    if settings.optimizer == "dense":
        return DenseAdam(table, lr=lr, l2=l2, l2_of_table=settings.l2_scope == "table")
    return DeferredAdam(table, lr=lr, l2=l2)


def predict_logits(network: Network, loader: Loader) -> np.ndarray:
    """Logits (rows,) float32 of the loader's rows, in their order."""
    network.eval()
    with torch.inference_mode():
        place = network.table.weight.device
        logits = [network(batch.ids.to(place)) for batch in one_ahead(loader)]
    return torch.cat(logits).float().cpu().numpy()


class TrainingBatch(NamedTuple):
    """Where the distinct ids of a batch are, and its labels (B,) float32."""

    distinct: DistinctIds
    labels: Tensor


class Trainer:
    """Trains a network on a data set, keeping the epoch with the best val AUC in `folder`.

    seconds_before: training time that went into what this trainer starts from.
    averaged: names of the members that it starts from, and their val log loss.
    """

    seconds_before = 0.0
    averaged: Mapping[str, float] = MappingProxyType({})

    def __init__(
        self,
        config: RunConfig,
        schema: Schema,
        data: Path,
        network: Network,
        streams: Streams,
        folder: Path,
    ) -> None:
        self.settings = config.training
        self.device = network.device
        if self.settings.precision == "tf32" and self.device.type != "cuda":
            raise RunError(f"precision=tf32 is of CUDA GPUs, not of the {self.device}; use float32")
        _check_last_batch(network, schema.rows["train"], self.settings.batch_size)
        self.name = f"{config.model} seed {config.seed}"
        self.schema = schema
        self.data = data
        self.network = network
        self.model = torch.compile(network.model) if self.settings.compile else network.model
        self.folder = folder
        self.order = streams.order if self.settings.vary == "init+order" else None
        self.bootstrap_seed = streams.bootstrap
        self.loaders = {split: self._loader(split) for split in SPLITS}
        lr, l2 = self.settings.lr, self.settings.l2
        warmup_steps = self.settings.warmup_steps
        total_steps = self.settings.epochs * len(self.loaders["train"])
        if warmup_steps > total_steps:
            print(
                f"warning: warmup_steps={warmup_steps}, but the training has at most {total_steps} "
                f"steps; the learning rate will not rise to {lr}",
                file=sys.stderr,
            )
        self.learning_rate = LearningRate(
            lr,
            self.settings.schedule,
            warmup_steps=warmup_steps,
            total_steps=total_steps,
        )
        self.table_optimizer = build_table_optimizer(network.table.weight, self.settings)
        self.model_parameters = list(network.model.parameters())
        self.model_optimizer = (
            torch.optim.Adam(self.model_parameters, lr=lr, weight_decay=l2, fused=True)
            if self.model_parameters  # the official FM has none
            else None
        )
        self.steps = 0
        self.best_val_logits = np.empty(0, np.float32)

    def fit(self) -> list[Epoch]:
        """Train until val AUC stops rising; the network is left as it was in the best epoch."""
        labels = read_labels(self.data, "val", self.schema)
        epochs: list[Epoch] = []
        best: Epoch | None = None
        for number in range(1, self.settings.epochs + 1):
            started = time.perf_counter()
            train_loss = self.train_epoch(number)
            seconds = time.perf_counter() - started
            val_logits = self.predict("val")
            if not np.isfinite(val_logits).all():
                raise self._diverged(f"val logits are not finite after epoch {number}")
            epoch = Epoch(
                epoch=number,
                train_loss=train_loss,
                val_auc=auc(labels, val_logits),
                val_logloss=logloss(labels, val_logits),
                seconds=seconds,
                rows_per_second=self.schema.rows["train"] / seconds,
            )
            epochs.append(epoch)
            self._log(epoch)
            improved = best is None or epoch.val_auc > best.val_auc
            self.learning_rate.end_epoch(improved=improved)
            if improved:
                best = epoch
                self.best_val_logits = val_logits
                save_weights(self.network, self.folder)
            elif best is not None and number - best.epoch > self.settings.patience:
                break
        if best is not epochs[-1]:
            load_weights(self.network, self.folder)
        return epochs

    def train_epoch(self, number: int) -> float:
        """One pass over the training rows; their mean loss. Raises `RunError` if it diverges."""
        self.network.train()
        loader = self.loaders["train"]
        losses: list[Tensor] = []  # of the steps since the last look
        total, rows = 0.0, 0
        with tqdm(
            total=loader.num_rows,
            desc=f"{self.name} epoch {number}",
            unit="rows",
            unit_scale=True,
            leave=False,
            disable=None,  # where the output is no terminal
        ) as bar:
            for batch in one_ahead(map(self.prepare, loader)):
                losses.append(self.train_step(batch) * len(batch.labels))
                rows += len(batch.labels)
                bar.update(len(batch.labels))
                if len(losses) == CHECK_EVERY:
                    total += self._finite_sum(losses, number)
                    bar.set_postfix(loss=f"{total / rows:.4f}")
                    losses.clear()
        if losses:
            total += self._finite_sum(losses, number)
        return total / rows

    def prepare(self, batch: Batch) -> TrainingBatch:
        """`batch`, from the CPU, as `train_step` takes it."""
        distinct = find_distinct(batch.ids, len(self.network.table.weight))
        return TrainingBatch(distinct, batch.labels)

    def train_step(self, batch: TrainingBatch) -> Tensor:
        """One step of both optimisers; the batch's mean loss before it, a scalar on the device."""
        lr = self.learning_rate.at(self.steps)
        self.table_optimizer.lr = lr
        table = self.network.table
        distinct = batch.distinct.to(table.weight.device, self.device)
        rows = self.table_optimizer.gather(distinct.ids)  # (U, W)
        vectors, weights = table.embed(rows.to(self.device), distinct)
        for parameter in self.model_parameters:
            parameter.grad = None
        with matrix_precision(self.settings.precision):
            with autocast(self.settings.precision, self.device):
                logits = self.model(vectors, weights).float()
            loss = binary_cross_entropy_with_logits(logits, to_device(batch.labels, self.device))
            loss.backward()
        self.table_optimizer.update(distinct.ids, rows)
        if self.model_optimizer is not None:
            self.model_optimizer.param_groups[0]["lr"] = lr
            self.model_optimizer.step()
        self.steps += 1
        return loss.detach()

    def predict(self, split: str) -> np.ndarray:
        """Logits (rows,) float32 of a split in file order."""
        self.table_optimizer.synchronize()
        return predict_logits(self.network, self.loaders[split])

    def _loader(self, split: str) -> Loader:
        """Training rows stay on the CPU, where their distinct ids are found."""
        train = split == "train"
        return Loader(
            self.data,
            split,
            batch_size=self.settings.batch_size,
            generator=self.order if train else None,
            bootstrap=self.settings.bootstrap if train else 0.0,
            bootstrap_seed=self.bootstrap_seed,
            schema=self.schema,
            device=None if train else self.network.table.weight.device,
            resident=self.settings.resident,
        )

    def _finite_sum(self, losses: list[Tensor], epoch: int) -> float:
        stacked = torch.stack(losses).double().cpu()
        finite = stacked.isfinite()
        if not finite.all():
            first = int((~finite).nonzero()[0])
            raise self._diverged(
                f"the loss is {stacked[first].item()} at step "
                f"{self.steps - len(losses) + first + 1} (epoch {epoch})"
            )
        return float(stacked.sum().item())

    def _diverged(self, what: str) -> RunError:
        return RunError(
            f"{self.name}: {what}; the learning rate of {self.settings.lr} may be too high, try "
            f"--set lr={self.settings.lr / 10:g}"
        )

    def _log(self, epoch: Epoch) -> None:
        line = (
            f"epoch {epoch.epoch}: train loss {epoch.train_loss:.5f}, val AUC "
            f"{epoch.val_auc:.5f}, val log loss {epoch.val_logloss:.5f}, "
            f"{epoch.rows_per_second:,.0f} rows/s"
        )
        with (self.folder / "log.txt").open("a") as log:
            print(line, file=log)
        tqdm.write(f"{self.name} {line}")


def _check_last_batch(network: Network, rows: int, batch_size: int) -> None:
    """Raise `RunError` where batch normalisation would end an epoch with one row, hours later."""
    normalises = any(isinstance(module, nn.BatchNorm1d) for module in network.modules())
    if normalises and (rows - 1) % batch_size == 0:
        raise RunError(
            f"batch_norm=true needs two rows, and of {rows} training rows batch_size={batch_size} "
            f"leaves one for the last batch; --set another batch_size, or batch_norm=false"
        )


def _scores(
    logits: Mapping[str, np.ndarray], data: Path, schema: Schema, runs: Path, dataset: str
) -> dict[str, Any]:
    """Metrics of the scored splits, and the hashes under which their labels are stored."""
    metrics, hashes = {}, {}
    for split in SCORED_SPLITS:
        labels = read_labels(data, split, schema)
        metrics[split] = {
            "auc": auc(labels, logits[split]),
            "logloss": logloss(labels, logits[split]),
        }
        hashes[split] = store_labels(runs, dataset, labels, read_truth(data, split))
    return {"metrics": metrics, "labels": hashes}


def _costs(network: Network, schema: Schema, config: RunConfig) -> dict[str, Any]:
    macs = count_macs_per_row(network.model, schema.num_fields, network.table.embedding_dim)
    return {
        "parameters": count_parameters(network),
        "macs_per_row": macs,
        "flops_per_row": 2 * macs,
        "scale": achieved_scale(config, macs, schema.num_fields),
        "latency_ms": measure_latency_ms(network, schema),
    }


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else 0.0


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's default generators start from `seed` inside, and are as before outside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
