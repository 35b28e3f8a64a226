"""Planted logs: their format, their skew, the truth beside them, and writing all or nothing."""

from __future__ import annotations

import datetime
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from data import synthetic
from data.schema import DataError
from data.synthetic import RECIPES, PlantedModel, plant, truth_path, write_log

ROWS = 100_000  # more than one chunk
DATASETS = ("criteo", "avazu", "kdd12")


class Log:
    """A planted log as text, its labels and its truth."""

    def __init__(self, dataset: str, path: Path) -> None:
        recipe = RECIPES[dataset]
        self.text = pl.read_csv(
            path, separator=recipe.separator, has_header=recipe.header, infer_schema=False
        )
        self.header = self.text.columns if recipe.header else None
        assert self.text.width == len(recipe.columns.split())
        self.text.columns = recipe.columns.split()
        label = "label" if dataset == "criteo" else "click"
        self.clicked = self.numbers(label) > 0
        self.truth = np.load(truth_path(path))

    def numbers(self, column: str) -> np.ndarray:
        return self.text[column].drop_nulls().cast(pl.Int64).to_numpy()

    def counts(self, column: str) -> np.ndarray:
        """How often each value occurs, most popular first."""
        return self.text[column].drop_nulls().value_counts(sort=True)["count"].to_numpy()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Log]:
    folder = tmp_path_factory.mktemp("logs")
    for dataset in DATASETS:
        write_log(dataset, folder / dataset, ROWS)
    return {dataset: Log(dataset, folder / dataset) for dataset in DATASETS}


# The truth


@pytest.mark.parametrize("dataset", DATASETS)
def test_rate_and_best_auc_are_those_of_the_recipe(logs: Mapping[str, Log], dataset: str) -> None:
    log, recipe = logs[dataset], RECIPES[dataset]
    assert log.clicked.mean() == pytest.approx(recipe.base_rate, abs=0.01)
    assert roc_auc_score(log.clicked, log.truth) == pytest.approx(recipe.best_auc, abs=0.015)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_seed_meets_the_rate_and_best_auc(dataset: str) -> None:
    recipe = RECIPES[dataset]
    for seed in range(3):
        when = np.linspace(0, 1, 50_000, endpoint=False)
        values = synthetic.draw_values(recipe.fields, when, np.random.default_rng(seed))
        truth = np.sort(plant(recipe, seed).probabilities(values))
        assert truth.mean() == pytest.approx(recipe.base_rate, abs=0.005)
        assert synthetic._expected_auc(truth) == pytest.approx(recipe.best_auc, abs=0.015)


@pytest.mark.parametrize("dataset", DATASETS)
def test_clicks_follow_the_truth_row_by_row(logs: Mapping[str, Log], dataset: str) -> None:
    log = logs[dataset]
    assert log.truth.dtype == np.float64
    assert log.truth.shape == (ROWS,)
    assert ((log.truth > 0) & (log.truth < 1)).all()
    for rows in np.array_split(np.argsort(log.truth), 10):
        deviation = np.sqrt((log.truth[rows] * (1 - log.truth[rows])).sum()) / len(rows)
        assert abs(log.clicked[rows].mean() - log.truth[rows].mean()) < 4.5 * deviation


def test_another_seed_plants_another_model() -> None:
    recipe = RECIPES["kdd12"]
    first, again, other = (plant(recipe, seed).tables["ad_id"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first[:, 0], other[:, 0])[0, 1]) < 0.1


def test_expected_auc_is_what_scikit_learn_measures_on_average() -> None:
    rng = np.random.default_rng(0)
    truth = np.sort(rng.beta(1, 4, 200_000))
    measured = roc_auc_score(rng.random(len(truth)) < truth, truth)
    assert synthetic._expected_auc(truth) == pytest.approx(measured, abs=0.005)


# The effects


def _mixed_difference(model: PlantedModel, held: synthetic.Values, names: tuple[str, ...]) -> float:
    """How much the logit departs from a sum over `names`, all other fields held."""
    total = np.zeros(50)
    for corner in itertools.product((0, 1), repeat=len(names)):
        moved = {name: np.full(50, place) for name, place in zip(names, corner, strict=True)}
        total += (-1) ** sum(corner) * model.logits({**held, **moved})
    return float(np.abs(total).max())


@pytest.mark.parametrize("dataset", DATASETS)
def test_planted_combinations_interact_and_no_others(dataset: str) -> None:
    model = plant(RECIPES[dataset], seed=3)
    rng = np.random.default_rng(1)
    held = synthetic.draw_values(RECIPES[dataset].fields, np.full(50, 0.5), rng)
    planted = [frozenset(name.split("*")) for name in RECIPES[dataset].effects]
    names = sorted({name for effect in planted if len(effect) > 1 for name in effect})
    for size in (2, 3):
        for combination in itertools.combinations(names, size):
            difference = _mixed_difference(model, held, combination)
            if any(effect >= set(combination) for effect in planted):
                assert difference > 1e-6, combination
            else:
                assert difference < 1e-9, combination


def _interaction_ratio(log: Log, first: str, second: str) -> float:
    """Mean square of the truth's logit between cells beyond row and column effects, over within."""
    logits = pl.Series("logit", np.log(log.truth / (1 - log.truth)))
    popular = [log.text[name].value_counts(sort=True)[name][:4] for name in (first, second)]
    cells = (
        log.text.with_columns(logits)
        .filter(
            pl.col(first).is_in(popular[0].implode()), pl.col(second).is_in(popular[1].implode())
        )
        .group_by(first, second)
        .agg(pl.len().alias("n"), pl.col("logit").mean(), pl.col("logit").var().alias("within"))
        .sort(first, second)
    )
    mean = cells["logit"].to_numpy().reshape(4, 4)
    error = (cells["within"] / cells["n"]).mean()
    beyond = mean - mean.mean(0) - mean.mean(1, keepdims=True) + mean.mean()
    assert isinstance(error, float)
    return float((beyond**2).sum() / 9 / error)


def test_the_written_values_carry_the_interactions(logs: Mapping[str, Log]) -> None:
    assert _interaction_ratio(logs["avazu"], "C20", "C21") > 20
    assert _interaction_ratio(logs["avazu"], "C20", "device_model") < 5
    assert _interaction_ratio(logs["criteo"], "C17", "C23") > 20
    assert _interaction_ratio(logs["criteo"], "C17", "C5") < 5


# The format


def test_avazu_has_the_header_hours_in_order_and_hex_ids(logs: Mapping[str, Log]) -> None:
    log = logs["avazu"]
    assert log.header is not None
    assert log.header[:4] == ["id", "click", "hour", "C1"]
    assert log.header[-1] == "C21"
    assert log.text["id"].n_unique() == ROWS
    log.text["id"].cast(pl.UInt64)
    hours = [datetime.datetime.strptime(hour, "%y%m%d%H") for hour in log.text["hour"].unique()]
    assert len(hours) == 240
    assert max(hours) - min(hours) == datetime.timedelta(hours=239)
    assert log.text["hour"].is_sorted()
    hexes = ("site_id", "site_domain", "app_id", "device_id", "device_ip", "device_model")
    assert all(log.text[name].str.contains("^[0-9a-f]{8}$").all() for name in hexes)
    assert set(log.text["click"].unique()) == {"0", "1"}


def test_avazu_rows_have_a_site_or_an_app(logs: Mapping[str, Log]) -> None:
    text = logs["avazu"].text
    no_site, no_app = (text[name] == text[name].mode()[0] for name in ("site_id", "app_id"))
    assert (no_site != no_app).all()


def test_criteo_has_integers_and_hashed_categories_missing_together(
    logs: Mapping[str, Log],
) -> None:
    log = logs["criteo"]
    assert log.text.width == 40
    assert log.text["label"].null_count() == 0
    assert log.numbers("I2").min() < 0
    assert log.numbers("I5").max() > 1_000_000
    for number in range(1, 27):
        assert log.text[f"C{number}"].drop_nulls().str.contains("^[0-9a-f]{8}$").all()
    for field in RECIPES["criteo"].fields:
        assert log.text[field.name].null_count() / ROWS == pytest.approx(field.missing, abs=0.01)
    assert (log.text["C3"].is_null() == log.text["C16"].is_null()).all()


def test_kdd12_positions_and_clicks_are_possible(logs: Mapping[str, Log]) -> None:
    log = logs["kdd12"]
    assert set(log.numbers("depth")) == {1, 2, 3}
    assert log.numbers("position").min() == 1
    assert (log.numbers("position") <= log.numbers("depth")).all()
    assert (log.numbers("click") <= log.numbers("impression")).all()
    assert log.numbers("click").max() == 2
    assert log.text["display_url"].cast(pl.UInt64).n_unique() > 1000


def test_names_are_one_to_one() -> None:
    names = synthetic._hex_names(np.arange(300_000), salt=7)
    assert names.n_unique() == 300_000
    assert set(names.str.len_bytes()) == {8}


# The skew


@pytest.mark.parametrize(
    ("dataset", "field", "top", "distinct"),
    [
        ("avazu", "site_id", (0.34, 0.37), (1000, 4737)),
        ("avazu", "device_id", (0.80, 0.84), (5000, ROWS)),
        ("avazu", "device_ip", (0.003, 0.02), (50_000, ROWS)),
        ("criteo", "C3", (0.02, 0.06), (20_000, ROWS)),
        ("criteo", "C9", (0.8, 0.95), (3, 3)),
        ("kdd12", "user_id", (0.22, 0.26), (50_000, ROWS)),
        ("kdd12", "query_id", (0.005, 0.03), (50_000, ROWS)),
    ],
)
def test_popular_values_and_a_long_tail(
    logs: Mapping[str, Log],
    dataset: str,
    field: str,
    top: tuple[float, float],
    distinct: tuple[int, int],
) -> None:
    counts = logs[dataset].counts(field)
    assert top[0] < counts[0] / counts.sum() < top[1]
    assert distinct[0] <= len(counts) <= distinct[1]
    if len(counts) > 1000:
        assert (counts == 1).sum() > len(counts) / 10


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.2])
def test_quantiles_follow_the_density(exponent: float) -> None:
    values = 1000
    shares = np.linspace(0, 1, 400_000)
    drawn = np.bincount(synthetic._zipf_quantile(values, exponent, shares), minlength=values)
    edges = np.arange(1, values + 2)
    grid = np.linspace(1, values + 1, 1_000_001)
    mass = np.cumsum(grid**-exponent)
    expected = np.diff(np.interp(edges, grid, mass / mass[-1]))
    assert len(drawn) == values
    assert np.abs(drawn / drawn.sum() - expected).max() < 0.002


@pytest.mark.parametrize(
    ("dataset", "parent", "child"),
    [("avazu", "site_id", "site_category"), ("kdd12", "ad_id", "advertiser_id")],
)
def test_a_parent_decides_its_child(
    logs: Mapping[str, Log], dataset: str, parent: str, child: str
) -> None:
    children = logs[dataset].text.group_by(parent).agg(pl.col(child).n_unique())[child]
    assert (children == 1).all()


# Writing


def _bytes(path: Path) -> tuple[bytes, bytes]:
    return path.read_bytes(), truth_path(path).read_bytes()


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_same_arguments_give_the_same_bytes(dataset: str, tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        write_log(dataset, tmp_path / name, 3000, seed)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    log, truth = _bytes(tmp_path / "three")
    assert log != _bytes(tmp_path / "one")[0]
    assert truth != _bytes(tmp_path / "one")[1]


def test_chunks_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 1000)
    write_log("avazu", tmp_path / "log", 2500)
    log = Log("avazu", tmp_path / "log")
    assert log.text.height == len(log.truth) == 2500
    assert "click" not in log.text["click"].to_list()
    assert log.text["device_ip"][:1000].to_list() != log.text["device_ip"][1000:2000].to_list()


def _failing_at(call: int) -> Callable[[PlantedModel, synthetic.Values], np.ndarray]:
    calls = itertools.count(1)
    honest = PlantedModel.probabilities

    def probabilities(model: PlantedModel, values: synthetic.Values) -> np.ndarray:
        if next(calls) == call:
            raise OSError("no space left")
        return honest(model, values)

    return probabilities


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 1000)
    monkeypatch.setattr(PlantedModel, "probabilities", _failing_at(call=2))
    with pytest.raises(OSError, match="no space left"):
        write_log("kdd12", tmp_path / "log", 3000)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_older_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log("kdd12", tmp_path / "log", 500)
    before = _bytes(tmp_path / "log")
    monkeypatch.setattr(PlantedModel, "probabilities", _failing_at(call=1))
    with pytest.raises(OSError, match="no space left"):
        write_log("kdd12", tmp_path / "log", 3000)
    assert _bytes(tmp_path / "log") == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_killed_process_leaves_no_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    command = [sys.executable, "-m", "data.synthetic", "kdd12", "--rows", "50000000"]
    process = subprocess.Popen([*command, "--output", str(path)], cwd=Path(__file__).parents[1])
    try:
        deadline = time.monotonic() + 60
        while not any(file.stat().st_size for file in tmp_path.glob(".log.*/log")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not path.exists()
    assert not truth_path(path).exists()
    write_log("kdd12", path, 500)
    assert len(Log("kdd12", path).truth) == 500


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["avazu", "--rows", "700", "--seed", "9", "--output", str(tmp_path / "a/log")]
    assert synthetic.main(arguments) == 0
    assert "700 rows in" in capsys.readouterr().out
    write_log("avazu", tmp_path / "same", 700, seed=9)
    assert _bytes(tmp_path / "a/log") == _bytes(tmp_path / "same")
    assert synthetic.main([*arguments, "--rows", "0"]) == 1
    assert "0 rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "name", "rows", "seed", "message"),
    [
        ("movielens", "log", 10, 1, "'movielens'.*criteo, avazu, kdd12"),
        ("avazu", "log", 0, 1, "0 rows.*at least 1"),
        ("avazu", "log", 10, -3, "seed -3"),
        ("avazu", "log.gz", 10, 1, r"log\.gz.*uncompressed"),
    ],
)
def test_bad_arguments_name_the_value(
    dataset: str, name: str, rows: int, seed: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        write_log(dataset, tmp_path / name, rows, seed)
    assert list(tmp_path.iterdir()) == []
