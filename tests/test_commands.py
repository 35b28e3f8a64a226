"""The real commands on a small synthetic log: from a log to a report, and what stops it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import trainer_group
from tests.conftest import ROOT, interrupt, run_command

SETTINGS = [
    "--set",
    "batch_size=256",
    "lr=1e-2",
    "embedding_dim=4",
    "embedding_init=0.05",
    "hidden_units=16,8",
]
GROUP: list[str | Path] = [
    ROOT / "trainer_group.py",
    "--dataset",
    "avazu",
    "--models",
    "lr,deepfm",
    "--seeds",
    "2",
]


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """A project of one's own with the encoded data set."""
    shutil.copytree(project / "data/encoded", tmp_path / "data/encoded")
    return tmp_path


def group(cwd: Path, *more: str | Path, code: int = 0) -> str:
    return run_command(*GROUP, *SETTINGS, *more, cwd=cwd, code=code)


def test_from_a_log_to_a_report_and_again(copy: Path) -> None:
    plan = group(copy, "--dry-run", "--models", "lr,deepfm,lr", "--arms", "base,base")
    assert "plan: 4 members of avazu" in plan
    assert plan.count(": to train") == 4
    assert not (copy / "runs").exists()

    output = group(copy)
    assert "[4/4] deepfm/base/seed-2022: test AUC 0." in output
    assert "4 of 4 members are complete" in output
    assert sum(1 for _ in (copy / "runs/avazu").glob("*/base/seed-*/report.json")) == 4
    assert sum(1 for _ in (copy / "runs/avazu/labels").glob("*.truth.npy")) == 2

    merged = run_command(ROOT / "merge.py", "--dataset", "avazu", cwd=copy)
    for name in ("members.csv", "merged.csv", "report.md"):
        assert (copy / "results/avazu" / name).is_file()
    assert "results/avazu/report.md" in merged
    assert "synthetic" in (copy / "results/avazu/report.md").read_text().splitlines()[0].lower()

    reports = list((copy / "runs").rglob("report.json"))
    times = [path.stat().st_mtime_ns for path in reports]
    assert group(copy).count("(was complete)") == 4
    assert [path.stat().st_mtime_ns for path in reports] == times
    single: list[str | Path] = [
        ROOT / "trainer.py",
        "--dataset",
        "avazu",
        "--model",
        "lr",
        "--seed",
        "2021",
    ]
    assert "[complete]" in run_command(*single, *SETTINGS[:-1], cwd=copy)
    refusal = run_command(*single, *SETTINGS[:-1], "lr=3e-3", cwd=copy, code=1)
    assert "other settings: lr is 0.01 there and 0.003 here. --force trains it again" in refusal
    again = run_command(*single, *SETTINGS[:-1], "lr=3e-3", "--force", cwd=copy)
    assert "[to train again]" in again


def test_other_data_sets_older_runs_aside(copy: Path) -> None:
    lr: list[str | Path] = [
        ROOT / "trainer.py",
        "--dataset",
        "avazu",
        "--model",
        "lr",
        *SETTINGS[:-1],
    ]
    run_command(*lr, cwd=copy)
    older = (copy / "runs/avazu/lr/base/seed-2021/test.npy").read_bytes()
    run_command("-m", "data.prepare", "avazu", "--synthetic", "3000", cwd=copy)
    assert "made from other data" in run_command(*lr, cwd=copy)
    aside = list((copy / "runs/avazu/lr/base").glob("seed-2021.data-*"))
    assert [(folder / "test.npy").read_bytes() for folder in aside] == [older]
    assert (copy / "runs/avazu/lr/base/seed-2021/test.npy").read_bytes() != older


def test_a_failing_member_does_not_stop_the_rest(copy: Path) -> None:
    partial = copy / "runs/avazu/lr/base/.seed-2022.partial"
    partial.mkdir(parents=True)
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as if another process were training this member
    output = group(copy, code=1)
    os.close(handle)
    assert "[2/4] FAILED lr/base/seed-2022" in output
    assert "3 of 4 members are complete" in output
    assert output.splitlines()[-1].startswith("error: lr/base/seed-2022")
    assert "being written by another process" in output.splitlines()[-1]
    assert "4 of 4 members are complete" in group(copy)  # the leftover folder does not matter


@pytest.mark.parametrize("force", [True, False])
def test_an_interrupted_group_says_what_goes_on(
    encoded: Path,
    tmp_path: Path,
    force: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trainer_group, "train_group", interrupt)
    flags = ["--dataset", "avazu", "--data", str(encoded), "--models", "lr"]
    more = ["--force"] if force else []
    assert trainer_group.main([*flags, "--runs", str(tmp_path), *more]) == 130
    goes_on = "--force would train them again" if force else "the same command goes on"
    assert capsys.readouterr().err == f"interrupted: complete members are kept, {goes_on}\n"


def test_a_killed_training_leaves_no_run_and_can_be_started_again(copy: Path) -> None:
    settings = ["batch_size=1", "vary=init", "epochs=50"]  # long enough to be caught
    command: list[str | Path] = [
        ROOT / "trainer.py",
        "--dataset",
        "avazu",
        "--model",
        "fm",
        "--set",
        *settings,
    ]
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=copy, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    runs = copy / "runs/avazu/fm/base"
    deadline = time.monotonic() + 60
    while not list(runs.glob(".seed-2021.partial")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in runs.iterdir()] == [".seed-2021.partial"]
    run_command(*command[:-3], "epochs=1", "batch_size=512", cwd=copy)
    assert [path.name for path in runs.iterdir()] == ["seed-2021"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "depfm"], "unknown model 'depfm'; did you mean 'deepfm'? known: "),
        (["--model", "fm", "--set", "epoch=3"], "did you mean 'epochs'?"),
        (["--model", "fm", "--dataset", "avazzu"], "python -m data.prepare avazzu --raw PATH"),
        (["--model", "fm", "--device", "cuda:77"], "use --device auto"),
        (["--model", "fm", "--set", "lr=1e25", "batch_size=64"], "the loss is"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    copy: Path, arguments: Sequence[str], message: str
) -> None:
    output = run_command(ROOT / "trainer.py", "--dataset", "avazu", *arguments, cwd=copy, code=1)
    assert message in output.splitlines()[-1]
    assert output.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in output
    assert not list(copy.glob("runs/**/report.json"))


@pytest.mark.parametrize(
    ("options", "merged"),
    [
        ([], "--models lr,fm"),
        (["--runs", "a b", "--seeds", "2"], "--models lr,fm --runs a b"),
        (["--models", "fnn", "--set", "lr=1", "--runs=x"], "--models lr,fm --models fnn --runs=x"),
        (["--dry-run", "--runs", "x"], None),
        (["--runs", "x", "--dry-run"], None),
    ],
)
def test_a_group_is_merged_from_where_it_was_trained(
    tmp_path: Path, options: Sequence[str], merged: str | None
) -> None:
    calls = script_calls(tmp_path, *options, MODELS="lr,fm")
    trained = " ".join(["trainer_group.py --dataset avazu --models lr,fm --seeds 5", *options])
    after = calls[calls.index(trained) + 1 :]
    assert after == ([] if merged is None else [f"merge.py --dataset avazu {merged}"])


@pytest.mark.parametrize(
    ("schema", "environment", "prepared"),
    [
        (None, {}, "--synthetic 200000"),
        ("synthetic: true", {}, None),
        ("synthetic: false", {}, None),
        ("synthetic: false", {"ROWS": "3000"}, "--synthetic 3000"),
    ],
)
def test_a_prepared_log_is_not_replaced_by_a_planted_one(
    tmp_path: Path, schema: str | None, environment: dict[str, str], prepared: str | None
) -> None:
    if schema is not None:
        encoded = tmp_path / "data/encoded/avazu"
        encoded.mkdir(parents=True)
        (encoded / "schema.yaml").write_text(f"version: 1\n{schema}\nrows:\n")
    calls = [call for call in script_calls(tmp_path, **environment) if "data.prepare" in call]
    assert calls == ([] if prepared is None else [f"-m data.prepare avazu {prepared}"])


def test_help_of_a_script_touches_no_data(tmp_path: Path) -> None:
    calls = script_calls(tmp_path, "--seeds", "2", "--help", ROWS="3000")
    assert [call for call in calls if ".py" in call][-1] == "trainer_group.py --help"
    assert not any("data.prepare" in call or "merge.py" in call for call in calls)


def script_calls(folder: Path, *options: str, **environment: str) -> list[str]:
    """What scripts/train_group.sh, copied into `folder`, asks python for."""
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    python = folder / "bin/python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@" >> calls\n')
    python.chmod(0o755)
    variables = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"} | environment
    script = folder / "scripts/train_group.sh"
    subprocess.run(["bash", script, "avazu", "", *options], check=True, env=variables)
    return (folder / "calls").read_text().splitlines()
