"""Rows encoded with the ids of a data set that was made before, and ids turned back into values."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from data.encode import Settings
from data.loader import Loader, read_labels
from data.own_log import read_own_log
from data.prepare import main, prepare, prepare_like, prepare_log
from data.raw import RAW_FORMATS
from data.schema import SPLITS, DataError, Schema, read_schema
from data.split import random_split
from data.vocabulary import decode_ids
from tests.raw_logs import LINES, avazu_lines, naive_rows, write_lines

OWN = """
files: log.csv
label: {column: action, equals: click}
fields: {hour: {column: time, transform: hour}, price: log2}
split: {rule: time, column: time}
"""


def own_lines(rows: int) -> list[str]:
    draw = random.Random(1)  # noqa: S311
    lines = ["time,ad,price,action"]
    for row in range(rows):
        time = f"2024-05-{row % 28 + 1:02d} {row % 24:02d}:00"
        action = draw.choice(["click", "view"])
        lines.append(f'{time},"ad, {draw.randrange(20)}",{draw.randrange(99)},{action}')
    return lines


def read_split(folder: Path, split: str) -> np.ndarray:
    """Label and ids of the rows of a split, by pandas."""
    shards = [pd.read_parquet(path) for path in sorted(folder.glob(f"{split}-*.parquet"))]
    return np.asarray(pd.concat(shards).to_numpy(np.int64))


@pytest.mark.parametrize("vocabulary", ["all", "train"])
@pytest.mark.parametrize("dataset", RAW_FORMATS)
def test_the_log_itself_gets_the_same_ids_row_for_row(
    tmp_path: Path, dataset: str, vocabulary: str
) -> None:
    log = write_lines(tmp_path / "log.gz", LINES[dataset](1000))
    base = prepare(dataset, log, tmp_path / "base", Settings(vocabulary=vocabulary))
    like = prepare_like(tmp_path / "base", [log], tmp_path / "again", Settings(shard_rows=300))
    assert like.rows == {"train": 0, "val": 0, "test": 1000}
    assert like.positives["test"] == sum(base.positives.values())
    assert (like.fields, like.vocabulary) == (base.fields, vocabulary)
    assert (like.dataset, like.like) == (
        "again",
        {"dataset": dataset, "fingerprint": base.fingerprint},
    )
    assert read_schema(tmp_path / "again") == like
    found = read_split(tmp_path / "again", "test")
    for split, rows in random_split(1000).items():
        np.testing.assert_array_equal(found[rows], read_split(tmp_path / "base", split))
    vocabularies = [tmp_path / name / "vocabulary.parquet" for name in ("base", "again")]
    assert vocabularies[0].read_bytes() == vocabularies[1].read_bytes()


def prepare_own(folder: Path) -> Schema:
    write_lines(folder / "log.csv", own_lines(500))
    (folder / "log.yaml").write_text(OWN)
    return prepare_log(read_own_log(folder / "log.yaml", "mine"), folder / "base")


def test_a_log_of_ones_own_is_encoded_by_its_kept_recipe(tmp_path: Path) -> None:
    base = prepare_own(tmp_path)
    (tmp_path / "log.yaml").unlink()
    like = prepare_like(tmp_path / "base", [tmp_path / "log.csv"], tmp_path / "again")
    assert like.fields == base.fields
    found = read_split(tmp_path / "again", "test")
    lines = own_lines(500)[1:]
    oldest_first = sorted(range(500), key=lambda row: (lines[row][:16], row))
    np.testing.assert_array_equal(
        found[sorted(oldest_first[450:])], read_split(tmp_path / "base", "test")
    )
    # As Parquet the same rows get the same ids.
    pd.read_csv(tmp_path / "log.csv").to_parquet(tmp_path / "log.parquet")
    prepare_like(tmp_path / "base", [tmp_path / "log.parquet"], tmp_path / "parquet")
    np.testing.assert_array_equal(read_split(tmp_path / "parquet", "test"), found)


def test_a_recipe_in_another_order_gives_the_same_ids(tmp_path: Path) -> None:
    prepare_own(tmp_path)
    prepare_like(tmp_path / "base", [tmp_path / "log.csv"], tmp_path / "like")
    path = tmp_path / "base/schema.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text())))  # which sorts the keys
    prepare_like(tmp_path / "base", [tmp_path / "log.csv"], tmp_path / "sorted")
    for name in ("vocabulary.parquet", "test-00000.parquet"):
        found = (tmp_path / "sorted" / name).read_bytes()
        assert found == (tmp_path / "like" / name).read_bytes()


@pytest.mark.parametrize("edit", ["less", "more"])
def test_a_recipe_of_other_fields_is_refused(tmp_path: Path, edit: str) -> None:
    prepare_own(tmp_path)
    path = tmp_path / "base/schema.yaml"
    content = yaml.safe_load(path.read_text())
    described = content["log"]["fields"]
    if edit == "less":
        del described["ad"]
    else:
        described["again"] = described["ad"]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(DataError, match=r"schema.yaml: log: fields: .* are not the data set's"):
        prepare_like(tmp_path / "base", [tmp_path / "log.csv"], tmp_path / "new")


def test_values_never_seen_get_the_unknown_id_of_their_field(tmp_path: Path) -> None:
    prepare_own(tmp_path)
    new = write_lines(
        tmp_path / "new.csv",
        ["extra,action,price,ad,time", 'x,view,,"ad, 3",2030-01-01', "x,view,7,else,2030-01-01"],
    )
    like = prepare_like(tmp_path / "base", [new], tmp_path / "new")
    assert like.positives == {"train": 0, "val": 0, "test": 0}
    labels_and_ids = read_split(tmp_path / "new", "test")
    values = decode_ids(labels_and_ids[:, 1:], like, tmp_path / "new")
    assert values.rows() == [("0", None, "ad, 3"), ("0", "3", None)]
    unknown = {field.name: field.unknown for field in like.fields}
    assert (labels_and_ids[0, 2], labels_and_ids[1, 3]) == (unknown["price"], unknown["ad"])


@pytest.mark.parametrize("dataset", RAW_FORMATS)
def test_ids_decode_to_the_values_of_the_log(tmp_path: Path, dataset: str) -> None:
    lines = LINES[dataset](600)
    schema = prepare(dataset, write_lines(tmp_path / "log", lines), tmp_path / "set")
    rows = naive_rows(dataset, lines)
    unknown = 0
    for split, numbers in random_split(600).items():
        ids = read_split(tmp_path / "set", split)[:, 1:]
        decoded = decode_ids(ids, schema, tmp_path / "set")
        assert decoded.columns == list(schema.field_names)
        for number, values in zip(numbers, decoded.rows(), strict=True):
            for value, expected in zip(values, rows[number][1:], strict=True):
                assert value in (expected, None)
                unknown += value is None
    kept = pd.read_parquet(tmp_path / "set/vocabulary.parquet")
    assert unknown == kept.loc[kept["value"].isna(), "count"].sum()


def test_an_id_of_no_field_is_not_decoded(tmp_path: Path) -> None:
    schema = prepare_own(tmp_path)
    with pytest.raises(DataError, match=r"field 'hour': id -1 is outside its ids"):
        decode_ids(np.array([[-1, 24, 60]]), schema, tmp_path / "base")


def test_what_is_complete_is_left_alone_until_its_base_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_lines(tmp_path / "log.csv", avazu_lines(300))
    prepare("avazu", log, tmp_path / "base")
    prepare_like(tmp_path / "base", [log], tmp_path / "new")
    capsys.readouterr()
    prepare_like(tmp_path / "base", [log], tmp_path / "new")
    assert "is complete" in capsys.readouterr().out
    # Encoded like what was encoded like it: the same.
    prepare_like(tmp_path / "new", [log], tmp_path / "newer")
    assert read_schema(tmp_path / "newer").like == read_schema(tmp_path / "new").like
    np.testing.assert_array_equal(
        read_split(tmp_path / "newer", "test"), read_split(tmp_path / "new", "test")
    )
    prepare("avazu", log, tmp_path / "base", Settings(vocabulary="train"))
    capsys.readouterr()
    prepare_like(tmp_path / "base", [log], tmp_path / "new")
    assert "replacing" in capsys.readouterr().out


def test_the_command_names_the_new_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    log = write_lines(tmp_path / "log.csv", avazu_lines(300))
    assert main(["avazu", "--raw", str(log)]) == 0
    more = write_lines(tmp_path / "new.2.csv", avazu_lines(50, seed=2))
    assert main(["--like", "data/encoded/avazu", "--raw", str(log), str(more)]) == 0
    assert read_schema(Path("data/encoded/avazu-log")).rows["test"] == 350
    assert main(["later", "--like", "data/encoded/avazu", "--raw", str(more)]) == 0
    assert read_schema(Path("data/encoded/later")).dataset == "later"
    capsys.readouterr()
    base = ["--like", "data/encoded/avazu", "--raw", str(log), "--output", "data/encoded/avazu"]
    assert main(base) == 1
    assert "lies in data/encoded/avazu, which would be replaced" in capsys.readouterr().err
    assert main(["--like", "data/encoded/avazzu", "--raw", str(log)]) == 1
    assert "data/encoded/avazzu/schema.yaml does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("time,ad,price", "schema.yaml: log: label: column: unknown column 'action'; known: time"),
        ("time,ads,price,action", "fields: ad: column: unknown column 'ad'; did you mean 'ads'?"),
    ],
)
def test_rows_without_a_column_are_refused(tmp_path: Path, header: str, complaint: str) -> None:
    prepare_own(tmp_path)
    new = write_lines(tmp_path / "new.csv", [header, ",".join("x" * (header.count(",") + 1))])
    with pytest.raises(DataError) as raised:
        prepare_like(tmp_path / "base", [new], tmp_path / "new")
    assert complaint in str(raised.value)
    assert f"(in {new})" in str(raised.value)
    assert not (tmp_path / "new").exists()


def test_the_same_rows_under_two_names_are_refused(tmp_path: Path) -> None:
    prepare_own(tmp_path)
    (tmp_path / "link.csv").symlink_to("log.csv")
    with pytest.raises(DataError, match=r"link.csv is named twice; its rows would count twice"):
        prepare_like(
            tmp_path / "base", [tmp_path / "log.csv", tmp_path / "link.csv"], tmp_path / "new"
        )


def test_a_base_without_its_vocabulary_is_refused(tmp_path: Path) -> None:
    prepare_own(tmp_path)
    (tmp_path / "base/vocabulary.parquet").unlink()
    with pytest.raises(DataError, match=r"base/vocabulary.parquet: unreadable vocabulary"):
        prepare_like(tmp_path / "base", [tmp_path / "log.csv"], tmp_path / "new")


def test_a_field_whose_values_are_all_unknown_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_own(tmp_path)
    rows = [line.replace('"ad, ', '"ad:') for line in own_lines(500)]
    prepare_like(tmp_path / "base", [write_lines(tmp_path / "a.csv", rows)], tmp_path / "a")
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: field 'ad': no value is one of those in {tmp_path}/base")
    # An integer is a float as soon as one is missing, which the base knows as well.
    prices = [line.split(",") for line in own_lines(500)]
    written = {"base": "{}", "new": "{}.0"}
    for name, price in written.items():
        lines = [",".join([*row[:-2], price.format(row[-2]), row[-1]]) for row in prices[1:]]
        lines[::9] = [",".join([*row[:-2], "", row[-1]]) for row in prices[1::9]]
        write_lines(tmp_path / f"{name}.csv", [own_lines(0)[0], *lines])
    content = OWN.replace("log.csv", "base.csv").replace(", price: log2", "")
    (tmp_path / "prices.yaml").write_text(content)
    prepare_log(read_own_log(tmp_path / "prices.yaml", "prices"), tmp_path / "prices")
    prepare_like(tmp_path / "prices", [tmp_path / "new.csv"], tmp_path / "new")
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: field 'price': no value is one of those in ")
    assert ".0'; every row with one" in warning
    rows[1] = own_lines(500)[1]  # one value is known
    prepare_like(tmp_path / "base", [write_lines(tmp_path / "b.csv", rows)], tmp_path / "b")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["new.2024-01-01.csv", "new.2024-01-02.csv.gz"])
def test_a_data_set_like_another_is_called_as_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    prepare_own(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / name, own_lines(50))
    assert main(["--like", "base", "--raw", name]) == 0
    stem = name.removesuffix(".gz").removesuffix(".csv")
    assert read_schema(tmp_path / f"data/encoded/base-{stem}").rows["test"] == 50


@pytest.mark.parametrize("split", ["train", "val"])
def test_new_rows_are_no_training_data(tmp_path: Path, split: str) -> None:
    prepare_own(tmp_path)
    prepare_like(tmp_path / "base", [tmp_path / "log.csv"], tmp_path / "new")
    expected = rf"new has no rows of split '{split}': .* like those of 'mine'"
    with pytest.raises(DataError, match=expected):
        Loader(tmp_path / "new", split, batch_size=8)
    with pytest.raises(DataError, match=expected):
        read_labels(tmp_path / "new", split)
    assert len(read_labels(tmp_path / "new", "test")) == 500


def test_every_split_of_a_base_is_kept(tmp_path: Path) -> None:
    """The base is only read."""
    prepare_own(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    prepare_like(tmp_path / "base", [tmp_path / "log.csv"], tmp_path / "new")
    after = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    assert before == after
    assert {name.partition("-")[0] for name in after if "-" in name} == set(SPLITS)
