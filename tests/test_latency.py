"""scripts/latency.py on trained members."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import trainer_group
from modules.runs import Member, find_members
from scripts import latency

QUICK = ["batch_size=256", "embedding_dim=4", "hidden_units=16,8"]


@pytest.fixture
def runs(encoded: Path, tmp_path: Path) -> Path:
    """Two seeds of a base and of a bigger model, and a mix, all with an absurd latency."""
    shared = ["--dataset", "avazu", "--data", str(encoded), "--runs", str(tmp_path)]
    shared += ["--seeds", "2", "--set", *QUICK]
    assert trainer_group.main([*shared, "--models", "deepfm", "--arms", "base,joint:2"]) == 0
    assert trainer_group.main([*shared, "--joint", "fnn:8+deepfm"]) == 0
    for member in members(tmp_path):
        report = member.report | {"latency_ms": 1e9}
        (member.folder / "report.json").write_text(json.dumps(report))
    return tmp_path


def members(runs: Path) -> list[Member]:
    return find_members(runs, "avazu")


def measure(runs: Path, data: Path) -> int:
    arguments = ["--dataset", "avazu", "--runs", str(runs), "--data", str(data), "--rounds", "2"]
    return latency.main(arguments)


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
        assert new | {"latency_ms": 1e9} == old
    assert "deepfm/joint:2: " in capsys.readouterr().out
    assert not list(runs.rglob("*.partial"))


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
