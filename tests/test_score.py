"""scripts/score.py: rows that come later, scored by trained members."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import trainer_group
from data.prepare import prepare_like
from data.split import random_split
from modules.runs import Member, find_members
from modules.scoring.metrics import auc, sigmoids
from modules.weights import WEIGHTS
from scripts import score
from tests.conftest import interrupt, run_command

SETTINGS = ["batch_size=256", "embedding_dim=4", "hidden_units=8", "embedding_init=0.1"]


@pytest.fixture(scope="module")
def runs(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of DeepFM, the mean of their weights, and a mix."""
    folder = tmp_path_factory.mktemp("runs")
    group = ["--dataset", "avazu", "--data", str(encoded), "--runs", str(folder), "--seeds", "2"]
    group += ["--set", *SETTINGS]
    assert trainer_group.main([*group, "--models", "deepfm", "--arms", "base,soup:2"]) == 0
    assert trainer_group.main([*group, "--joint", "fnn:8+deepfm"]) == 0
    return folder


def scored(runs: Path, data: Path, *flags: str) -> pd.DataFrame:
    output = runs / "scores.parquet"
    arguments = ["--dataset", "avazu", "--runs", str(runs), "--data", str(data)]
    assert score.main([*arguments, "--output", str(output), *flags]) == 0
    return pd.read_parquet(output)


def members(runs: Path, arm: str) -> list[Member]:
    return [member for member in find_members(runs, "avazu") if member.arm == arm]


def probabilities(member: Member, split: str = "test") -> np.ndarray:
    return sigmoids(member.logits(split))[0]


@pytest.mark.parametrize("arm", ["base", "soup:2", "joint:2"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_members_score_as_they_did_after_training(
    encoded: Path, runs: Path, arm: str, split: str
) -> None:
    scores = scored(runs, encoded, "--arm", arm, "--split", split)
    known = members(runs, arm)
    assert list(scores) == ["merged", *(member.name for member in known)]
    before = np.stack([probabilities(member, split) for member in known])
    np.testing.assert_allclose(scores.iloc[:, 1:].to_numpy().T, before, atol=1e-6)
    np.testing.assert_allclose(scores["merged"], before.mean(axis=0), atol=1e-6)


def test_models_trained_as_one_are_no_members_beside_others(
    encoded: Path, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    group = ["--dataset", "avazu", "--data", str(encoded), "--runs", str(tmp_path / "runs")]
    group += ["--seeds", "1,", "--set", *SETTINGS]
    assert trainer_group.main([*group, "--models", "deepfm", "--arms", "joint:2"]) == 0
    chosen = ["merged", "deepfm/joint:2/seed-1"]
    assert list(scored(tmp_path / "runs", encoded, "--arm", "joint:2")) == chosen
    named = scored(tmp_path / "runs", encoded, "--arm", "joint:2", "--models", "fnn+deepfm")
    assert list(named) == ["merged", *(f"fnn+deepfm/joint:2/seed-{n}" for n in (2021, 2022))]


def test_rows_that_come_later_get_the_scores_that_they_had(
    project: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (log,) = (project / "data/raw/avazu").glob("*.csv")
    schema = prepare_like(project / "data/encoded/avazu", [log], tmp_path / "new")
    scores = scored(runs, tmp_path / "new")
    tested = random_split(schema.rows["test"])["test"]
    for member in members(runs, "base"):
        np.testing.assert_allclose(scores[member.name][tested], probabilities(member), atol=1e-6)
    merged = auc(pd.read_csv(log)["click"].to_numpy(), scores["merged"].to_numpy())
    assert f"merged: AUC {merged:.5f}, log loss" in capsys.readouterr().out


def test_what_cannot_be_scored_is_refused(
    encoded: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "scores.parquet")
    flags = ["--dataset", "avazu", "--runs", str(runs), "--output", output]
    assert score.main([*flags, "--data", str(encoded), "--arm", "width:2"]) == 1
    there = "there are: deepfm/base, deepfm/soup:2, fnn+deepfm/joint:2"
    assert f"no member in arm 'width:2'; {there}" in capsys.readouterr().err
    asked = ["--models", "deepfm, fnn+deepfm", "--data", str(encoded)]
    assert score.main([*flags, *asked]) == 1
    assert f"no member of fnn+deepfm in arm 'base'; {there}" in capsys.readouterr().err
    run_command("-m", "data.prepare", "avazu", "--synthetic", "3000", cwd=tmp_path)
    assert score.main([*flags, "--data", str(tmp_path / "data/encoded/avazu")]) == 1
    assert "none of the 5 members under" in capsys.readouterr().err
    assert not Path(output).exists()
    assert score.main([*flags, "--data", str(encoded), "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert f"--output {tmp_path} is a folder" in printed.err
    assert printed.out == ""  # before anything is scored
    (tmp_path / "file").write_text("mine")
    below = tmp_path / "file/scores.parquet"
    assert score.main([*flags, "--data", str(encoded), "--output", str(below)]) == 1
    printed = capsys.readouterr()
    assert f"{below.parent} cannot be written: {below.parent} is a file" in printed.err
    assert printed.out == ""
    other = tmp_path / "new/scores.csv"
    assert score.main([*flags, "--data", str(encoded), "--output", str(other)]) == 1
    assert f"--output {other}: scores are Parquet" in capsys.readouterr().err
    assert not other.parent.exists()


def test_interrupted_scoring_leaves_no_file(
    encoded: Path,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(score, "_score", interrupt)
    flags = ["--dataset", "avazu", "--runs", str(runs), "--data", str(encoded)]
    assert score.main([*flags, "--output", str(tmp_path / "scores.parquet")]) == 130
    assert capsys.readouterr().err == "interrupted: what was there before is unchanged\n"
    assert not list(tmp_path.iterdir())


def test_members_of_other_ids_are_left_out_and_said_to_be(
    encoded: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    first, second = members(tmp_path / "runs", "base")
    report = {**second.report, "data": {**second.report["data"], "fingerprint": "other"}}
    (second.folder / "report.json").write_text(json.dumps(report))
    assert list(scored(tmp_path / "runs", encoded)) == ["merged", first.name]
    assert "left out: 1 of 5 members, trained with other ids" in capsys.readouterr().out


def test_weights_that_are_not_the_members_are_refused(
    encoded: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    _, second = members(tmp_path / "runs", "base")
    mixed = members(tmp_path / "runs", "joint:2")[0].folder / WEIGHTS
    for weights in (b"no weights", mixed.read_bytes()):
        (second.folder / WEIGHTS).write_bytes(weights)
        output = tmp_path / "new/scores.parquet"
        arguments = ["--dataset", "avazu", "--runs", str(tmp_path / "runs"), "--data", str(encoded)]
        assert score.main([*arguments, "--output", str(output)]) == 1
        assert f"{second.folder / WEIGHTS}: not this member's" in capsys.readouterr().err
        assert not output.exists()
