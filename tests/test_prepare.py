"""The whole way from a log to an encoded data set, against the recipe written naively."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from data import tfrecord
from data import vocabulary as vocabulary_module
from data.encode import Settings
from data.loader import read_truth
from data.prepare import main, prepare, prepare_like
from data.raw import RAW_FORMATS, raw_format
from data.reading import read_chunks
from data.schema import SPLITS, DataError, Rows, Schema, read_schema
from data.shards import SHARD_FORMATS
from data.split import random_split
from data.vocabulary import read_vocabulary
from tests.raw_logs import LINES, avazu_lines, naive_rows, write_lines

PROJECT = Path(__file__).parents[1]
SHARED = PROJECT.parent / "shared/data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")


def pandas_split(rows: int) -> dict[str, np.ndarray]:
    """The official split, by the official calls."""
    data = pd.DataFrame({"row": range(rows)})
    train = data.sample(frac=0.8, random_state=2021)
    left = data[~data.index.isin(train.index)]
    test = left.sample(frac=0.5, random_state=2021)
    val = left[~left.index.isin(test.index)]
    frames = {"train": train, "val": val, "test": test}
    return {split: frame["row"].to_numpy() for split, frame in frames.items()}


def naive_data_set(
    dataset: str, lines: list[str], vocabulary: str
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Label and ids of the rows of each split, and the field sizes, with dicts and loops."""
    rows = naive_rows(dataset, lines)
    split = pandas_split(len(rows))
    counted = rows if vocabulary == "all" else [rows[row] for row in split["train"]]
    encoded = np.empty((len(rows), len(rows[0])), dtype=np.int64)
    encoded[:, 0] = [row[0] for row in rows]
    sizes: list[int] = []
    for column, (name, threshold) in enumerate(raw_format(dataset).thresholds.items(), start=1):
        counts = Counter(str(row[column]) for row in counted)
        kept = sorted(
            (value for value in counts if counts[value] >= threshold),
            key=lambda value, counts=counts: (-counts[value], value.encode()),  # type: ignore[misc]
        )
        ids = {value: sum(sizes) + number for number, value in enumerate(kept)}
        unknown = sum(sizes) + len(kept)
        encoded[:, column] = [ids.get(str(row[column]), unknown) for row in rows]
        assert name == list(raw_format(dataset).fields)[column - 1]
        sizes.append(len(kept) + 1)
    return {name: encoded[split[name]] for name in SPLITS}, sizes


def read_split(folder: Path, split: str) -> np.ndarray:
    """Label and ids of the rows of a split, by pandas."""
    shards = [pd.read_parquet(path) for path in sorted(folder.glob(f"{split}-*.parquet"))]
    return np.asarray(pd.concat(shards).to_numpy(np.int64))


def content(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def with_clicks(lines: list[str], clicked: Collection[int]) -> list[str]:
    """An Avazu log with clicks on the rows `clicked` alone."""
    changed = []
    for row, line in enumerate(lines[1:]):
        columns = line.split(",")
        changed.append(",".join([columns[0], str(int(row in clicked)), *columns[2:]]))
    return [lines[0], *changed]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "log.csv", avazu_lines(400))


# -------------------------------------------------------------------- split


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 12, 13, 15, 99, 1000, 12_345, 200_001])
def test_the_split_is_that_of_pandas(rows: int) -> None:
    expected = pandas_split(rows)
    found = random_split(rows)
    assert list(found) == list(SPLITS)
    for split in SPLITS:
        np.testing.assert_array_equal(found[split], expected[split], err_msg=split)


# -------------------------------------------------------------------- content


@pytest.mark.parametrize("vocabulary", ["all", "train"])
@pytest.mark.parametrize("dataset", RAW_FORMATS)
def test_a_data_set_is_what_the_recipe_says(
    tmp_path: Path, dataset: str, vocabulary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = LINES[dataset](1500)
    log = write_lines(tmp_path / "log.gz", lines)
    # Blocks of a few lines: codes must mean the same in every chunk.
    monkeypatch.setattr("data.encode.read_chunks", partial(read_chunks, block_bytes=4000))
    schema = prepare(dataset, log, tmp_path / "set", Settings(vocabulary=vocabulary))
    expected, sizes = naive_data_set(dataset, lines, vocabulary)
    assert schema == read_schema(tmp_path / "set")
    assert [field.size for field in schema.fields] == sizes
    assert {field.name: field.threshold for field in schema.fields} == (
        raw_format(dataset).thresholds
    )
    for split in SPLITS:
        np.testing.assert_array_equal(read_split(tmp_path / "set", split), expected[split])
        assert schema.rows[split] == len(expected[split])
        assert schema.positives[split] == expected[split][:, 0].sum()
    assert not schema.synthetic
    assert read_truth(tmp_path / "set", "val") is None


def test_rare_missing_and_unseen_values(tmp_path: Path) -> None:
    """The cases that the random logs hold by luck, spelt out for one field of threshold 2."""
    values = ["a"] * 30 + ["b"] * 5 + [""] * 2 + ["c"] * 2 + ["rare", "rarer"] + ["d"] * 9
    lines = avazu_lines(50)
    for row, value in enumerate(values, start=1):
        columns = lines[row].split(",")
        lines[row] = ",".join([*columns[:5], value, *columns[6:]])
    lines = with_clicks(lines, range(0, 50, 2))
    prepare("avazu", write_lines(tmp_path / "log", lines), tmp_path / "set")
    schema = read_schema(tmp_path / "set")
    field = schema.fields[3]
    assert (field.name, field.size) == ("site_id", 6)
    local = {"a": 0, "d": 1, "b": 2, "": 3, "c": 4, "rare": 5, "rarer": 5}
    for split, rows in random_split(50).items():
        found = read_split(tmp_path / "set", split)[:, 4] - field.offset
        assert list(found) == [local[values[row]] for row in rows]


def test_shards_cut_a_split_in_order_and_both_formats_hold_the_same(
    tmp_path: Path, log: Path
) -> None:
    whole = prepare("avazu", log, tmp_path / "whole")
    settings = Settings(formats=("parquet", "tfrecord"), shard_rows=33)
    schema = prepare("avazu", log, tmp_path / "cut", settings)
    assert schema.fingerprint == whole.fingerprint
    assert len(list((tmp_path / "cut").glob("train-*.parquet"))) == 10
    for split in SPLITS:
        expected = read_split(tmp_path / "whole", split)
        np.testing.assert_array_equal(read_split(tmp_path / "cut", split), expected)
        paths = sorted((tmp_path / "cut").glob(f"{split}-*.tfrecord"))
        shards = [tfrecord.read_shard(path, schema.field_names) for path in paths]
        np.testing.assert_array_equal(
            np.concatenate([rows.ids for rows in shards]), expected[:, 1:]
        )
        labels = np.concatenate([rows.labels for rows in shards])
        np.testing.assert_array_equal(labels, expected[:, 0])


@needs_shared
def test_the_avazu_sample_is_what_the_official_code_makes_of_it(tmp_path: Path) -> None:
    schema = prepare("avazu", SHARED / "avazu_sample.csv.gz", tmp_path / "set")
    records = SHARED / "official_avazu_records"
    official: dict[str, Rows] = {
        split: tfrecord.read_shard(records / f"{name}_0000.tfrecord", schema.field_names)
        for split, name in (("train", "train"), ("val", "validation"), ("test", "test"))
    }
    ours = {split: read_split(tmp_path / "set", split) for split in SPLITS}
    for split in SPLITS:
        np.testing.assert_array_equal(ours[split][:, 0], official[split].labels)
    our_ids = np.concatenate([ours[split][:, 1:] for split in SPLITS])
    official_ids = np.concatenate([official[split].ids for split in SPLITS])
    without_rare = 0
    for column, field in enumerate(schema.fields):
        pairs = np.unique(np.stack([our_ids[:, column], official_ids[:, column]]), axis=1)
        assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1], field.name
        if field.unknown in pairs[0]:
            # Rare values share the last id of the field there too.
            assert dict(pairs.T)[field.unknown] == pairs[1].max()
            assert len(pairs[0]) == field.size
        else:
            assert len(pairs[0]) == field.size - 1
            without_rare += 1
    # The official code gives no unknown id to a field without rare values.
    assert schema.num_features == 10_227 + without_rare


@needs_shared
@pytest.mark.parametrize(
    ("dataset", "name", "rows"),
    [("criteo", "criteo_sample.txt.gz", 190_966), ("kdd12", "kdd12_sample.tsv.gz", 39_948)],
)
def test_the_other_samples_can_be_prepared(
    tmp_path: Path, dataset: str, name: str, rows: int
) -> None:
    schema = prepare(dataset, SHARED / name, tmp_path / "set")
    assert sum(schema.rows.values()) == rows
    assert schema.raw[0].name == name


def test_bytes_do_not_depend_on_run_or_threads(tmp_path: Path) -> None:
    log = write_lines(tmp_path / "log.tsv", LINES["criteo"](10_000))
    prepare("criteo", log, tmp_path / "here")
    for threads in ("1", "2"):
        command = ["criteo", "--raw", str(log), "--output", str(tmp_path / threads)]
        assert run_command(*command, POLARS_MAX_THREADS=threads).returncode == 0
        assert content(tmp_path / threads) == content(tmp_path / "here")


# ---------------------------------------------------------------------- truth


def test_the_truth_of_a_planted_log_follows_its_rows(tmp_path: Path, log: Path) -> None:
    truth = np.linspace(0, 1, 400)
    np.save(tmp_path / "log.csv.truth.npy", truth)
    assert prepare("avazu", log, tmp_path / "set").synthetic
    for split in ("val", "test"):
        found = read_truth(tmp_path / "set", split)
        assert found is not None
        np.testing.assert_array_equal(found, truth[pandas_split(400)[split]])
    assert read_truth(tmp_path / "set", "train") is None


@pytest.mark.parametrize("truth", [np.zeros(399), np.zeros((400, 1))])
def test_the_truth_of_another_log_is_refused(tmp_path: Path, log: Path, truth: np.ndarray) -> None:
    np.save(tmp_path / "log.csv.truth.npy", truth)
    with pytest.raises(DataError, match=r"log.csv.truth.npy: .* beside a log of 400 rows"):
        prepare("avazu", log, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_truth_file_that_is_no_array_is_refused(tmp_path: Path, log: Path) -> None:
    (tmp_path / "log.csv.truth.npy").write_bytes(b"0.5")
    with pytest.raises(DataError, match=r"log.csv.truth.npy: not an array"):
        prepare("avazu", log, tmp_path / "set")


# ------------------------------------------------------- made again or left alone


def stamp(folder: Path) -> int:
    return (folder / "schema.yaml").stat().st_ino


def test_a_complete_data_set_is_left_alone(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare("avazu", log, tmp_path / "set")
    before = stamp(tmp_path / "set")
    assert prepare("avazu", log, tmp_path / "set") == first
    assert stamp(tmp_path / "set") == before
    assert "is complete (avazu, 400 rows of log.csv, vocabulary all)" in capsys.readouterr().out
    # The same bytes under another name are the same log.
    prepare("avazu", log.rename(tmp_path / "other.csv"), tmp_path / "set")
    assert stamp(tmp_path / "set") == before
    prepare("avazu", tmp_path / "other.csv", tmp_path / "set", force=True)
    assert stamp(tmp_path / "set") != before
    assert f"replacing {tmp_path / 'set'} (avazu, 400 rows of log.csv" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["log", "vocabulary", "format", "shards", "shard", "truth"])
def test_what_differs_is_made_again(
    tmp_path: Path, log: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    prepare("avazu", log, folder)
    before = stamp(folder)
    settings = Settings()
    if change == "log":
        write_lines(log, avazu_lines(400, seed=1))
    elif change == "vocabulary":
        settings = Settings(vocabulary="train")
    elif change == "format":
        settings = Settings(formats=("tfrecord",))
    elif change == "shards":
        settings = Settings(shard_rows=100)
    elif change == "shard":
        (folder / "test-00000.parquet").unlink()
    elif change == "truth":
        np.save(tmp_path / "log.csv.truth.npy", np.zeros(400))
    prepare("avazu", log, folder, settings)
    assert stamp(folder) != before
    assert f"replacing {folder} (avazu" in capsys.readouterr().out
    after = stamp(folder)
    prepare("avazu", log, folder, settings)
    assert stamp(folder) == after
    # Nothing of the older data set is left in it.
    prepare("avazu", log, tmp_path / "fresh", settings)
    assert content(folder) == content(tmp_path / "fresh")


@pytest.mark.parametrize("other", ["scores.parquet", "notes.txt", "new/schema.yaml"])
def test_what_is_not_of_the_data_set_is_not_replaced_with_it(
    tmp_path: Path, log: Path, other: str
) -> None:
    folder = tmp_path / "set"
    prepare("avazu", log, folder)
    (folder / other).parent.mkdir(exist_ok=True)
    (folder / other).write_text("precious")
    before = stamp(folder)
    prepare("avazu", log, folder)  # is complete as it is
    for settings, force in ((Settings(), True), (Settings(vocabulary="train"), False)):
        refusal = rf"{other.split('/')[0]} lies in .*set, which would be replaced; move it"
        with pytest.raises(DataError, match=refusal):
            prepare("avazu", log, folder, settings, force=force)
    assert stamp(folder) == before
    assert (folder / other).read_text() == "precious"


def test_a_malformed_data_set_is_replaced(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "schema.yaml").write_text("version: 0")
    schema = prepare("avazu", log, tmp_path / "set")
    assert read_schema(tmp_path / "set") == schema
    assert "replacing" in capsys.readouterr().out


def test_a_failure_leaves_the_older_data_set_as_it_was(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("avazu", log, tmp_path / "set")
    before = content(tmp_path)

    def full_disk(path: Path, names: Sequence[str], rows: Rows) -> None:
        path.write_bytes(b"half")
        if path.name.startswith("val"):
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(tfrecord, "write_shard", full_disk)
    with pytest.raises(DataError, match=r"set: no space left on its disk .*--output"):
        prepare("avazu", log, tmp_path / "set", Settings(formats=("parquet", "tfrecord")))
    assert content(tmp_path) == before
    monkeypatch.undo()
    bad = write_lines(tmp_path / "bad.csv", [*avazu_lines(400), "1,2,3"])
    with pytest.raises(DataError, match=r"bad.csv, line 402: 3 columns"):
        prepare("avazu", bad, tmp_path / "set")
    bad.unlink()
    assert content(tmp_path) == before


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, log: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    before = content(tmp_path)
    for force in (False, True):
        with pytest.raises(DataError, match="is no encoded data set"):
            prepare("avazu", log, tmp_path / "home", force=force)
        with pytest.raises(DataError, match=r"log.csv lies in .*, which would be replaced"):
            prepare("avazu", log, tmp_path, force=force)
    assert content(tmp_path) == before


PHASES = ("_order_codes", "build_vocabulary", "_write_shards", "write_schema")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_that_the_next_one_minds(
    tmp_path: Path, log: Path, phase: str, end: signal.Signals
) -> None:
    expected = prepare("avazu", log, tmp_path / "set")
    before = content(tmp_path / "set")
    write_lines(log, avazu_lines(400, seed=3))
    program = (
        "import os, sys; import data.encode as steps; from data.prepare import main\n"
        f"steps.{phase} = lambda *_, **__: os.kill(os.getpid(), {int(end)})\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["avazu", "--raw", str(log), "--output", str(tmp_path / "set")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=PROJECT, capture_output=True, text=True
    )
    assert content(tmp_path / "set") == before
    if end == signal.SIGINT:
        assert (done.returncode, done.stderr.count("\n")) == (130, 1)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "set"]
    else:
        assert done.returncode == -signal.SIGKILL
    assert prepare("avazu", log, tmp_path / "set").fingerprint != expected.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "set"]
    prepare("avazu", log, tmp_path / "fresh")
    assert content(tmp_path / "set") == content(tmp_path / "fresh")


@pytest.mark.parametrize("file_format", SHARD_FORMATS)
@pytest.mark.parametrize("kilobytes", [1, 5, 20])
def test_a_write_that_fails_ends_with_one_line_and_changes_nothing(
    tmp_path: Path, log: Path, kilobytes: int, file_format: str
) -> None:
    """The limit of a file's size, by which any write of ours may fail as on a full disk."""
    write_lines(log, avazu_lines(9000))
    prepare("avazu", log, tmp_path / "set")
    before = content(tmp_path)
    program = (
        "import resource, sys; from data.prepare import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({kilobytes << 10}, -1))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["avazu", "--raw", str(log), "--output", str(tmp_path / "set"), "--force"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--format", file_format],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert "File too large" in done.stderr
    assert content(tmp_path) == before


@pytest.mark.parametrize("vocabulary", ["all", "train"])
def test_the_vocabulary_decodes_ids_and_counts_values(tmp_path: Path, vocabulary: str) -> None:
    lines = avazu_lines(400)
    schema = prepare(
        "avazu",
        write_lines(tmp_path / "log.csv", lines),
        tmp_path / "set",
        Settings(vocabulary=vocabulary),
    )
    table = pd.read_parquet(tmp_path / "set" / "vocabulary.parquet")
    assert list(table["id"]) == list(range(schema.num_features))
    assert list(table["field"]) == [
        field.name for field in schema.fields for _ in range(field.size)
    ]
    values = read_vocabulary(tmp_path / "set", schema.fields)
    rows, split = naive_rows("avazu", lines), pandas_split(400)
    counted = rows if vocabulary == "all" else [rows[row] for row in split["train"]]
    for column, field in enumerate(schema.fields, start=1):
        counts = Counter(str(row[column]) for row in counted)
        own = table[table["field"] == field.name]
        assert list(own["value"].iloc[:-1]) == values[field.name].to_list()
        assert list(own["count"].iloc[:-1]) == [counts[value] for value in values[field.name]]
        assert own["value"].isna().sum() == 1
        assert own["count"].sum() == len(counted)
        known = dict(zip(values[field.name], range(field.offset, field.unknown), strict=True))
        found = read_split(tmp_path / "set", "val")[:, column]
        assert list(found) == [
            known.get(str(rows[row][column]), field.unknown) for row in split["val"]
        ]


def test_much_text_of_a_field_is_written_in_parts(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = prepare("avazu", log, tmp_path / "whole")
    monkeypatch.setattr(vocabulary_module, "TEXT_AT_ONCE", 40)  # bytes; Arrow takes 2 GiB
    prepare("avazu", log, tmp_path / "parts")
    tables = [
        pd.read_parquet(tmp_path / name / "vocabulary.parquet") for name in ("whole", "parts")
    ]
    pd.testing.assert_frame_equal(*tables)
    groups = pq.ParquetFile(tmp_path / "parts/vocabulary.parquet").num_row_groups
    assert groups > schema.num_fields
    largest = max(len(value.encode()) for value in tables[0]["value"].dropna())
    assert largest <= 40
    new = prepare_like(tmp_path / "parts", [log], tmp_path / "new")
    assert new.fields == schema.fields


def test_an_empty_folder_may_be_filled(tmp_path: Path, log: Path) -> None:
    (tmp_path / "set").mkdir()
    prepare("avazu", log, tmp_path / "set")
    assert read_schema(tmp_path / "set").dataset == "avazu"


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("clicked", "complaint"),
    [
        ([], "split 'train' has no positive row"),
        (range(40), "split 'train' has no negative row"),
        (random_split(40)["train"][:9], "split 'val' has no positive row (4 rows, 0 positives)"),
        ([*random_split(40)["train"][:9], *random_split(40)["val"][:1]], "split 'test' has no pos"),
    ],
)
def test_a_split_of_one_class_is_refused(
    tmp_path: Path, clicked: Collection[int], complaint: str
) -> None:
    log = write_lines(tmp_path / "log.csv", with_clicks(avazu_lines(40), clicked))
    with pytest.raises(DataError) as raised:
        prepare("avazu", log, tmp_path / "set")
    assert complaint in str(raised.value)
    assert content(tmp_path).keys() == {"log.csv"}


def test_a_log_too_short_for_three_splits_is_refused(tmp_path: Path) -> None:
    log = write_lines(tmp_path / "log.csv", avazu_lines(1))
    with pytest.raises(DataError, match="split 'train' has no"):
        prepare("avazu", log, tmp_path / "set")


# -------------------------------------------------------------------- command


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, from the project's folder."""
    return subprocess.run(
        [sys.executable, "-m", "data.prepare", *arguments],
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_prepares_and_reports(tmp_path: Path, log: Path) -> None:
    output = tmp_path / "set"
    done = run_command("avazu", "--raw", str(log), "--output", str(output))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{output}: 400 rows, 24 fields," in done.stdout
    assert read_schema(output).rows == {"train": 320, "val": 40, "test": 40}


def test_the_command_ends_with_one_clear_line(tmp_path: Path, log: Path) -> None:
    write_lines(log, [*avazu_lines(5), "1,2"])
    done = run_command("avazu", "--raw", str(log), "--output", str(tmp_path / "set"))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {log}, line 7: 2 columns, expected 24 for avazu ('1,2')")
    assert content(tmp_path).keys() == {"log.csv"}


@pytest.mark.parametrize("dataset", RAW_FORMATS)
def test_a_synthetic_log_is_planted_once(
    tmp_path: Path,
    dataset: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [dataset, "--synthetic", "2000", "--seed", "7"]
    assert main(command) == 0
    (log,) = (tmp_path / "data/raw" / dataset).glob("synthetic-2000-seed-7.*[!y]")
    assert log.suffix == {"avazu": ".csv", "criteo": ".txt", "kdd12": ".tsv"}[dataset]
    schema: Schema = read_schema(tmp_path / "data/encoded" / dataset)
    assert schema.synthetic
    assert sum(schema.rows.values()) == 2000
    truth = read_truth(tmp_path / "data/encoded" / dataset, "test")
    assert truth is not None
    assert truth.shape == (200,)
    before, planted = stamp(tmp_path / "data/encoded" / dataset), log.stat().st_ino
    capsys.readouterr()
    assert main(command) == 0
    assert log.stat().st_ino == planted
    assert stamp(tmp_path / "data/encoded" / dataset) == before
    assert "using the synthetic log" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["movielens", "--raw", "log"], "choose from"),
        (["avazu"], "one of the arguments --raw --synthetic is required"),
        (["avazu", "--raw", "log", "--synthetic", "9"], "not allowed with"),
        (["avazu", "--synthetic", "0"], "'0' is not a whole number above 0"),
        (["avazu", "--raw", "log", "--format", "csv"], "unknown format 'csv'; known are parquet"),
        (["avazu", "--raw", "log", "--vocabulary", "val"], "choose from"),
    ],
)
def test_a_wrong_command_says_what_is_known(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_missing_log_ends_with_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "nowhere.csv"
    assert main(["avazu", "--raw", str(missing), "--output", str(tmp_path / "set")]) == 1
    expected = f"error: {missing} is not a file; give the avazu log with --raw PATH\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []
