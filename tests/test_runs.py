"""The run folder's readers, and labels that are stored once."""

from __future__ import annotations

import json
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import pytest

from modules.runs import (
    REPORTED,
    RunError,
    find_members,
    load_labels,
    read_member,
    read_settings,
    run_folder,
    store_labels,
)

METRICS = {"auc": 0.7, "logloss": 0.4}


def write_run(runs: Path, model: str, seed: int) -> Path:
    folder = run_folder(runs, "toy", model, "base", seed)
    folder.mkdir(parents=True)
    report = {
        **{"model": model, "arm": "base", "seed": seed, "labels": {"val": "v", "test": "t"}},
        **{"data": {"fingerprint": "f"}, "metrics": {"val": METRICS, "test": METRICS}},
        **{"best_epoch": 1, "epochs": [], "seconds": 2.5, "rows_per_second": 1000.0},
    }
    (folder / "report.json").write_text(json.dumps(report))
    np.save(folder / "val.npy", np.arange(3, dtype=np.float32))
    return folder


def test_members_are_found_in_order_and_only_where_complete(tmp_path: Path) -> None:
    for model, seed in (("lr", 10), ("lr", 9), ("fm", 1)):
        write_run(tmp_path, model, seed)
    (run_folder(tmp_path, "toy", "fm", "base", 2)).write_text("a file: not a run")
    aside = write_run(tmp_path, "fm", 3)
    aside.rename(aside.with_name("seed-3.data-0123abcd"))
    (tmp_path / "toy/fm/base/.seed-4.partial").mkdir()
    names = [member.name for member in find_members(tmp_path, "toy")]
    assert names == ["fm/base/seed-1", "lr/base/seed-9", "lr/base/seed-10"]
    chosen = find_members(tmp_path, "toy", ["lr", "fm"])
    assert [member.model for member in chosen] == ["lr", "lr", "fm"]
    np.testing.assert_array_equal(chosen[0].logits("val"), [0, 1, 2])


def test_missing_members_and_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no trained member under .*trainer_group.py --dataset toy"):
        find_members(tmp_path, "toy")
    folder = write_run(tmp_path, "lr", 1)
    with pytest.raises(RunError, match=r"model 'fm' under .*there are: lr"):
        find_members(tmp_path, "toy", ["fm"])
    (member,) = find_members(tmp_path, "toy")
    with pytest.raises(RunError, match=r"test.npy: unreadable predictions"):
        member.logits("test")
    for content in (b"\x93NUMPY not", b""):
        (folder / "val.npy").write_bytes(content)
        with pytest.raises(RunError, match=r"val.npy: unreadable predictions"):
            member.logits("val")
    refusal = r"report.json: not a run's report .*again with --force"
    (folder / "report.json").write_text("{")
    with pytest.raises(RunError, match=refusal):
        find_members(tmp_path, "toy")
    (folder / "report.json").unlink()  # a merge must not go on with one member less
    with pytest.raises(RunError, match=refusal):
        find_members(tmp_path, "toy")


@pytest.mark.parametrize("entry", REPORTED)
def test_a_report_without_a_needed_entry_is_refused(entry: str, tmp_path: Path) -> None:
    path = write_run(tmp_path, "lr", 1) / "report.json"
    report = json.loads(path.read_text())
    *outer, last = entry.split(".")
    del reduce(getitem, outer, report)[last]
    path.write_text(json.dumps(report))
    with pytest.raises(RunError, match=f"not a run's report .*'{last}'.*again with --force"):
        read_member(path.parent)


@pytest.mark.parametrize(
    "text",
    ["", "a: [1", "model_settings: {}", "training: 3\nmodel_settings: {}", "training: {}", "- 1"],
)
def test_settings_that_cannot_be_read_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunError, match=r"config.yaml: not a run's settings .*again with --force"):
        read_settings(tmp_path)


def test_labels_are_stored_once_and_checked(tmp_path: Path) -> None:
    labels = np.array([0, 1, 1, 0])
    truth = np.array([0.1, 0.6, 0.9, 0.4])
    digest = store_labels(tmp_path, "toy", labels, truth)
    assert store_labels(tmp_path, "toy", labels.astype(np.float32)) == digest
    assert store_labels(tmp_path, "toy", 1 - labels) != digest
    stored, stored_truth = load_labels(tmp_path, "toy", digest)
    np.testing.assert_array_equal(stored, labels)
    np.testing.assert_array_equal(stored_truth, truth)
    assert len(list((tmp_path / "toy/labels").iterdir())) == 3
    np.save(tmp_path / f"toy/labels/{digest}.npy", np.array([1, 1, 1, 0], np.uint8))
    with pytest.raises(RunError, match="labels were changed"):
        load_labels(tmp_path, "toy", digest)
    np.save(tmp_path / f"toy/labels/{digest}.truth.npy", truth[:3])
    with pytest.raises(RunError, match=r"truth.npy: \(3,\) probabilities for \(4,\)"):
        load_labels(tmp_path, "toy", digest)
    store_labels(tmp_path, "toy", labels, truth)  # as --force does
    np.testing.assert_array_equal(load_labels(tmp_path, "toy", digest)[0], labels)
    (tmp_path / f"toy/labels/{'1' * 64}.npy").touch()
    for lost in ("0", "1"):
        with pytest.raises(RunError, match="unreadable labels"):
            load_labels(tmp_path, "toy", lost * 64)
