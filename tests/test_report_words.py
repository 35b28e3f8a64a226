"""What a report says and draws, where another figure would call for other words or lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer
from scipy.special import expit
from sklearn.metrics import log_loss

from modules.scoring.about import Best
from modules.scoring.comparison import make_tables
from modules.scoring.cost_picture import draw_cost
from modules.scoring.members import load_members
from modules.scoring.panels import thin
from modules.scoring.pictures import draw_curve
from modules.scoring.report import render_report
from modules.scoring.report_tables import cost_table
from modules.scoring.tables import Tables
from tests.fake_runs import FakeLog

SEEDS = (1, 2, 3)


def shuffled(log: FakeLog, logits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same logits for other rows of the same label, so that every metric is the same."""
    others = {split: z.copy() for split, z in logits.items()}
    for split, labels in log.labels.items():
        for label in (0, 1):
            rows = np.flatnonzero(labels == label)
            others[split][rows] = logits[split][log.random.permutation(rows)]
    return others


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deepfm's seeds are of unlike quality, fm's of the same; some latencies are not known."""
    folder = tmp_path_factory.mktemp("runs")
    log = FakeLog()
    alike = log.predictions(0.9)
    for seed, latency in zip(SEEDS, (1.0, None, 1.5), strict=True):
        log.write_run(folder, "deepfm", seed, noise=0.1 + 0.7 * seed, latency=1.0 + seed)
        log.write_run(folder, "fm", seed, predictions=shuffled(log, alike), latency=latency)
        log.write_run(folder, "lr", seed)
    return folder


def merge(root: Path, max_subsets: int = 1000) -> Tables:
    members = load_members(root, "avazu")
    return make_tables("avazu", members, pools=["logit"], max_subsets=max_subsets)


@pytest.fixture(scope="module")
def tables(root: Path) -> Tables:
    return merge(root)


@pytest.mark.parametrize(
    ("max_subsets", "said", "unsaid"),
    [
        (1000, "All subsets are scored.", "drawn at random (seed"),
        (2, "those that are were drawn at random (seed", "All subsets are scored."),
    ],
    ids=["all", "a sample"],
)
def test_a_report_says_whether_all_subsets_are_scored(
    root: Path, max_subsets: int, said: str, unsaid: str
) -> None:
    report = render_report(merge(root, max_subsets), [])
    assert said in report and unsaid not in report


@pytest.mark.parametrize(
    ("model", "mean", "one_worker", "a_worker_each"),
    [("deepfm", "3.00", "9.00", "4.00"), *((name, "", "", "") for name in ("fm", "lr", "all"))],
)
def test_a_latency_that_one_member_lacks_is_left_out(
    tables: Tables, model: str, mean: str, one_worker: str, a_worker_each: str
) -> None:
    table = cost_table(tables)
    (row,) = (dict(zip(table.header, row, strict=True)) for row in table.rows if row[0] == model)
    assert row["latency, ms, mean member"] == mean
    assert row["latency, ms, merged on one worker"] == one_worker
    assert row["latency, ms, a worker each"] == a_worker_each


@pytest.mark.parametrize(("model", "larger"), [("deepfm", "seeds"), ("fm", "rows")])
def test_the_noise_of_a_curve_is_that_of_seeds_or_of_rows_whichever_is_larger(
    root: Path, tables: Tables, model: str, larger: str
) -> None:
    labels = load_members(root, "avazu").labels["test"]
    runs = [np.load(root / f"avazu/{model}/base/seed-{seed}/test.npy") for seed in SEEDS]
    probabilities = [expit(run.astype(float)) for run in runs]
    of_seeds = np.std([log_loss(labels, p) for p in probabilities], ddof=1)

    def nats(p: np.ndarray) -> np.ndarray:
        return -np.log(np.where(labels, p, 1 - p))

    merged = expit(np.mean(runs, axis=0, dtype=float))
    gains = np.mean([nats(p) for p in probabilities], axis=0) - nats(merged)
    of_rows = 1.959964 * gains.std(ddof=1) / np.sqrt(len(gains))
    assert (of_seeds > of_rows) == (larger == "seeds")
    (noise,) = tables.curve.query(f"group == '{model}'")["noise"]
    assert noise == pytest.approx(max(of_seeds, of_rows), rel=1e-6)


@pytest.mark.parametrize("metric", ["auc", "logloss"])
def test_the_bars_of_merges_are_their_intervals(tables: Tables, metric: str) -> None:
    figure = draw_cost(tables.about, tables.budget, metric)
    panel = next(p for p in figure.axes if p.get_title().startswith("deepfm\n"))
    (bars,) = (c.lines[2][0] for c in panel.containers if isinstance(c, ErrorbarContainer))
    rows = tables.budget.query("group == 'deepfm' and contender == 'merged'")
    drawn = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(drawn, rows[f"{metric}_high"] - rows[f"{metric}_low"])


def test_an_arm_is_drawn_or_named_wherever_the_best_possible_lies(tmp_path: Path) -> None:
    log = FakeLog()
    for seed in SEEDS:
        log.write_run(tmp_path, "deepfm", seed)
        log.write_run(tmp_path, "deepfm", seed, arm="width:2", macs=2000)
    tables = merge(tmp_path)
    central = tables.budget.query("contender in ('base', 'merged') and against == 'base'")
    width = central["test_auc"].max() - central["test_auc"].min()
    found = set()
    for away in np.linspace(-5, 4, 181):
        score = central["test_auc"].max() + away * width
        budget = tables.budget.copy()
        budget.loc[budget["contender"] == "width:2", "test_auc"] = score
        best = max(score, central["test_auc"].max()) + 0.01 * width
        about = replace(tables.about, best=Best(auc=best, logloss=0.4))
        (panel,) = draw_cost(about, budget, "auc").axes
        drawn = any(score in np.asarray(line.get_ydata()) for line in panel.lines)
        named = any("width:2" in text.get_text() for text in panel.texts)
        assert drawn != named, away
        assert drawn or away < 0
        found.add(drawn)
    assert found == {True, False}


@pytest.mark.parametrize(("enough", "drawn"), [(3, True), (4, False)])
def test_the_line_of_the_k_that_is_enough_is_drawn_where_there_are_so_many_members(
    tables: Tables, enough: int, drawn: bool
) -> None:
    curve = tables.curve.query("group == 'deepfm'").assign(enough=enough)
    (panel,) = draw_curve(tables.about, tables.merged, curve).axes
    assert ("K enough" in panel.get_legend_handles_labels()[1]) == drawn


@pytest.mark.parametrize("sizes", [1, 16, 40])
def test_at_most_sixteen_sizes_are_marked_the_first_and_the_last_among_them(sizes: int) -> None:
    marked = thin(pd.DataFrame({"k": range(1, sizes + 1)}))["k"].to_list()
    assert len(set(marked)) == len(marked) == min(sizes, 16)
    assert (marked[0], marked[-1]) == (1, sizes)
