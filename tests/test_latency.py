"""scripts/latency.py on trained members."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import trainer_group
from modules.runs import Member, find_members
from scripts import latency
from tests.conftest import interrupt, run_command

QUICK = ["batch_size=256", "embedding_dim=4", "hidden_units=16,8"]


@pytest.fixture
def runs(encoded: Path, tmp_path: Path) -> Path:
    """Two seeds of a base and of a bigger model, and a mix, all with an absurd latency."""
    shared = [*of_group(tmp_path, encoded), "--seeds", "2"]
    assert trainer_group.main([*shared, "--models", "deepfm", "--arms", "base,joint:2"]) == 0
    assert trainer_group.main([*shared, "--joint", "fnn:8+deepfm"]) == 0
    for member in members(tmp_path):
        report = member.report | {"latency_ms": 1e9}
        (member.folder / "report.json").write_text(json.dumps(report))
    return tmp_path


def of_group(runs: Path, data: Path) -> list[str]:
    return ["--dataset", "avazu", "--data", str(data), "--runs", str(runs), "--set", *QUICK]


def members(runs: Path) -> list[Member]:
    return find_members(runs, "avazu")


def measure(runs: Path, *data: Path) -> int:
    arguments = ["--dataset", "avazu", "--runs", str(runs), "--rounds", "2"]
    return latency.main([*arguments, "--data", *map(str, data)])


def test_members_that_were_built_alike_get_one_latency(
    encoded: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [member.report for member in members(runs)]
    assert measure(runs, encoded) == 0
    after = [member.report for member in members(runs)]
    assert len(after) == 6
    by_name = {(report["model"], report["arm"]): report["latency_ms"] for report in after}
    assert len(set(by_name.values())) == len(by_name) == 3
    for old, new in zip(before, after, strict=True):
        assert 0 < new["latency_ms"] == by_name[new["model"], new["arm"]] < 1e5
        assert new.pop("latency_machine") == old["machine"]
        assert new | {"latency_ms": 1e9} == old
    assert "deepfm/joint:2: " in capsys.readouterr().out
    assert not list(runs.rglob("*.partial"))


def test_members_of_several_encodings_are_measured_with_their_own(
    encoded: Path, runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("other")
    run_command("-m", "data.prepare", "avazu", "--synthetic", "3000", cwd=folder)
    other = folder / "data/encoded/avazu"
    more = [*of_group(runs, other), "--models", "deepfm", "--seeds", "2023,2024"]
    assert trainer_group.main(more) == 0
    assert measure(runs, encoded, other) == 0
    bases = [m for m in members(runs) if (m.model, m.arm) == ("deepfm", "base")]
    first, second, *others = (member.report["latency_ms"] for member in bases)
    assert first == second not in others
    assert len(set(others)) == 1
    assert max(first, *others) < 1e5


def test_members_of_other_data_are_left_alone(
    encoded: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *others, last = members(runs)
    for member in others:
        other = member.report | {"data": member.report["data"] | {"fingerprint": "0"}}
        (member.folder / "report.json").write_text(json.dumps(other))
    assert measure(runs, encoded) == 0
    assert "5 members of other data" in capsys.readouterr().out
    *latencies, measured = (member.report["latency_ms"] for member in members(runs))
    assert measured < 1e5 and set(latencies) == {1e9}

    other = last.report | {"data": last.report["data"] | {"fingerprint": "0"}}
    (last.folder / "report.json").write_text(json.dumps(other))
    assert measure(runs, encoded) == 1
    assert "all 6 members under" in capsys.readouterr().err


def test_a_member_trained_again_meanwhile_keeps_its_new_report(
    encoded: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    member = members(runs)[0]
    report = member.folder / "report.json"
    newer = json.dumps(member.report | {"best_epoch": 7})

    def measured_meanwhile(*_: object) -> float:
        report.write_text(newer)
        return 1.0

    monkeypatch.setattr(latency, "measure_latency_ms", measured_meanwhile)
    assert measure(runs, encoded) == 1
    error = capsys.readouterr().err
    assert error == f"error: {member.folder} was trained again meanwhile; measure it once more\n"
    assert report.read_text() == newer


def test_an_interrupted_measurement_changes_no_report(
    encoded: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latency, "measure_latency_ms", interrupt)
    assert measure(runs, encoded) == 130
    assert capsys.readouterr().err == "interrupted: what was there before is unchanged\n"
    assert {member.report["latency_ms"] for member in members(runs)} == {1e9}
