"""Shards in, batches out: which rows, in which order, how many shards at a time."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import parquet
from data.loader import Batch, Loader, read_labels, read_truth
from data.schema import DataError, Field, Rows, Schema, write_schema
from data.shards import SHARD_FORMATS, shard_format, shard_name

SIZES = (7, 5, 11)
OFFICIAL = Path(__file__).parents[2] / "shared/data/official_avazu_records"
# From the description of those files.
OFFICIAL_SIZES = (
    *(24, 7, 6, 678, 537, 15, 596, 51, 18, 363, 5030, 1837, 4, 4),
    *(588, 7, 8, 213, 4, 46, 144, 43, 3, 1),
)
OFFICIAL_ROWS = {"train": 45_753, "val": 5_719, "test": 5_719}
OFFICIAL_POSITIVES = {"train": 7_755, "val": 931, "test": 1_016}


def make_schema(sizes: tuple[int, ...], rows: dict[str, int]) -> Schema:
    offsets = np.cumsum([0, *sizes])
    fields = (
        Field(f"f{number}", size, int(offsets[number]), 2) for number, size in enumerate(sizes)
    )
    return Schema("test", tuple(fields), "all", {}, rows, dict.fromkeys(rows, 1), ())


def make_rows(num_rows: int, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    offsets = np.cumsum([0, *SIZES[:-1]])
    ids = generator.integers(0, SIZES, (num_rows, len(SIZES))) + offsets
    return Rows(ids.astype(np.int32), generator.integers(0, 2, num_rows, dtype=np.uint8))


def write_split(
    folder: Path, rows: Rows, shard_rows: int, file_format: str = "parquet", split: str = "val"
) -> Path:
    """Write the shards of one split, and a schema that knows their rows."""
    folder.mkdir(exist_ok=True)
    counts = {"train": 0, "val": 0, "test": 0} | {split: len(rows.labels)}
    schema = make_schema(SIZES, counts)
    write_schema(schema, folder)
    for number, start in enumerate(range(0, len(rows.labels), shard_rows)):
        part = slice(start, start + shard_rows)
        path = folder / shard_name(split, number, file_format)
        part_rows = Rows(rows.ids[part], rows.labels[part])
        shard_format(path).write_shard(path, schema.field_names, [part_rows])
    return folder


def joined(batches: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
    ids, labels = zip(*batches, strict=True)
    return torch.cat(ids).numpy(), torch.cat(labels).numpy()


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "ahead" in thread.name]


# ---------------------------------------------------------------- rows and order


@pytest.mark.parametrize("file_format", SHARD_FORMATS)
@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(1, 60), shard_rows=st.integers(1, 61), batch_size=st.integers(1, 70))
def test_batches_are_the_rows_in_file_order(
    tmp_path_factory: pytest.TempPathFactory,
    file_format: str,
    num_rows: int,
    shard_rows: int,
    batch_size: int,
) -> None:
    rows = make_rows(num_rows)
    folder = write_split(tmp_path_factory.mktemp("set"), rows, shard_rows, file_format)
    loader = Loader(folder, "val", batch_size=batch_size)
    batches = list(loader)
    assert [len(batch.labels) for batch in batches] == [
        min(batch_size, num_rows - start) for start in range(0, num_rows, batch_size)
    ]
    assert len(loader) == len(batches)
    assert loader.num_rows == num_rows
    assert batches[0].ids.dtype == torch.int64
    assert batches[0].labels.dtype == torch.float32
    ids, labels = joined(batches)
    np.testing.assert_array_equal(ids, rows.ids)
    np.testing.assert_array_equal(labels, rows.labels)
    np.testing.assert_array_equal(read_labels(folder, "val"), rows.labels)


def test_rows_beyond_one_row_group_are_read(tmp_path: Path) -> None:
    rows = make_rows(2 * parquet.ROW_GROUP + 3)
    folder = write_split(tmp_path, rows, 10**6)
    ids, labels = joined(list(Loader(folder, "val", batch_size=50_000)))
    np.testing.assert_array_equal(ids, rows.ids)
    np.testing.assert_array_equal(labels, rows.labels)


def numbered(tmp_path: Path, num_rows: int, shard_rows: int) -> Path:
    """A split whose rows can be told apart: the ids spell the row number, the label its parity."""
    numbers = np.arange(num_rows)
    ids = np.stack([numbers % 7, 7 + numbers // 7 % 5, 12 + numbers // 35 % 11], axis=1)
    rows = Rows(ids.astype(np.int32), (numbers % 2).astype(np.uint8))
    return write_split(tmp_path, rows, shard_rows)


def row_numbers(loader: Loader) -> list[int]:
    """The row numbers of one pass, each checked to be with its label."""
    ids, labels = joined(list(loader))
    numbers = ids @ [1, 7, 35] - (7 * 7 + 12 * 35)
    np.testing.assert_array_equal(numbers % 2, labels)
    return [int(number) for number in numbers]


def test_a_generator_shuffles_rows_and_shards_anew_in_every_pass(tmp_path: Path) -> None:
    folder = numbered(tmp_path, 300, 50)

    def passes(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        loader = Loader(folder, "val", batch_size=32, generator=generator)
        return [row_numbers(loader) for _ in range(3)]

    orders = passes(1)
    for order in orders:
        assert sorted(order) == list(range(300))
    assert len({tuple(order) for order in [*orders, *passes(2), list(range(300))]}) == 7
    assert passes(1) == orders
    # Rows move within their shard and shards among each other.
    for order in orders:
        shards = [{number // 50 for number in order[at : at + 50]} for at in range(0, 300, 50)]
        assert all(len(shard) == 1 for shard in shards)
    assert len({tuple(number // 50 for number in order[::50]) for order in orders}) > 1


def test_shuffling_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    folder = numbered(tmp_path, 30, 10)
    before = torch.get_rng_state()
    row_numbers(Loader(folder, "val", batch_size=7, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before)


# --------------------------------------------------------------------- reading


class EagerExecutor(ThreadPoolExecutor):
    """Has done a job when it is submitted: the earliest that a thread may be."""

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        future = super().submit(*arguments, **options)
        wait([future])
        return future


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, EagerExecutor])
@pytest.mark.parametrize("batch_size", [1, 7, 20, 33, 1000])
@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_never_more_than_two_shards_are_in_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    executor: type[ThreadPoolExecutor],
    batch_size: int,
    generator: torch.Generator | None,
) -> None:
    folder = numbered(tmp_path, 300, 20)
    shards: list[weakref.ref[np.ndarray]] = []
    while_reading = []
    original = parquet.read_shard

    def alive() -> int:
        return sum(shard() is not None for shard in shards)

    def counting(path: Path, field_names: Any) -> Rows:
        while_reading.append(alive())
        rows = original(path, field_names)
        shards.append(weakref.ref(rows.ids))
        return rows

    monkeypatch.setattr(parquet, "read_shard", counting)
    monkeypatch.setattr("data.ahead.ThreadPoolExecutor", executor)
    loader = Loader(folder, "val", batch_size=batch_size, generator=generator)
    while_used = [alive() for _ in loader]
    assert len(shards) == 15
    # One is being used, the other being read, or it is there already.
    assert max(while_reading) <= 1
    assert max(while_used) <= 2
    assert while_used[-1] <= 1
    assert alive() == 0


def test_the_next_shard_is_read_while_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = numbered(tmp_path, 100, 20)
    begun: list[str] = []
    second = threading.Event()
    original = parquet.read_shard

    def announcing(path: Path, field_names: Any) -> Rows:
        begun.append(path.name)
        if len(begun) == 2:
            second.set()
        return original(path, field_names)

    monkeypatch.setattr(parquet, "read_shard", announcing)
    batches = iter(Loader(folder, "val", batch_size=10))
    next(batches)
    assert second.wait(timeout=10)
    next(batches)
    assert begun == ["val-00000.parquet", "val-00001.parquet"]


def test_leaving_early_leaves_no_thread(tmp_path: Path) -> None:
    folder = numbered(tmp_path, 100, 20)
    for _ in Loader(folder, "val", batch_size=10):
        assert reader_threads()
        break
    assert not reader_threads()


def test_an_error_in_the_thread_reaches_the_consumer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = numbered(tmp_path, 100, 20)
    original = parquet.read_shard

    def failing(path: Path, field_names: Any) -> Rows:
        if path.name == "val-00003.parquet":
            raise DataError("the disk is gone")
        return original(path, field_names)

    monkeypatch.setattr(parquet, "read_shard", failing)
    seen = 0
    with pytest.raises(DataError, match="the disk is gone"):
        for batch in Loader(folder, "val", batch_size=10):
            seen += len(batch.labels)
    assert seen == 60
    assert not reader_threads()


# --------------------------------------------------------------- files and formats


def test_parquet_is_preferred_unless_named_otherwise(tmp_path: Path) -> None:
    write_split(tmp_path, make_rows(10, seed=1), 4, "tfrecord")
    write_split(tmp_path, make_rows(10, seed=2), 5, "parquet")
    for file_format, seed in ((None, 2), ("parquet", 2), ("tfrecord", 1)):
        loader = Loader(tmp_path, "val", batch_size=3, file_format=file_format)
        np.testing.assert_array_equal(joined(list(loader))[0], make_rows(10, seed).ids)


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("split", OFFICIAL_ROWS)
def test_official_files_are_read_given_a_schema(split: str) -> None:
    schema = make_schema(OFFICIAL_SIZES, OFFICIAL_ROWS)
    assert schema.num_features == 10_227
    loader = Loader(OFFICIAL, split, batch_size=4096, schema=schema)
    ids, labels = joined(list(loader))
    assert len(ids) == OFFICIAL_ROWS[split]
    assert labels.sum() == OFFICIAL_POSITIVES[split]
    np.testing.assert_array_equal(read_labels(OFFICIAL, split, schema), labels)


def test_the_truth_is_read_where_it_is_kept(tmp_path: Path) -> None:
    write_schema(make_schema(OFFICIAL_SIZES, {"train": 9, "val": 2, "test": 3}), tmp_path)
    np.save(tmp_path / "val.truth.npy", np.array([0.25, 0.5]))
    np.testing.assert_array_equal(read_truth(tmp_path, "val"), [0.25, 0.5])
    assert read_truth(tmp_path, "train") is None
    np.save(tmp_path / "test.truth.npy", np.array([0.25, 0.5]))
    with pytest.raises(DataError, match=r"test.truth.npy: an array of shape \(2,\) for 3 rows; .*"):
        read_truth(tmp_path, "test")
    (tmp_path / "test.truth.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"test.truth.npy: unreadable"):
        read_truth(tmp_path, "test")


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("file_format", SHARD_FORMATS)
def test_an_id_outside_its_field_names_file_row_and_field(tmp_path: Path, file_format: str) -> None:
    rows = make_rows(30)
    rows.ids[25, 1] = 12
    folder = write_split(tmp_path, rows, 10, file_format)
    with pytest.raises(DataError) as raised:
        list(Loader(folder, "val", batch_size=4))
    assert "field 'f1': id 12 is outside its ids 7..11" in str(raised.value)
    assert f"val-00002.{file_format}, row 5" in str(raised.value)


def test_a_label_other_than_0_and_1_is_named(tmp_path: Path) -> None:
    rows = make_rows(30)
    rows.labels[14] = 2
    with pytest.raises(DataError, match=r"val-00001.parquet, row 4: label 2 is neither"):
        list(Loader(write_split(tmp_path, rows, 10), "val", batch_size=4))


@pytest.mark.parametrize("file_format", SHARD_FORMATS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_shard_is_noticed_at_once(tmp_path: Path, file_format: str, number: int) -> None:
    folder = write_split(tmp_path, make_rows(25), 10, file_format)
    (folder / shard_name("val", number, file_format)).unlink()
    with pytest.raises(DataError, match=r"on hold (15|20) rows, but schema.yaml says 25"):
        Loader(folder, "val", batch_size=4)
    with pytest.raises(DataError, match="is one missing"):
        read_labels(folder, "val")


def test_shards_of_other_fields_are_refused(tmp_path: Path) -> None:
    rows = make_rows(10)
    parquet.write_shard(tmp_path / "val-00000.parquet", ["f0", "site", "f2"], [rows])
    schema = make_schema(SIZES, {"train": 0, "val": 10, "test": 0})
    with pytest.raises(DataError, match=r"val-00000.parquet: .*site: int32.* expected .*f1: int32"):
        list(Loader(tmp_path, "val", batch_size=4, schema=schema))
    with pytest.raises(DataError, match="columns are not those"):
        read_labels(tmp_path, "val", schema)


def test_a_flipped_bit_in_the_pages_never_gives_other_rows(tmp_path: Path) -> None:
    rows = make_rows(12)
    path = write_split(tmp_path, rows, 12) / "val-00000.parquet"
    content = path.read_bytes()
    # The footer, which Parquet protects by no checksum, may lie; it must not crash the reader.
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    refused = 0
    for place in range(len(content)):
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << place % 8
        path.write_bytes(spoiled)
        try:
            found = parquet.read_shard(path, ["f0", "f1", "f2"])
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        if place < footer:  # in what is not read, such as a page's statistics
            np.testing.assert_array_equal(found.ids, rows.ids)
            np.testing.assert_array_equal(found.labels, rows.labels)
    assert refused > 100


def test_a_cut_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_split(tmp_path, make_rows(12), 12) / "val-00000.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"val-00000.parquet: unreadable Parquet file"):
        Loader(tmp_path, "val", batch_size=4)


def test_what_cannot_be_found_is_named(tmp_path: Path) -> None:
    folder = write_split(tmp_path, make_rows(10), 10)
    with pytest.raises(DataError, match="unknown split 'valid'; known are train, val, test"):
        Loader(folder, "valid", batch_size=4)
    with pytest.raises(DataError, match="no parquet or tfrecord shard of split 'test' in"):
        Loader(folder, "test", batch_size=4)
    with pytest.raises(DataError, match="no tfrecord shard of split 'val' in"):
        Loader(folder, "val", batch_size=4, file_format="tfrecord")
    with pytest.raises(DataError, match="unknown format 'csv'; known are parquet, tfrecord"):
        Loader(folder, "val", batch_size=4, file_format="csv")
    with pytest.raises(DataError, match=r"schema.yaml does not exist"):
        Loader(tmp_path / "nowhere", "val", batch_size=4)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Loader(folder, "val", batch_size=0)


def test_batches_are_put_on_the_device(tmp_path: Path) -> None:
    folder = write_split(tmp_path, make_rows(30), 10)
    for batch in Loader(folder, "val", batch_size=4, device="meta"):
        assert (batch.ids.device.type, batch.labels.device.type) == ("meta", "meta")
    here = list(Loader(folder, "val", batch_size=4, device="cpu"))
    np.testing.assert_array_equal(joined(here)[0], make_rows(30).ids)


@pytest.mark.parametrize("num_rows", [1, 63, 64, 65, 200])
def test_an_id_outside_its_field_is_found_in_every_row(num_rows: int) -> None:
    schema = make_schema(SIZES, {"train": 0, "val": num_rows, "test": 0})
    good = make_rows(num_rows).ids
    schema.check_ids(good, "here")
    for row in range(num_rows):
        for column, wrong in ((0, -1), (0, 7), (1, 6), (1, 12), (2, 11), (2, 23)):
            ids = good.copy()
            ids[row, column] = wrong
            with pytest.raises(DataError, match=rf"id {wrong} is outside .*row {row}\)"):
                schema.check_ids(ids, "here")
