"""The real merge command on planted runs: what it writes, what it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import merge as command
from modules.scoring import results as results_module
from modules.scoring.metrics import auc, logloss_of_probabilities, sigmoid
from tests.conftest import interrupt
from tests.fake_runs import FakeLog, edit_report, read_report

REPOSITORY = Path(__file__).resolve().parent.parent
MEMBER_COLUMNS = [
    "model",
    "arm",
    "seed",
    "val_auc",
    "val_logloss",
    "test_auc",
    "test_logloss",
    "parameters",
    "macs_per_row",
    "seconds",
]
MERGED_COLUMNS = [
    "group",
    "k",
    "pool",
    "subsets",
    "test_auc",
    "test_auc_sd",
    "test_logloss",
    "test_logloss_sd",
    "member_auc",
    "member_logloss",
    "best_member_auc",
    "ambiguity",
]
TABLES = ["about.json", "budget.csv", "curve.csv", "diversity.csv", "members.csv", "merged.csv"]
PICTURES = [
    *("cost_auc.png", "cost_logloss.png", "curve.png", "diversity.png", "gain.png"),
    "pairs.png",
]


def merge(home: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run merge.py as a user does, in a folder `home` with its own runs/ and results/."""
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "merge.py"), "--dataset", "avazu", *flags],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )


def plant(folder: Path) -> Path:
    """Three members of fm, two of deepfm, on the same rows."""
    log = FakeLog()
    for seed in (1, 2, 3):
        log.write_run(folder / "runs", "fm", seed, noise=0.8, macs=100)
    for seed in (1, 2):
        log.write_run(folder / "runs", "deepfm", seed, noise=0.4, macs=1000)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return plant(tmp_path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A planted home that was merged without a flag, and what that printed."""
    folder = plant(tmp_path_factory.mktemp("plain"))
    done = merge(folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted home with a rival, merged with every pool, table and picture."""
    folder = plant(tmp_path_factory.mktemp("full"))
    add_wider_fm(folder)
    done = merge(folder, "--pool", "rank,greedy,weighted,prob,logit", "--calibration", "--latex")
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_merges_and_reports(plain: tuple[Path, str]) -> None:
    home, printed = plain
    results = home / "results" / "avazu"
    assert {file.name for file in results.iterdir()} == {*TABLES, *PICTURES, "report.md"}
    assert [file.name for file in results.parent.iterdir()] == ["avazu"]
    assert "results/avazu/report.md" in printed and "results/avazu/gain.png" in printed

    members = pd.read_csv(results / "members.csv")
    assert list(members)[: len(MEMBER_COLUMNS)] == MEMBER_COLUMNS
    assert list(members["model"] + members["seed"].astype(str)) == [
        *("deepfm1", "deepfm2"),
        *("fm1", "fm2", "fm3"),
    ]
    for member in members.itertuples():
        folder = home / "runs" / "avazu" / member.model / member.arm / f"seed-{member.seed}"
        reported = read_report(folder)
        for split in ("val", "test"):
            for metric, value in reported["metrics"][split].items():
                assert getattr(member, f"{split}_{metric}") == pytest.approx(value, abs=1e-12)

    merged = pd.read_csv(results / "merged.csv")
    assert list(merged)[: len(MERGED_COLUMNS)] == MERGED_COLUMNS
    assert len(merged) == 2 * (2 + 3 + 2 + 5 + 5)  # deepfm, fm, mixed, selected, all
    whole = merged[(merged["group"] == "all") & (merged["k"] == 5)]
    assert whole["test_auc_sd"].isna().all() and (whole["logloss_gain"] > 0).all()

    report = (results / "report.md").read_text()
    answer = report.splitlines()[2]
    assert report.startswith("# Merging on the synthetic Avazu log, 4,100 rows\n")
    assert answer.startswith("The base, deepfm (the best on validation), has test AUC 0.")
    assert "merging 2 x deepfm gains" in report and answer in printed
    assert "all 5 members of 2 models" in report
    for picture in PICTURES:
        assert f"]({picture})" in report
        assert (results / picture).read_bytes().startswith(b"\x89PNG")
    assert "test 500" in report and "a test's machine, 2 cores" in report
    assert "latency measured on: a server, 4 cores" in report
    assert "fm 1, 2, 3" in report and "2,300" in report  # 2 x 1000 + 3 x 100 multiply-adds
    for value in whole["test_auc"]:
        assert f"{value:.5f}" in report and f"{value:.5f}" in printed


def test_reports_the_best_possible_scores(plain: tuple[Path, str]) -> None:
    home, _ = plain
    log = FakeLog()
    truth = sigmoid(log.true_logits["test"])
    best = auc(log.labels["test"], truth), logloss_of_probabilities(log.labels["test"], truth)
    report = (home / "results/avazu/report.md").read_text()
    assert f"AUC {best[0]:.5f}, log loss {best[1]:.5f}" in report


def test_a_real_log_has_no_best_possible_scores(home: Path) -> None:
    for truth in (home / "runs/avazu/labels").glob("*.truth.npy"):
        truth.unlink()
    for folder in home.glob("runs/avazu/*/*/seed-*"):
        edit_report(folder, data={**read_report(folder)["data"], "synthetic": False})
    assert merge(home).returncode == 0
    report = (home / "results/avazu/report.md").read_text()
    assert report.startswith("# Merging on the Avazu log, 4,100 rows\n")
    assert "Best possible" not in report


def test_flags_choose_models_pool_and_places(home: Path) -> None:
    flags = ("--models", "fm,", "--pool", "logit", "--results", "elsewhere", "--max-subsets", "2")
    done = merge(home, *flags)
    assert done.returncode == 0, done.stderr
    merged = pd.read_csv(home / "elsewhere/avazu/merged.csv")
    assert set(merged["group"]) == {"fm"} and set(merged["pool"]) == {"logit"}
    assert list(merged["subsets"]) == [2, 2, 1]
    assert "2 of 3" in (home / "elsewhere/avazu/report.md").read_text()


def test_only_the_asked_arm_is_merged_and_the_others_are_its_rivals(full: Path) -> None:
    members = pd.read_csv(full / "results/avazu/members.csv")
    assert list(members["arm"]) == [*["base"] * 5, "width:2"]
    merged = pd.read_csv(full / "results/avazu/merged.csv")
    assert merged[merged["group"] == "all"]["k"].max() == 5
    budget = pd.read_csv(full / "results/avazu/budget.csv")
    assert "width:2" in set(budget["contender"]) and "width:2" in set(budget["against"])


def test_runs_that_have_no_base_to_be_compared_with_are_named(home: Path) -> None:
    for seed in (1, 2):
        FakeLog().write_run(home / "runs", "fm+lr", seed, arm="joint:2")
    done = merge(home)
    assert done.returncode == 0
    assert done.stderr == "left out, as their models have no base members: fm+lr/joint:2\n"
    assert "fm+lr" not in (home / "results/avazu/members.csv").read_text()
    assert merge(home, "--models", "fm,deepfm").stderr == ""  # chosen, so no news


def test_every_pool_table_and_picture_on_demand(full: Path) -> None:
    results = full / "results/avazu"
    merged = pd.read_csv(results / "merged.csv")
    assert set(merged["pool"]) == {"rank", "greedy", "weighted", "prob", "logit"}
    calibration = pd.read_csv(results / "calibration.csv")
    assert set(calibration["group"]) == {"deepfm", "fm", "all"}
    assert (calibration.groupby(["group", "prediction"])["rows"].sum() == 500).all()
    report = (results / "report.md").read_text()
    assert "## Expected calibration error" in report and "](calibration.png)" in report
    assert "rank mean, AUC only" in report
    latex = (results / "tables.tex").read_text()
    assert latex.isascii()  # as LaTeX without packages needs it
    tables = report.count("\n## ") - 2  # all sections but the last two are tables
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == tables


@pytest.mark.parametrize("pool", ["rank", "greedy", "weighted"])
def test_any_pool_alone_makes_a_report(
    home: Path, pool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(results_module, "draw_pictures", lambda _: {})
    assert command.main(["--dataset", "avazu", "--pool", pool]) == 0
    assert set(pd.read_csv("results/avazu/merged.csv")["pool"]) == {pool}
    used = "weighted logit mean" if pool == "weighted" else "probability mean"
    assert f"merges are made by {used}" in Path("results/avazu/report.md").read_text()
    assert "merging 2 x deepfm" in capsys.readouterr().out


def test_another_arm_is_merged_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_wider_fm(home)
    monkeypatch.chdir(home)
    monkeypatch.setattr(results_module, "draw_pictures", lambda _: {})
    assert command.main(["--dataset", "avazu", "--arm", "width:2", "--models", "fm"]) == 0
    assert set(pd.read_csv("results/avazu/members.csv")["arm"]) == {"width:2"}
    assert "nothing to merge: one member" in capsys.readouterr().out


def test_from_tables_redraws_the_same_without_runs(full: Path, tmp_path: Path) -> None:
    made = full / "results/avazu"
    results = tmp_path / "tables"
    results.mkdir()
    for name in [*TABLES, "calibration.csv"]:
        shutil.copy(made / name, results)
    assert command.main(["--from", str(results), "--latex"]) == 0
    assert {file.name: file.read_bytes() for file in results.iterdir()} == {
        file.name: file.read_bytes() for file in made.iterdir()
    }
    elsewhere = ["--from", str(results), "--results", str(tmp_path / "other")]
    assert command.main(elsewhere) == 0
    report = (made / "report.md").read_bytes()
    assert (tmp_path / "other/avazu/report.md").read_bytes() == report


@pytest.mark.parametrize("flags", [["--models", "lr"], ["--max-subsets", "3"], ["--calibration"]])
def test_from_refuses_what_it_cannot_change(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--from", str(tmp_path), *flags])
    assert f"argument {flags[0]} not allowed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["about.json", "merged.csv", "diversity.csv"])
def test_from_says_which_table_is_missing(
    plain: tuple[Path, str], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for table in set(TABLES) - {name}:
        shutil.copy(plain[0] / "results/avazu" / table, tmp_path)
    assert command.main(["--from", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert name in error and "merge.py --dataset" in error and len(error.splitlines()) == 1
    assert {file.name for file in tmp_path.iterdir()} == set(TABLES) - {name}


@pytest.mark.parametrize("name", ["members.csv", "merged.csv", "curve.csv"])
def test_from_says_that_a_table_holds_no_number(
    plain: tuple[Path, str], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for table in TABLES:
        shutil.copy(plain[0] / "results/avazu" / table, tmp_path)
    frame = pd.read_csv(tmp_path / name, dtype=str)
    for column in frame.columns[3:]:
        frame.loc[0, column] = "much"
    frame.to_csv(tmp_path / name, index=False)
    assert command.main(["--from", str(tmp_path)]) == 1
    assert "merge.py --dataset" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [0, 1])
@pytest.mark.parametrize("name", ["members.csv", "merged.csv", "budget.csv"])
def test_from_says_that_a_table_is_not_whole(
    plain: tuple[Path, str],
    tmp_path: Path,
    name: str,
    lines: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for table in TABLES:
        shutil.copy(plain[0] / "results/avazu" / table, tmp_path)
    whole = (tmp_path / name).read_text()
    (tmp_path / name).write_text("".join(whole.splitlines(keepends=True)[:lines]))
    assert command.main(["--from", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path) in error and "merge.py --dataset" in error
    assert len(error.splitlines()) == 1
    assert {file.name for file in tmp_path.iterdir()} == set(TABLES)


def test_neither_data_set_nor_tables_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main([])
    assert stop.value.code == 2 and "--dataset" in capsys.readouterr().err


def test_one_member_leaves_nothing_to_merge(tmp_path: Path) -> None:
    FakeLog().write_run(tmp_path / "runs", "fm", 7)
    done = merge(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to merge: one member, fm seed 7" in done.stdout


def test_one_seed_a_model_leaves_the_noise_unknown(tmp_path: Path) -> None:
    log = FakeLog()
    for model in ("fm", "deepfm"):
        log.write_run(tmp_path / "runs", model, 7)
    done = merge(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all 2 members of 2 models" in done.stdout
    assert "the noise of its seeds is unknown" in done.stdout


def add_wider_fm(home: Path) -> None:
    FakeLog().write_run(home / "runs", "fm", 1, arm="width:2", macs=200)


def add_mix(home: Path) -> None:
    FakeLog().write_run(home / "runs", "fm+deepfm", 1, arm="joint:2")


def copy_run_of_other_data(home: Path) -> None:
    other = FakeLog(seed=9).write_run(home / "other", "fm", 4, dataset="criteo")
    shutil.copytree(other, home / "runs/avazu/fm/base/seed-4")


def copy_run_to_another_seed(home: Path) -> None:
    base = home / "runs/avazu/fm/base"
    shutil.copytree(base / "seed-1", base / "seed-4")


def change_predictions(home: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = home / "runs/avazu/fm/base/seed-2/test.npy"
    np.save(path, change(np.load(path)))


def poison(logits: np.ndarray) -> np.ndarray:
    logits[17] = np.nan
    return logits


def lose_settings(home: Path) -> None:
    (home / "runs/avazu/fm/base/seed-2/config.yaml").write_text("training: {}")


def truncate(home: Path) -> None:
    path = home / "runs/avazu/fm/base/seed-2/val.npy"
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("damage", "flags", "said"),
    [
        (copy_run_of_other_data, (), ["fm/base/seed-4", "deepfm/base/seed-1 and 4 more", "val"]),
        (copy_run_to_another_seed, (), ["seed-4 holds the run fm/base/seed-1", "move it"]),
        (lambda home: change_predictions(home, lambda z: z[:-1]), (), ["test.npy", "(499,)"]),
        (
            lambda home: change_predictions(home, lambda z: z.astype(float)),
            (),
            ["test.npy", "float64", "500"],
        ),
        (lambda home: change_predictions(home, poison), (), ["test.npy", "row 17", "nan", "move"]),
        (lambda home: change_predictions(home, lambda z: -z), (), ["fm/base/seed-2", "reported"]),
        (lose_settings, (), ["seed-2/config.yaml", "not a run's settings", "train it again"]),
        (truncate, (), ["seed-2/val.npy", "train it again"]),
        (lambda home: shutil.rmtree(home / "runs/avazu/labels"), (), ["labels", "again"]),
        (lambda home: shutil.rmtree(home / "runs/avazu"), (), ["no trained member", "trainer"]),
        (lambda _: None, ("--models", "fm,dcn"), ["'dcn'", "deepfm, fm"]),
        (lambda _: None, ("--arm", "depth:2"), ["'depth:2'", "deepfm/base, fm/base; train it"]),
        (add_mix, ("--arm", "joint:2"), ["fm+deepfm/joint:2", "(+: trained as one"]),
        (add_wider_fm, ("--arm", "width:2", "--models", "fm,deepfm"), ["of deepfm in arm"]),
        (lambda _: None, ("--pool", "prob,median"), ["'median'", "prob, logit"]),
    ],
)
def test_refuses_and_leaves_older_results_alone(
    home: Path,
    damage: Callable[[Path], None],
    flags: tuple[str, ...],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = home / "results" / "avazu"
    results.mkdir(parents=True)
    (results / "report.md").write_text("older")
    damage(home)
    monkeypatch.chdir(home)
    assert command.main(["--dataset", "avazu", *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    for words in said:
        assert words in error
    assert [file.relative_to(home / "results") for file in (home / "results").rglob("*")] == [
        Path("avazu"),
        Path("avazu/report.md"),
    ]
    assert (results / "report.md").read_text() == "older"


def test_hashes_of_different_labels_are_named(home: Path) -> None:
    copy_run_of_other_data(home)
    done = merge(home)
    assert done.returncode == 1 and done.stdout == ""
    for seed in (1, 4):
        digest = read_report(home / f"runs/avazu/fm/base/seed-{seed}")["labels"]["val"]
        assert digest[:8] in done.stderr and digest not in done.stderr
    assert not (home / "results").exists()


def test_results_are_replaced_and_other_files_kept(home: Path) -> None:
    results = home / "results" / "avazu"
    results.mkdir(parents=True)
    (results / "report.md").write_text("older")
    (results / "calibration.csv").write_text("older, and not asked for again")
    (results / "notes.txt").write_text("mine")
    assert merge(home).returncode == 0
    assert not (results / "calibration.csv").exists()
    assert (results / "notes.txt").read_text() == "mine"
    assert "older" not in (results / "report.md").read_text()


def test_a_failed_write_leaves_older_results_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    results = home / "results" / "avazu"
    results.mkdir(parents=True)
    (results / "merged.csv").write_text("older")
    monkeypatch.setattr(results_module, "draw_pictures", full_disk)  # after all tables
    monkeypatch.chdir(home)
    assert command.main(["--dataset", "avazu"]) == 1
    assert [file.name for file in results.iterdir()] == ["merged.csv"]
    assert (results / "merged.csv").read_text() == "older"
    assert [file.name for file in results.parent.iterdir()] == ["avazu"]


def test_what_a_killed_merge_left_is_cleared(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for older in ("results/.avazu.partial", "results/avazu/.avazu.partial"):
        (home / older).mkdir(parents=True)
        (home / older / "merged.csv").write_text("half")
    monkeypatch.chdir(home)
    assert command.main(["--dataset", "avazu"]) == 0
    assert not (home / "results/avazu/.avazu.partial").exists()
    shutil.rmtree(home / "results/avazu")
    assert command.main(["--dataset", "avazu"]) == 0
    assert [path.name for path in (home / "results").iterdir()] == ["avazu"]


@pytest.mark.parametrize("there", ["results", "results/avazu"])
def test_a_file_where_results_should_go_is_named_before_the_work(
    home: Path, there: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / there).parent.mkdir(exist_ok=True)
    (home / there).write_text("mine")
    monkeypatch.chdir(home)
    monkeypatch.setattr(command, "make_tables", None)
    assert command.main(["--dataset", "avazu"]) == 1
    said = f"error: results/avazu cannot be written: {there} is a file; choose another place\n"
    assert capsys.readouterr().err == said
    assert (home / there).read_text() == "mine"


def test_an_interrupted_merge_says_that_nothing_changed(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "make_tables", interrupt)
    monkeypatch.chdir(home)
    assert command.main(["--dataset", "avazu"]) == 130
    assert capsys.readouterr().err == "interrupted: what was there before is unchanged\n"
    assert not (home / "results").exists()


def test_a_failed_move_removes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("refused")

    results = home / "results" / "avazu"
    results.mkdir(parents=True)
    (results / "tables.tex").write_text("older")
    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.chdir(home)
    assert command.main(["--dataset", "avazu"]) == 1
    assert [file.name for file in results.iterdir()] == ["tables.tex"]


def test_results_may_lie_on_another_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path("/dev/shm")  # noqa: S108
    if not other.is_dir() or other.stat().st_dev == home.stat().st_dev:
        pytest.skip(f"{other} is no other file system here")
    with tempfile.TemporaryDirectory(dir=other) as elsewhere:
        (home / "results").mkdir()
        (home / "results" / "avazu").symlink_to(elsewhere)
        monkeypatch.chdir(home)
        assert command.main(["--dataset", "avazu"]) == 0
        names = {path.name for path in Path(elsewhere).iterdir()}
        assert {"report.md", "budget.csv"} <= names
        assert not [name for name in names if name.startswith(".")]


def test_imports_no_torch() -> None:
    check = "import sys, merge; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, check=True)
