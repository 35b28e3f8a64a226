"""The search of settings: what it optimises, what it reads, and how it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data import loader
from data.loader import read_labels
from data.schema import Rows, Schema, read_schema
from modules import config as configuration
from modules.config import RunConfig, resolve
from modules.runs import RunError
from modules.scoring.metrics import logloss
from modules.training import Trainer, fit_member
from tests.conftest import interrupt

pytest.importorskip("optuna", reason="an optional requirement, see requirements-search.txt")
MEMBERS = 2


@pytest.fixture
def search(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/search.py, in a project with profiles of its own, unable to read test rows."""
    from scripts import search

    read = loader._read_checked

    def without_test(path: Path, schema: Schema) -> Rows:
        assert not path.name.startswith("test")
        return read(path, schema)

    monkeypatch.setattr(loader, "_read_checked", without_test)
    shutil.copytree(project / "data/encoded", tmp_path / "data/encoded")
    (tmp_path / "configs/profiles").mkdir(parents=True)
    monkeypatch.setattr(configuration, "CONFIGS", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return search


def command(*more: str) -> list[str]:
    settings = ["--set", "hidden_units=8", "embedding_dim=4", "batch_size=256", "lr=1e-2"]
    fixed = ["--dataset", "avazu", "--model", "deepfm", "--members", str(MEMBERS), "--name", "toy"]
    return [*fixed, *more, *settings]


@pytest.mark.parametrize("objective", ["merged", "member"])
def test_the_profile_is_the_trial_with_the_best_objective(
    search: ModuleType, tmp_path: Path, objective: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search.main(command("--trials", "4", "--objective", objective)) == 0
    output = capsys.readouterr().out
    trials = [line for line in output.splitlines() if " complete: " in line]
    best = min(float(line.split(f"{objective} ")[1].split()[0].strip(",")) for line in trials)

    data = tmp_path / "data/encoded/avazu"
    schema = read_schema(data)
    labels = read_labels(data, "val", schema)
    run = resolve("avazu", "deepfm", profiles=["toy"])  # the profile says everything
    logits = []
    for seed in range(run.seed, run.seed + MEMBERS):
        trainer, _ = fit_member(run.with_seed(seed), schema, data, tmp_path, torch.device("cpu"))
        logits.append(trainer.best_val_logits.astype(float))
    found = {
        "merged": logloss(labels, np.mean(logits, axis=0)),
        "member": np.mean([logloss(labels, one) for one in logits]),
    }
    assert found[objective] == pytest.approx(best, abs=1e-5)
    comment = (tmp_path / "configs/profiles/toy.yaml").read_text()
    assert f"{found['merged']:.5f} merged, {found['member']:.5f} the mean member" in comment
    assert f"--objective {objective}" in comment
    assert "member-epochs" in comment


def test_the_profile_is_the_best_trial_behind_the_given_profiles_too(
    search: ModuleType, tmp_path: Path
) -> None:
    """Where a found value is the data set's own, but not the given profile's."""
    profiles = tmp_path / "configs/profiles"
    (profiles / "three.yaml").write_text("{epochs: 3, embedding_dim: 4, hidden_units: [8]}")
    flags = ["--dataset", "avazu", "--model", "deepfm", "--members", "1", "--trials", "1"]
    more = ["--profile", "three", "--search", "lr", "--name", "toy", "--set", "epochs=1"]
    assert search.main([*flags, *more]) == 0
    alone, behind = (
        resolve("avazu", "deepfm", profiles=names) for names in (["toy"], ["three", "toy"])
    )
    assert alone == behind
    assert alone.training.epochs == 1 and alone.training.embedding_dim == 4


def test_a_search_goes_on_where_it_was(
    search: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search.main(command("--trials", "2")) == 0
    first = capsys.readouterr().out
    assert "vary=init " in first.splitlines()[0]  # as configured
    assert "vary=init+order" in first.splitlines()[1]
    assert search.main(command("--trials", "3")) == 0
    more = capsys.readouterr().out
    assert [line.split()[1] for line in more.splitlines() if line.startswith("trial")] == ["2"]
    assert "3 trials of up to 2 members (seeds 2021 to 2022)" in more
    other = command("--trials", "4", "--objective", "member")
    assert search.main(other) == 1
    assert "is a search with objective='merged', not 'member'" in capsys.readouterr().err
    assert search.main([*other[:-5], "--force", *other[-5:]]) == 0
    assert capsys.readouterr().out.startswith("trial 0 ")


@pytest.mark.parametrize("killed", [False, True])
def test_the_trial_in_which_a_search_was_stopped_is_made_up_for(
    search: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    killed: bool,
) -> None:
    if killed:  # a process that is gone leaves its trial as it was
        args = search._parse(command())
        search._open_study(args, search._task(args)).ask()
    else:
        with monkeypatch.context() as patched:
            patched.setattr(search, "fit_member", interrupt)
            assert search.main(command("--trials", "2")) == 130
            assert "interrupted: the same command goes on where it was" in capsys.readouterr().err
            assert search.main(command("--trials", "2", "--force")) == 130
        assert "the same command without --force goes on" in capsys.readouterr().err
    for trials in ("4", "5"):
        assert search.main(command("--trials", trials)) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith("trial")]
    assert [line.split()[1] for line in found] == ["1", "2", "3", "4", "5"]
    as_configured = [" vary=init " in line and line.endswith(" lr=0.01") for line in found]
    assert as_configured[:3] == [False, False, True]  # behind the two others that were queued
    assert "5 trials of up to 2 members" in lines[-2]


def test_a_trial_that_needs_too_much_memory_is_one_that_failed(
    search: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nSee the documentation")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "fit", too_much)
        assert search.main(command("--trials", "1")) == 1
    (line, *_), error = (printed.splitlines() for printed in capsys.readouterr())
    assert line.startswith("trial 0 fail: the memory of cpu is too small (CUDA out of memory.); ")
    assert error == ["error: no trial was completed; give it more --trials or --seconds"]
    assert search.main(command("--trials", "2")) == 0
    assert capsys.readouterr().out.startswith("trial 1 complete: ")


def test_a_line_that_a_killed_search_did_not_finish_is_dropped(
    search: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search.main(command("--trials", "2")) == 0
    journal = tmp_path / "runs/search/toy.journal"
    whole = journal.read_text()
    for cut in (len(whole) - 30, len(whole) - 1):
        journal.write_text(whole[:cut])
        assert search.main(command("--trials", "3")) == 0
        assert search.main(command("--trials", "3")) == 0
    capsys.readouterr()
    journal.write_text("not a journal\n" + whole)
    assert search.main(command("--trials", "3")) == 1
    error = capsys.readouterr().err
    assert "toy.journal: not a search's journal" in error and "--force" in error
    assert len(error.splitlines()) == 1
    assert journal.read_text() == "not a journal\n" + whole


def test_a_trial_that_fails_counts_and_says_why(
    search: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--members", "1", "--trials", "1", "--search", "vary"]
    assert search.main([*command(*flags), "lr=1e30"]) == 1
    captured = capsys.readouterr()
    assert "trial 0 fail: deepfm seed 2021: the loss is" in captured.out
    assert "no trial was completed" in captured.err
    assert search.main([*command(*flags), "lr=1e30"]) == 1
    assert "trial 1" not in capsys.readouterr().out


def test_the_first_trials_are_no_calmer_than_configured(search: ModuleType) -> None:
    args = search._parse([*command(), "lr=2e-2"])
    tried = search.first_trials(search._task(args))
    assert len(tried) == 4
    assert {trial["lr"] for trial in tried} == {2e-2}  # above the highest that is tried otherwise
    assert {trial["batch_size"] for trial in tried} == {256}


def test_a_trial_whose_second_member_fails_says_why(
    search: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = search.fit_member

    def fail_second(config: RunConfig, *arguments: Any) -> Any:
        if config.seed == 2022:
            raise RunError("deepfm seed 2022: the disk is full")
        return train(config, *arguments)

    monkeypatch.setattr(search, "fit_member", fail_second)
    assert search.main(command("--members", "2", "--trials", "1", "--search", "vary")) == 1
    assert "trial 0 fail: deepfm seed 2022: the disk is full" in capsys.readouterr().out


def test_a_profile_of_ones_own_is_not_overwritten(
    search: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "configs/profiles/mine.yaml"
    mine.write_text("epochs: 2\n")
    for name, said in (("mine", "mine.yaml is not of a search"), ("a/b", "a name, not a path")):
        assert search.main([*command(), "--name", name]) == 1
        assert said in capsys.readouterr().err
    assert mine.read_text() == "epochs: 2\n"
    assert not (tmp_path / "runs").exists()


def test_schedules_are_searched_and_a_falling_rate_may_start_higher(
    search: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import optuna

    flags = command("--members", "1", "--trials", "2", "--search", "lr,schedule")
    assert search.main(flags) == 0
    trials = [line for line in capsys.readouterr().out.splitlines() if " complete: " in line]
    assert ["schedule=constant" in trials[0], "schedule=linear" in trials[1]] == [True, True]
    best = min(trials, key=lambda line: line.split("merged ")[1].split()[0])
    run = resolve("avazu", "deepfm", profiles=["toy"])
    assert f"schedule={run.training.schedule}" in best

    highest = {}
    for schedule in ("constant", "linear"):
        study = optuna.create_study()
        study.enqueue_trial({"schedule": schedule})
        trial = study.ask()
        found = search.suggest(trial, search._task(search._parse(command())))
        assert found["schedule"] == schedule
        lr = trial.distributions["lr"]
        assert isinstance(lr, optuna.distributions.FloatDistribution)
        highest[schedule] = lr.high
    assert highest["linear"] == 2 * highest["constant"]


def test_the_settings_of_a_trial_are_the_models(search: ModuleType, tmp_path: Path) -> None:
    lr = [
        "--dataset",
        "avazu",
        "--model",
        "lr",
        "--trials",
        "2",
        "--members",
        "1",
        "--name",
        "of-lr",
    ]
    assert search.main(lr) == 0
    content = yaml.safe_load((tmp_path / "configs/profiles/of-lr.yaml").read_text())
    assert "dropout" not in content["models"]["lr"]  # LR has none


def test_an_arm_is_searched_and_its_profile_trains_it(
    search: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--arm", "joint:2", "--trials", "2", "--objective", "member")
    assert search.main(command(*flags)) == 0
    trials = [line for line in capsys.readouterr().out.splitlines() if " complete: " in line]
    best = min(float(line.split("member ")[1].split()[0].strip(",")) for line in trials)
    text = (tmp_path / "configs/profiles/toy.yaml").read_text()
    assert "--arm joint:2" in text and "For --arms joint:2 alone" in text

    data = tmp_path / "data/encoded/avazu"
    schema, losses = read_schema(data), []
    run = resolve("avazu", "deepfm", profiles=["toy"], arm="joint:2")
    for seed in range(run.seed, run.seed + MEMBERS):
        trainer, _ = fit_member(run.with_seed(seed), schema, data, tmp_path, torch.device("cpu"))
        assert len(list(trainer.network.model.get_submodule("models").children())) == 2
        losses.append(logloss(read_labels(data, "val", schema), trainer.best_val_logits))
    assert np.mean(losses) == pytest.approx(best, abs=1e-5)

    assert search.main(command("--trials", "3", "--objective", "member")) == 1
    assert "is a search with arm='joint:2', not 'base'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("soup:2", "soup:2 averages weights and has no settings of its own"),
        ("soup-late:2", "search --arm base"),
        ("wide:2", "unknown arm 'wide'"),
        ("width:2.00", "write it width:2"),
    ],
)
def test_arms_that_cannot_be_searched_are_refused_before_a_trial(
    search: ModuleType, tmp_path: Path, arm: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search.main(command("--arm", arm)) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_model_that_cannot_grow_is_refused_before_a_trial(
    search: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr = ["--dataset", "avazu", "--model", "lr", "--name", "of-lr", "--arm", "width:2"]
    assert search.main(lr) == 1
    assert "model 'lr' has no width" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
