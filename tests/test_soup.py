"""Averaged weights, of seeds and of late checkpoints, and members tuned for the merge."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from data.loader import Loader
from data.schema import read_schema
from modules.config import ConfigError, RunConfig, resolve
from modules.group import Outcome, State, plan_group, train_group
from modules.runs import Member, RunError, read_member
from modules.soup import LateSoupTrainer
from modules.training import Streams, build_network
from tests.conftest import ROOT, run_command

CPU = torch.device("cpu")
QUICK = ["batch_size=256", "lr=1e-2", "embedding_dim=4", "embedding_init=0.05", "epochs=2"]


def config(arm: str = "base", seed: int = 5, *more: str) -> RunConfig:
    overrides = ["hidden_units=8", "patience=1", *QUICK, *more]
    return resolve("toy", "deepfm", seed=seed, arm=arm, overrides=overrides)


def outcome(run: RunConfig, encoded: Path, runs: Path) -> Outcome:
    (planned,) = plan_group([run], encoded, runs)
    (found,) = train_group([planned], encoded, runs, CPU)
    return found


def train(run: RunConfig, encoded: Path, runs: Path) -> Member:
    found = outcome(run, encoded, runs)
    assert found.member is not None, found.failure
    return found.member


@pytest.fixture(scope="session")
def base_runs(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with the base members of seeds 5 and 6."""
    runs = tmp_path_factory.mktemp("base")
    for seed in (5, 6):
        train(config(seed=seed), encoded, runs)
    return runs


@pytest.fixture
def runs(base_runs: Path, tmp_path: Path) -> Path:
    """A copy of `base_runs` of one's own."""
    return Path(shutil.copytree(base_runs, tmp_path / "runs"))


def weights(member: Member) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = safetensors.torch.load_file(
        member.folder / "model.safetensors"
    )
    return loaded


def test_a_soup_is_the_mean_of_its_members_weights(encoded: Path, runs: Path) -> None:
    members = [train(config(seed=seed), encoded, runs) for seed in (5, 6)]
    soup = train(config("soup:2"), encoded, runs)
    first, second, mean = (weights(member) for member in (*members, soup))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    schema = read_schema(encoded)
    network = build_network(config(), schema, Streams.of(5))
    network.load_state_dict(mean)
    with torch.no_grad():
        logits = [network.eval()(batch.ids) for batch in Loader(encoded, "test", batch_size=99)]
    np.testing.assert_allclose(soup.logits("test"), torch.cat(logits).numpy(), atol=1e-5)
    spent = sum(float(member.report["seconds"]) for member in members)
    assert soup.report["seconds"] > spent  # a soup costs the training of its members
    assert soup.report["scale"] == 1.0
    assert soup.report["parameters"] == members[0].report["parameters"]


def test_a_soup_of_one_is_that_member(encoded: Path, runs: Path) -> None:
    member, soup = (train(config(arm), encoded, runs) for arm in ("base", "soup:1"))
    for split in ("val", "test"):
        np.testing.assert_array_equal(soup.logits(split), member.logits(split))
    assert soup.report["metrics"] == member.report["metrics"]


def test_a_soup_is_made_again_when_a_member_was(encoded: Path, runs: Path) -> None:
    def state() -> State:
        (planned,) = plan_group([config("soup:2")], encoded, runs)
        return planned.state

    assert state() is State.MISSING
    before = weights(train(config("soup:2"), encoded, runs))
    (again,) = plan_group([config(seed=6)], encoded, runs, force=True)
    list(train_group([again], encoded, runs, CPU))
    assert state() is State.COMPLETE  # the same settings and seed give the same member
    train(config(seed=7), encoded, runs)
    members = runs / "toy/deepfm/base"
    shutil.rmtree(members / "seed-6")
    assert state() is State.COMPLETE  # as it cannot be made again
    shutil.copytree(members / "seed-7", members / "seed-6")
    assert state() is State.REDO
    after = weights(train(config("soup:2"), encoded, runs))
    assert any(not torch.equal(after[name], before[name]) for name in after)
    assert state() is State.COMPLETE


def test_a_soup_needs_members_of_the_same_settings(encoded: Path, runs: Path) -> None:
    missing = outcome(config("soup:3"), encoded, runs)
    assert "seed-7 is missing; train the arm base first" in missing.failure
    other = outcome(config("soup:2", 5, "lr=2e-2"), encoded, runs)
    assert "was trained with lr=0.01, and arm 'soup:2' is asked for with lr=0.02" in other.failure
    lost = runs / "toy/deepfm/base/seed-6/model.safetensors"
    lost.unlink()
    assert f"{lost}: not this member's weights" in outcome(config("soup:2"), encoded, runs).failure
    assert not list(runs.glob("toy/deepfm/soup*/*"))


@pytest.mark.parametrize("batch_size", [256, 9999])  # 9999: one step an epoch
def test_one_late_checkpoint_is_the_base_arm(
    batch_size: int, encoded: Path, tmp_path: Path
) -> None:
    base, late = (
        train(config(arm, 5, f"batch_size={batch_size}"), encoded, tmp_path)
        for arm in ("base", "soup-late:1")
    )
    for split in ("val", "test"):
        np.testing.assert_array_equal(late.logits(split), base.logits(split))


def test_late_checkpoints_are_of_the_second_half_and_leave_the_training_alone(
    encoded: Path, tmp_path: Path
) -> None:
    """13 steps an epoch: the checkpoints are after steps 6 or 7, 10 and 13 of each."""
    schema = read_schema(encoded)
    run = config("soup-late:3")
    seen: list[dict[str, torch.Tensor]] = []

    class Watched(LateSoupTrainer):
        def train_step(self, batch):  # type: ignore[no-untyped-def]
            loss = super().train_step(batch)
            seen.append({name: value.clone() for name, value in self._weights().items()})
            return loss

    streams = Streams.of(5)
    network = build_network(run, schema, streams)
    trainer = Watched(run, schema, encoded, network, streams, tmp_path, snapshots=3)
    trainer.train_epoch(1)
    assert len(seen) == 13
    assert sorted(trainer.at_steps) in ([6, 10, 13], [7, 10, 13])
    for name, value in network.state_dict().items():
        mean = sum(seen[step - 1][name] for step in trainer.at_steps) / 3
        torch.testing.assert_close(value, mean)
    trainer.predict("val")
    trainer.train_epoch(2)
    base_streams = Streams.of(5)
    base = build_network(config(), schema, base_streams)
    reference = LateSoupTrainer(
        config(), schema, encoded, base, base_streams, tmp_path, snapshots=1
    )
    for number in (1, 2):
        reference.train_epoch(number)
    reference.table_optimizer.synchronize()
    for name, value in base.state_dict().items():
        torch.testing.assert_close(seen[-1][name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("batch_size", "late"), [(1100, [2, 3]), (500, [4, 7])])
def test_of_few_steps_too_the_second_half_alone_is_averaged(
    batch_size: int, late: list[int], encoded: Path, tmp_path: Path
) -> None:
    schema, streams = read_schema(encoded), Streams.of(5)
    run = config("soup-late:2", 5, f"batch_size={batch_size}")
    network = build_network(run, schema, streams)
    trainer = LateSoupTrainer(run, schema, encoded, network, streams, tmp_path, snapshots=2)
    assert sorted(trainer.at_steps) == late


def test_more_late_checkpoints_than_steps_are_refused(encoded: Path, tmp_path: Path) -> None:
    failure = outcome(config("soup-late:9"), encoded, tmp_path).failure
    assert "an epoch of 13 steps has no 9 checkpoints in its second half" in failure


@pytest.mark.parametrize("arm", ["joint:2", "multi:2", "width:2"])
def test_arms_train_alike_under_both_optimizers(arm: str, encoded: Path, tmp_path: Path) -> None:
    deferred, dense = (
        train(config(arm, 5, f"optimizer={name}"), encoded, tmp_path / name)
        for name in ("deferred", "dense")
    )
    np.testing.assert_allclose(deferred.logits("test"), dense.logits("test"), atol=2e-2)
    assert deferred.report["latency_ms"] > 0
    assert deferred.report["scale"] == pytest.approx(2, rel=0.1)


def test_a_run_older_than_a_setting_is_complete(encoded: Path, runs: Path) -> None:
    path = runs / "toy/deepfm/base/seed-5/config.yaml"
    lines = [line for line in path.read_text().splitlines() if "bootstrap" not in line]
    path.write_text("\n".join(lines))
    (planned,) = plan_group([config()], encoded, runs)
    assert planned.state is State.COMPLETE


def test_two_members_of_one_place_are_refused(encoded: Path, tmp_path: Path) -> None:
    mixes = [resolve("toy", f"fm:{dim}+fm:8", seed=5) for dim in (4, 8)]
    with pytest.raises(RunError, match=r"two members would both be fm\+fm/joint:2/seed-5"):
        plan_group(mixes, encoded, tmp_path)


def test_what_another_process_trained_since_the_plan_is_taken(encoded: Path, runs: Path) -> None:
    folder = runs / "toy/deepfm/base/seed-5"
    elsewhere = folder.rename(runs.parent / "elsewhere")
    planned = plan_group([config(), config(seed=6)], encoded, runs)
    assert [entry.state for entry in planned] == [State.MISSING, State.COMPLETE]
    elsewhere.rename(folder)
    written = (folder / "report.json").stat().st_mtime_ns
    outcomes = list(train_group(planned, encoded, runs, CPU))
    assert [found.planned.state for found in outcomes] == 2 * [State.COMPLETE]
    assert [found.member and found.member.seed for found in outcomes] == [5, 6]
    assert (folder / "report.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("name", ["model.safetensors", "val.npy", "test.npy"])
@pytest.mark.parametrize("keeps", [None, 0.0, 0.5])
def test_a_run_that_lost_a_file_or_a_part_of_it_is_trained_again(
    name: str, keeps: float | None, encoded: Path, runs: Path
) -> None:
    path = runs / "toy/deepfm/base/seed-5" / name
    whole = path.read_bytes()
    path.unlink()
    if keeps is not None:
        path.write_bytes(whole[: int(keeps * len(whole))])
    planned = plan_group([config(), config(seed=6)], encoded, runs)
    assert [entry.state for entry in planned] == [State.REDO, State.COMPLETE]
    first, _ = train_group(planned, encoded, runs, CPU)
    assert first.member is not None
    assert path.read_bytes() == whole


@pytest.mark.parametrize("force", [True, False])
def test_what_another_process_trained_again_since_the_plan_is_taken(
    encoded: Path, runs: Path, force: bool
) -> None:
    folder = runs / "toy/deepfm/base/seed-5"
    (folder / "val.npy").unlink()
    ours, theirs = (plan_group([config()], encoded, runs, force=force) for _ in range(2))
    assert [entry.state for entry in ours] == [State.REDO]
    list(train_group(theirs, encoded, runs, CPU))
    written = (folder / "report.json").stat().st_mtime_ns
    (found,) = train_group(ours, encoded, runs, CPU)
    assert found.planned.state is State.COMPLETE and found.member is not None
    assert (folder / "report.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("force", [True, False])
def test_every_run_of_other_data_is_kept(encoded: Path, runs: Path, force: bool) -> None:
    folder = runs / "toy/deepfm/base/seed-5"
    losses = []
    for name in ("seed-5.data-0badc0de", "seed-5.data-0badc0de.2"):
        report = read_member(folder).report
        losses.append(report["metrics"]["val"]["logloss"] + 1)
        report["metrics"]["val"]["logloss"] = losses[-1]
        report["data"]["fingerprint"] = "0badc0de0000"
        (folder / "report.json").write_text(json.dumps(report))
        planned = plan_group([config()], encoded, runs, force=force)
        assert [entry.state for entry in planned] == [State.OTHER_DATA]
        assert [found.failure for found in train_group(planned, encoded, runs, CPU)] == [""]
        aside = read_member(folder.with_name(name)).report
        assert aside["metrics"]["val"]["logloss"] == losses[-1]
    assert read_member(folder).fingerprint != "0badc0de0000"


@pytest.mark.parametrize("name", ["report.json", "config.yaml"])
def test_a_run_that_cannot_be_read_is_trained_again_by_force(
    name: str, encoded: Path, runs: Path
) -> None:
    (runs / "toy/deepfm/base/seed-5" / name).write_text("")
    with pytest.raises(RunError, match=f"seed-5/{name}: not a run's .*--force"):
        plan_group([config()], encoded, runs)
    assert f"seed-5/{name}: not a run's" in outcome(config("soup:2"), encoded, runs).failure
    planned = plan_group([config()], encoded, runs, force=True)
    assert [found.failure for found in train_group(planned, encoded, runs, CPU)] == [""]


def rows_read(encoded: Path, share: float, seed: int, passes: int = 1) -> list[list[bytes]]:
    loader = Loader(encoded, "train", batch_size=100, bootstrap=share, bootstrap_seed=seed)
    return [[row.tobytes() for batch in loader for row in batch.ids.numpy()] for _ in range(passes)]


def test_a_bootstrap_reads_the_same_drawn_rows_in_every_pass(encoded: Path) -> None:
    (plain,) = rows_read(encoded, 0.0, 1)
    first, again = rows_read(encoded, 1.0, 1, passes=2)
    (other,) = rows_read(encoded, 1.0, 2)
    assert first == again
    assert first != other
    assert len(first) == len(plain)
    assert set(first) <= set(plain)
    assert len(set(first)) / len(set(plain)) == pytest.approx(1 - np.exp(-1), abs=0.03)
    (half,) = rows_read(encoded, 0.5, 1)
    kept = np.mean([mine == theirs for mine, theirs in zip(half, plain, strict=True)])
    assert kept == pytest.approx(0.5, abs=0.05)


def test_a_seed_draws_its_own_bootstrap(encoded: Path, tmp_path: Path) -> None:
    plain, drawn = (
        train(config("base", 5, f"bootstrap={share}"), encoded, tmp_path / str(share))
        for share in (0.0, 0.5)
    )
    assert not np.array_equal(plain.logits("val"), drawn.logits("val"))
    other = Streams.of(6).bootstrap
    assert other != Streams.of(5).bootstrap
    with pytest.raises(ConfigError, match=r"bootstrap=1\.5 is not a share from 0 to 1"):
        config("base", 5, "bootstrap=1.5")


def test_the_commands_train_arms_and_a_mix(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "data/encoded", tmp_path / "data/encoded")
    group: list[str | Path] = [ROOT / "trainer_group.py", "--dataset", "avazu", "--models", "fnn"]
    arms = ["--arms", "soup:2,base,width:2", "--seeds", "3", "--joint", "fm:3+fnn:5"]
    settings = ["--set", *QUICK, "hidden_units=8"]
    output = run_command(*group, *arms, *settings, cwd=tmp_path)
    assert "plan: 10 members" in output
    assert "10 of 10 members are complete" in output
    found = {
        str(path.parent.relative_to(tmp_path / "runs/avazu"))
        for path in tmp_path.glob("runs/avazu/*/*/*/report.json")
    }
    grid = itertools.product(("fm+fnn/joint:2", "fnn/base", "fnn/width:2"), (2021, 2022, 2023))
    assert found == {"fnn/soup:2/seed-2021", *(f"{place}/seed-{seed}" for place, seed in grid)}
    assert run_command(*group, *arms, *settings, cwd=tmp_path).count("(was complete)") == 10
    alone = run_command(*group, "--joint", "fm:3", *settings, cwd=tmp_path, code=1)
    assert "--joint fm:3: a mix names two modules at least" in alone
    few = run_command(*group, "--arms", "soup:2", "--seeds", "1,3", *settings, cwd=tmp_path, code=1)
    assert "averages 2 members of consecutive seeds, and --seeds gives 1, 3" in few
