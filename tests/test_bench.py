"""The step benchmark at toy size: what it measures adds up, and its rows have their columns."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scripts.bench import scoring, train_step
from scripts.bench.contenders import Job, Shape
from scripts.bench.train_step import measure, rows_of

TOY = Shape(num_fields=5, num_features=1000)


def job(model: str, contender: str = "ours", *, inference: bool = False) -> Job:
    return Job(
        model=model,
        shape=TOY,
        contender=contender,
        batch_size=64,
        steps=2,
        inference=inference,
        threads=1,
    )


def test_batches_are_seeded_skewed_and_within_their_fields() -> None:
    sizes = TOY.field_sizes()
    assert sum(sizes) == TOY.num_features
    assert min(sizes[:2]) > 2 * max(sizes[2:])  # two huge ones
    (ids, labels), again = TOY.batches(2000)[0], TOY.batches(2000)[0]
    assert (ids == again[0]).all() and (labels == again[1]).all()
    assert ids.amin() == 0
    assert all(column.max() < size for column, size in zip(ids.T, sizes, strict=True))
    assert (ids[:, 0] == 0).sum() > 2000 / sizes[0] * 10  # the first value is far from rare


@pytest.mark.parametrize("contender", ["ours", "torch", "torch-fused"])
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("model", ["lr", "fm", "dcn"])
def test_the_parts_of_a_step_are_its_time(model: str, contender: str, inference: bool) -> None:
    result = measure(job(model, contender, inference=inference))
    assert list(result.parts) == list(train_step.PARTS[: 2 if inference else 4])
    assert 0 < result.seconds < 2 * sum(result.parts.values())
    assert (result.dense_share > 0) == (contender == "ours" and model == "dcn")


def test_a_row_has_the_columns_of_every_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "_in_own_process", measure)
    dense, step = rows_of(job("dcn"), "toy", "torch")
    for row in (dense, step):
        assert {"name", "ours", "reference", "ratio", "unit"} <= set(row)
        assert row["ratio"] > 0
        json.dumps(row)
    assert step["name"] == "train_step/dcn/toy/torch"
    (*_, dropping) = rows_of(replace(job("dcn"), dropout=0.2), "toy", None)
    assert dropping["name"] == "train_step/dcn/toy/dropout-0.2"
    assert step["ratio"] == pytest.approx(step["ours"] / step["reference"])


def test_an_absent_rival_says_how_to_get_it() -> None:
    with pytest.raises(SystemExit, match=r"requirements-bench|DeepCTR-Torch has .*, not wukong"):
        measure(job("wukong", "deepctr"))


def test_scoring_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    scoring.main(["--rows", "3000", "--members", "3", "--runs", "1"])
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(list(f) == ["name", "ours", "reference", "ratio", "unit"] for f in figures)
    by_name = {figure["name"]: figure for figure in figures}
    assert by_name["largest difference to scikit-learn"]["ours"] <= 1e-12
    assert "all K curves, 7 merges by logit mean" in by_name  # 3 + 3 + 1 subsets
