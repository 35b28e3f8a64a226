"""The training of one member: what it computes, keeps and refuses."""

from __future__ import annotations

import math
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from data.loader import Loader, read_labels
from data.schema import read_schema
from modules.config import RunConfig, resolve
from modules.distinct import DistinctIds, find_distinct
from modules.embedding import EmbeddingTable, Network
from modules.models import MODELS, build_model
from modules.models.lr import LR
from modules.optim import DenseAdam
from modules.precision import Precision, autocast, matrix_precision
from modules.runs import Member, RunError
from modules.scoring.metrics import auc, logloss
from modules.training import (
    CHECK_EVERY,
    Streams,
    Trainer,
    TrainingBatch,
    build_network,
    resolve_device,
    train_member,
)

CPU = torch.device("cpu")
QUICK = ["batch_size=256", "lr=1e-2", "embedding_dim=4", "embedding_init=0.05", "epochs=1"]


def config(model: str = "deepfm", seed: int = 1, *overrides: str) -> RunConfig:
    settings = [*QUICK, *overrides]
    if model == "deepfm":
        settings.insert(0, "hidden_units=16,8")
    return resolve("toy", model, seed=seed, overrides=settings)


def train(encoded: Path, runs: Path, *args: str | int) -> Member:
    return train_member(config(*args), encoded, runs, CPU)  # type: ignore[arg-type]


def test_a_run_folder_holds_what_it_says(encoded: Path, tmp_path: Path) -> None:
    member = train(encoded, tmp_path, "deepfm", 3, "epochs=6", "lr=0.03")
    assert member.folder == tmp_path / "toy/deepfm/base/seed-3"
    assert sorted(path.name for path in member.folder.iterdir()) == [
        "config.yaml",
        "log.txt",
        "model.safetensors",
        "report.json",
        "test.npy",
        "val.npy",
    ]
    schema = read_schema(encoded)
    report = member.report
    assert yaml.safe_load((member.folder / "config.yaml").read_text())["training"]["lr"] == 0.03
    best = max(report["epochs"], key=lambda epoch: float(epoch["val_auc"]))
    assert report["best_epoch"] == best["epoch"]
    assert report["metrics"]["val"]["auc"] == best["val_auc"]
    # The weights, both predictions and the reported scores are those of the same epoch, and this
    # test would not notice the wrong one if the best were the last.
    assert report["best_epoch"] < len(report["epochs"])
    network = build_network(config("deepfm", 99), schema, Streams.of(99))
    safetensors.torch.load_model(network, member.folder / "model.safetensors")
    for split in ("val", "test"):
        loader = Loader(encoded, split, batch_size=64, schema=schema)
        with torch.no_grad():
            logits = torch.cat([network(batch.ids) for batch in loader])
        saved = member.logits(split)
        assert saved.dtype == np.float32
        np.testing.assert_allclose(saved, logits.numpy(), atol=1e-5)
        labels = read_labels(encoded, split, schema)
        assert report["metrics"][split]["auc"] == auc(labels, saved)
    assert report["data"]["synthetic"] is True
    assert report["parameters"]["table"] == schema.num_features * 5


def test_patience_is_the_number_of_forgiven_epochs(encoded: Path, tmp_path: Path) -> None:
    for patience in (0, 2):
        overrides = ("epochs=30", "lr=0.03", f"patience={patience}")
        report = train(encoded, tmp_path / str(patience), "fm", 1, *overrides).report
        assert len(report["epochs"]) == report["best_epoch"] + patience + 1 < 30


@pytest.mark.parametrize("vary", ["init", "init+order"])
def test_a_seed_decides_the_logits(encoded: Path, tmp_path: Path, vary: str) -> None:
    first, again, other = (
        train(encoded, tmp_path / str(number), "deepfm", seed, f"vary={vary}", "dropout=0.1")
        for number, seed in enumerate((5, 5, 6))
    )
    for split in ("val", "test"):
        np.testing.assert_array_equal(first.logits(split), again.logits(split))  # to the bit
        assert not np.array_equal(first.logits(split), other.logits(split))


def test_vary_says_whether_a_seed_changes_the_order(encoded: Path, tmp_path: Path) -> None:
    schema = read_schema(encoded)

    def labels_seen(vary: str, seed: int) -> list[float]:
        run = config("lr", seed, f"vary={vary}")
        streams = Streams.of(seed)
        trainer = Trainer(
            run, schema, encoded, build_network(run, schema, streams), streams, tmp_path
        )
        seen: list[float] = []
        step = trainer.train_step
        trainer.train_step = lambda batch: seen.extend(batch.labels.tolist()) or step(batch)  # type: ignore[func-returns-value,method-assign]
        trainer.train_epoch(1)
        return seen

    in_file = read_labels(encoded, "train", schema).tolist()
    assert labels_seen("init", 1) == labels_seen("init", 2) == in_file
    own_order = labels_seen("init+order", 1)
    assert own_order != in_file
    assert own_order != labels_seen("init+order", 2)
    assert sorted(own_order) == sorted(in_file)


def test_the_train_loss_is_the_mean_over_the_rows_of_an_epoch(
    encoded: Path, tmp_path: Path
) -> None:
    schema = read_schema(encoded)
    run = config("fm", 1, "batch_size=30", "lr=1e-12")  # so slow that the network stays as it is
    streams = Streams.of(1)
    trainer = Trainer(run, schema, encoded, build_network(run, schema, streams), streams, tmp_path)
    labels, logits = read_labels(encoded, "train", schema), trainer.predict("train")
    assert len(labels) // 30 > 2 * CHECK_EVERY  # the loss is looked at several times
    assert trainer.train_epoch(1) == pytest.approx(logloss(labels, logits), abs=1e-6)


def test_distinct_ids_are_found_while_the_step_before_computes(
    encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = read_schema(encoded)
    run, streams = config("fm"), Streams.of(1)
    trainer = Trainer(run, schema, encoded, build_network(run, schema, streams), streams, tmp_path)
    steps = -(-trainer.loaders["train"].num_rows // run.training.batch_size)
    assert steps > 2
    found = threading.Semaphore(0)
    in_time: list[bool] = []

    def find(*args: Any) -> DistinctIds:
        distinct = find_distinct(*args)
        found.release()
        return distinct

    def step(batch: TrainingBatch) -> Tensor:
        in_time.append(found.acquire(timeout=10))  # its own
        if len(in_time) < steps:  # and, before it ends, that of the next step
            in_time[-1] &= found.acquire(timeout=10)
            found.release()
        return train_step(batch)

    train_step = trainer.train_step
    monkeypatch.setattr("modules.training.find_distinct", find)
    monkeypatch.setattr(trainer, "train_step", step)
    trainer.train_epoch(1)
    assert in_time == [True] * steps


def test_global_random_state_is_left_alone(encoded: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(encoded, tmp_path, "deepfm", 1, "dropout=0.5")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("optimizer", ["deferred", "dense"])
@pytest.mark.parametrize("scope", ["none", "batch", "table"])
@pytest.mark.parametrize("name", ["lr", "fm", "fnn", "deepfm"])  # every layout of the table
def test_a_step_is_that_of_nn_embedding_under_torch_adam(
    encoded: Path, tmp_path: Path, name: str, scope: str, optimizer: str
) -> None:
    """The gathered rows and the rows left at rest are ways to write it, not another method."""
    if (optimizer, scope) == ("deferred", "table"):
        pytest.skip("refused, see test_config.py")
    l2 = 0.0 if scope == "none" else 1e-3
    settings = [f"optimizer={optimizer}", f"l2={l2}", "embedding_init=0.3", "lr=1e-3"]
    settings += [f"l2_scope={scope}"] if l2 else []
    schema = read_schema(encoded)
    run = config(name, 1, *settings)
    streams = Streams.of(1)
    network = build_network(run, schema, streams)
    model = build_network(run, schema, Streams.of(1)).model
    table = nn.Embedding.from_pretrained(network.table.weight.clone(), freeze=False)
    # Adam couples its decay: decay * parameter is a part of the gradient.
    decay_table = l2 if scope == "table" else 0.0
    groups = [{"params": table.parameters(), "weight_decay": decay_table}]
    groups += [{"params": model.parameters()}] if list(model.parameters()) else []
    adam = torch.optim.Adam(groups, lr=run.training.lr, weight_decay=l2)
    trainer = Trainer(run, schema, encoded, network, streams, tmp_path)
    for batch in Loader(encoded, "train", batch_size=200, schema=schema):
        embedded = table(batch.ids)
        vectors = embedded[..., : network.table.embedding_dim]
        loss = binary_cross_entropy_with_logits(model(vectors, embedded[..., -1]), batch.labels)
        adam.zero_grad()
        loss.backward()
        if scope == "batch":
            used = batch.ids.unique()
            table.weight.grad[used] += l2 * table.weight.detach()[used]
        adam.step()
        torch.testing.assert_close(
            trainer.train_step(trainer.prepare(batch)), loss.detach(), atol=1e-4, rtol=1e-3
        )
    trainer.table_optimizer.synchronize()
    torch.testing.assert_close(network.table.weight, table.weight, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("vary", ["init", "init+order"])
def test_resident_rows_and_a_table_on_the_host_change_nothing(
    encoded: Path, tmp_path: Path, vary: str
) -> None:
    def logits(runs: str, *settings: str) -> np.ndarray:
        settings = ("epochs=2", "patience=1", f"vary={vary}", *settings)
        return train(encoded, tmp_path / runs, "deepfm", 1, *settings).logits("test")

    plain = logits("plain")
    np.testing.assert_array_equal(plain, logits("kept", "resident=true", "table_device=cpu"))


def test_bf16_computes_in_bf16_and_predicts_nearly_the_same(encoded: Path, tmp_path: Path) -> None:
    full, half = (
        train(encoded, tmp_path / precision, "deepfm", 1, f"precision={precision}").logits("test")
        for precision in ("float32", "bf16")
    )
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, atol=0.05)
    assert len(np.unique(half)) > len(half) / 2  # predicted in float32


@pytest.mark.parametrize("name", MODELS)
def test_bf16_changes_gradients_by_its_precision_only(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 6, embedding_dim=8)
    vectors = torch.randn(32, 6, 8, requires_grad=True)
    weights = torch.randn(32, 6, requires_grad=True)
    gradients = []
    precisions: tuple[Precision, ...] = ("float32", "bf16")
    for precision in precisions:
        model.zero_grad()
        with autocast(precision, CPU):
            logits = model(vectors, weights).float()
        binary_cross_entropy_with_logits(logits, torch.ones(32)).backward()
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in model.parameters()])  # type: ignore[union-attr]
        )
    full, half = gradients
    assert (full - half).norm() < 0.03 * full.norm()


def test_matrix_precision_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    with matrix_precision("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("precision", "forward", "backward"),
    [
        ("float32", ("highest", False), ("highest", False)),
        ("tf32", ("high", False), ("high", False)),
        ("bf16", ("highest", True), ("highest", False)),
    ],
)
def test_a_step_computes_both_passes_in_its_precision(
    precision: Precision,
    forward: tuple[str, bool],
    backward: tuple[str, bool],
    encoded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, weights: Tensor) -> Tensor:
            seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
            return weights.sum(dim=1)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
            return grads[0][:, None].expand(-1, 24)

    schema, run, streams = read_schema(encoded), config("lr"), Streams.of(1)
    trainer = Trainer(run, schema, encoded, build_network(run, schema, streams), streams, tmp_path)
    trainer.settings = replace(trainer.settings, precision=precision)  # a CPU would refuse tf32
    probe: Any = Probe.apply
    monkeypatch.setattr(trainer, "model", lambda _, weights: probe(weights))
    trainer.train_step(trainer.prepare(next(iter(trainer.loaders["train"]))))
    assert seen == [forward, backward]


def test_tf32_is_refused_where_there_is_none(encoded: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="precision=tf32 is of CUDA GPUs, not of the cpu"):
        train(encoded, tmp_path, "deepfm", 1, "precision=tf32")


@pytest.mark.parametrize("optimizer", ["deferred", "dense"])
def test_every_parameter_moves_at_the_scheduled_learning_rate(
    encoded: Path, tmp_path: Path, optimizer: str
) -> None:
    """Adam's first steps are of the learning rate's size, whatever the gradient."""
    schema = read_schema(encoded)
    run = config("fnn", 1, "lr=1e-2", "warmup_steps=1000", f"optimizer={optimizer}")
    streams = Streams.of(1)
    network = build_network(run, schema, streams)
    before = [tensor.clone() for tensor in (network.table.weight, *network.model.parameters())]
    trainer = Trainer(run, schema, encoded, network, streams, tmp_path)
    trainer.train_step(trainer.prepare(next(iter(trainer.loaders["train"]))))
    trainer.table_optimizer.synchronize()
    for old, new in zip(before, (network.table.weight, *network.model.parameters()), strict=True):
        assert (new - old).abs().max().item() == pytest.approx(1e-5, rel=0.02)


@pytest.mark.parametrize(("more", "warned"), [(0, False), (1, True)])
def test_a_warm_up_that_ends_after_the_training_is_warned_of(
    encoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: int, warned: bool
) -> None:
    steps = math.ceil(read_schema(encoded).rows["train"] / 256)
    train(encoded, tmp_path, "lr", 1, f"warmup_steps={steps + more}")
    said = f"warning: warmup_steps={steps + more}, but the training has at most {steps} steps;"
    assert (said in capsys.readouterr().err) == warned


def test_lr_finds_the_optimum_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, sizes, l2 = 400, (5, 4, 3), 1e-2
    offsets = torch.tensor([0, 5, 9])
    ids = torch.stack([torch.randint(size, (rows,), generator=generator) for size in sizes], 1)
    ids = ids + offsets
    planted = torch.randn(12, generator=generator)
    noise = torch.rand(rows, generator=generator)
    labels = (noise < torch.sigmoid(planted[ids].sum(1))).float()

    table = EmbeddingTable(12, 0, first_order=True, generator=generator)
    optimizer = DenseAdam(table.weight, lr=0.05, l2=l2, l2_of_table=True)
    model = LR(3)
    batch = find_distinct(ids, 12)
    for _ in range(1500):
        gathered = optimizer.gather(batch.ids)
        logits = model(*table.embed(gathered, batch)) - model.bias  # without an intercept
        binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.update(batch.ids, gathered)

    one_hot = nn.functional.one_hot(ids, 12).sum(1).numpy()
    sklearn = LogisticRegression(C=1 / (rows * l2), fit_intercept=False, tol=1e-10)
    sklearn.fit(one_hot, labels.numpy())
    np.testing.assert_allclose(table.weight[:, 0].numpy(), sklearn.coef_[0], atol=1e-4)


@pytest.mark.parametrize("init", [None, 0.05])
def test_the_table_begins_as_its_setting_says(init: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    table = EmbeddingTable(5000, 16, first_order=True, generator=generator, init=init)
    assert table.weight.shape == (5000, 17)
    bound = (6 / 5016) ** 0.5
    if init is None:
        assert 0.999 * bound < table.weight.abs().max() <= bound
    spread = bound / 3**0.5 if init is None else init
    assert table.weight.std().item() == pytest.approx(spread, rel=0.02)


def test_a_diverging_loss_names_its_step_and_leaves_nothing(encoded: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step \d+ \(epoch 1\).*try --set"):
        train(encoded, tmp_path, "fm", 1, "lr=1e25")
    assert list(tmp_path.glob("toy/fm/base/*")) == []
    with pytest.raises(RunError, match=r"at step 1 \(epoch 1\)"):
        train(encoded, tmp_path, "fm", 1, "embedding_init=1e30")
    with pytest.raises(RunError, match=r"val logits are not finite after epoch 1; .*try --set lr="):
        train(encoded, tmp_path, "fm", 1, "lr=1e25", "batch_size=9999")  # in its only step


def test_a_run_that_outlives_its_data_set_is_refused(encoded: Path, tmp_path: Path) -> None:
    data, runs = Path(shutil.copytree(encoded, tmp_path / "data")), tmp_path / "runs"

    def make_trainer(*args: Any) -> Trainer:
        schema = data / "schema.yaml"  # as if the log were prepared anew from here on
        schema.write_text(schema.read_text().replace("sha256: ", "sha256: 0", 1))
        return Trainer(*args)

    with pytest.raises(RunError, match="data was prepared again during the training"):
        train_member(config(), data, runs, CPU, make_trainer=make_trainer)
    assert list(runs.glob("toy/deepfm/base/*")) == []


def test_batch_normalisation_of_a_last_row_is_refused_at_once(
    encoded: Path, tmp_path: Path
) -> None:
    rows = read_schema(encoded).rows["train"]
    for batch_size in (1, rows - 1):
        with pytest.raises(RunError, match=rf"{rows} training rows batch_size={batch_size} leaves"):
            train(encoded, tmp_path, "deepfm", 1, "batch_norm=true", f"batch_size={batch_size}")
    train(encoded, tmp_path, "deepfm", 1, "batch_norm=true", f"batch_size={rows - 2}")
    train(encoded, tmp_path, "deepfm", 2, f"batch_size={rows - 1}")


@pytest.mark.parametrize(
    ("model", "sizes"),
    [("fm", "embedding_dim=1000000000000"), ("fnn", "hidden_units=1" + 14 * "0")],
)
def test_sizes_beyond_the_memory_are_named(
    model: str, sizes: str, encoded: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"embedding_dim=\d+.* cannot be built .* smaller sizes"):
        train(encoded, tmp_path, model, 1, sizes)


@pytest.mark.parametrize("step", [(Network, "place"), (Trainer, "train_step")])
def test_too_small_a_memory_of_the_gpu_names_the_ways_out(
    step: tuple[type, str], encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object, **_more: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(*step, too_much)
    with pytest.raises(RunError, match=r"memory of cpu is too small .*table_device=cpu"):
        train(encoded, tmp_path, "fm", 1)
    assert list(tmp_path.glob("toy/fm/base/*")) == []


def test_a_device_that_is_not_there_is_refused() -> None:
    assert resolve_device("cpu") == CPU
    with pytest.raises(RunError, match=r"shows \d+ CUDA devices; use --device auto"):
        resolve_device("cuda:99")
    for name in ("gpu0", "meta", "mps", "cpu:1"):
        with pytest.raises(RunError, match=f"{name}: not a device; use auto, cpu"):
            resolve_device(name)
