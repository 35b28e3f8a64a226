"""TFRecord files: the official bytes, read and written, and never a wrong number."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tfrecord as package
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from data import tfrecord
from data.schema import DataError, Rows

OFFICIAL = Path(__file__).parents[2] / "shared/data/official_avazu_records"
FIELDS = ("hour", "C1", "site_id")
ROWS = Rows(
    ids=np.array([[0, 24, 300], [5, 25, 2**31 - 1], [127, 128, 16384], [1, 1, 1]], dtype=np.int32),
    labels=np.array([0, 1, 1, 0], dtype=np.uint8),
)


def assert_same(found: Rows, expected: Rows) -> None:
    assert found.ids.dtype == np.int32
    assert found.labels.dtype == np.uint8
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.labels, expected.labels)


def write_with_package(path: Path, *records: dict[str, tuple[object, str]]) -> None:
    writer = package.TFRecordWriter(str(path))
    for record in records:
        writer.write(record)
    writer.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of four records."""
    path = tmp_path / "train-00000.tfrecord"
    tfrecord.write_shard(path, FIELDS, [ROWS])
    return path


def test_rows_survive_the_file(path: Path) -> None:
    assert_same(tfrecord.read_shard(path, FIELDS), ROWS)
    np.testing.assert_array_equal(tfrecord.read_labels(path, FIELDS), ROWS.labels)
    assert tfrecord.count_rows(path) == 4


def test_a_file_without_rows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train_0001.tfrecord"
    path.write_bytes(b"")
    assert tfrecord.read_shard(path, FIELDS).ids.shape == (0, 3)
    assert tfrecord.read_labels(path, FIELDS).shape == (0,)


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs ../shared/data of the workplace")
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_official_files_are_written_byte_for_byte(tmp_path: Path, split: str) -> None:
    official = OFFICIAL / f"{split}_0000.tfrecord"
    names = [f"field {number}" for number in range(24)]
    tfrecord.write_shard(tmp_path / "ours", names, [tfrecord.read_shard(official, names)])
    assert (tmp_path / "ours").read_bytes() == official.read_bytes()


@pytest.mark.parametrize("num_fields", [1, 24, 39, 6000])
def test_the_package_reads_our_files(tmp_path: Path, num_fields: int) -> None:
    # Ids of one to five bytes, records whose lengths take one to three.
    numbers = np.arange(2 * num_fields).reshape(2, num_fields)
    rows = Rows(((numbers * 1_234_567) % 2**31).astype(np.int32), np.array([1, 0], dtype=np.uint8))
    path = tmp_path / "ours"
    tfrecord.write_shard(path, ["field"] * num_fields, [rows])
    description = {"label": "float", "feature": "int"}
    records = [dict(record) for record in package.tfrecord_loader(str(path), None, description)]
    np.testing.assert_array_equal([record["feature"] for record in records], rows.ids)
    np.testing.assert_array_equal([record["label"] for record in records], rows.labels[:, None])
    assert_same(tfrecord.read_shard(path, ["field"] * num_fields), rows)


def test_files_of_the_package_are_read(tmp_path: Path) -> None:
    records = [
        {"feature": (ids.tolist(), "int"), "label": (float(label), "float")}
        for ids, label in zip(ROWS.ids, ROWS.labels, strict=True)
    ]
    write_with_package(tmp_path / "theirs", *records)
    assert_same(tfrecord.read_shard(tmp_path / "theirs", FIELDS), ROWS)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_noticed(path: Path, flip: int) -> None:
    content = path.read_bytes()
    for place in range(len(content)):
        spoiled = bytearray(content)
        spoiled[place] ^= flip
        path.write_bytes(spoiled)
        with pytest.raises(DataError, match=r"train-00000.tfrecord, record [0-3]: .*CRC"):
            tfrecord.read_shard(path, FIELDS)


def test_every_cut_within_a_record_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    ends = {0}  # where a cut leaves whole records
    while max(ends) < len(content):
        (size,) = struct.unpack_from("<Q", content, max(ends))
        ends.add(max(ends) + 12 + size + 4)
    for length in set(range(len(content))) - ends:
        path.write_bytes(content[:length])
        record = sum(end <= length for end in ends) - 1
        with pytest.raises(DataError, match=f"record {record}:"):
            tfrecord.read_shard(path, FIELDS)
        with pytest.raises(DataError, match=f"record {record}:"):
            tfrecord.count_rows(path)


def test_an_absurd_length_is_refused_before_it_is_read(path: Path) -> None:
    length = struct.pack("<Q", 1 << 60)
    crc = crc32c(length)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    path.write_bytes(length + struct.pack("<I", masked) + b"\0" * 64)
    with pytest.raises(DataError, match=f"record 0: a length of {1 << 60} bytes"):
        tfrecord.read_shard(path, FIELDS)


GOOD = {"label": ([1.0], "float"), "feature": ([1, 2, 3], "int")}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"feature": ([1, 2], "int")}, "Int64List of 2 ids, but the schema has 3 fields"),
        ({"feature": ([1.0, 2.0, 3.0], "float")}, "Int64List of 0 ids"),
        ({"feature": ([1, -(2**40), 3], "int")}, f"id {-(2**40)} does not fit 32 bits"),
        ({"label": ([0.5], "float")}, "`label` is the FloatList [0.5]"),
        ({"label": ([float("nan")], "float")}, "`label` is the FloatList [nan]"),
        ({"label": ([1.0, 0.0], "float")}, "`label` is the FloatList [1.0, 0.0]"),
        ({"label": ([1], "int")}, "`label` is the FloatList []"),
        ({"label": None}, "`label` is the FloatList []"),
        ({"feature": None}, "Int64List of 0 ids"),
    ],
)
def test_a_record_of_another_shape_is_refused(
    tmp_path: Path, change: dict[str, tuple[object, str] | None], complaint: str
) -> None:
    record = {name: value for name, value in (GOOD | change).items() if value is not None}
    path = tmp_path / "records"
    write_with_package(path, GOOD, record)
    with pytest.raises(DataError) as raised:
        tfrecord.read_shard(path, FIELDS)
    assert f"{path}, record 1: " in str(raised.value)
    assert complaint in str(raised.value)


def test_a_payload_that_is_no_example_is_refused(path: Path) -> None:
    path.write_bytes(tfrecord._frame(b"\x0a\x7f"))
    with pytest.raises(DataError, match=r"record 0: not a tf.train.Example"):
        tfrecord.read_shard(path, FIELDS)


# ---------------------------------------------------------------- at random

IDS = st.integers(0, 2**31 - 1) | st.integers(0, 300)


@st.composite
def some_rows(draw: st.DrawFn) -> Rows:
    ids = draw(st.lists(st.lists(IDS, min_size=3, max_size=3), min_size=1, max_size=6))
    labels = draw(st.lists(st.integers(0, 1), min_size=len(ids), max_size=len(ids)))
    return Rows(np.array(ids, dtype=np.int32), np.array(labels, dtype=np.uint8))


@settings(max_examples=150, deadline=None)
@given(rows=some_rows(), data=st.data())
def test_flips_and_cuts_never_give_another_number(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("records") / "file"
    tfrecord.write_shard(path, FIELDS, [rows])
    assert_same(tfrecord.read_shard(path, FIELDS), rows)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + 20)))
    del content[start:stop]
    path.write_bytes(content)
    try:
        found = tfrecord.read_shard(path, FIELDS)
    except DataError as error:
        assert f"{path}, record " in str(error)
        return
    # What is left is whole records of before.
    before = list(zip(rows.ids.tolist(), rows.labels.tolist(), strict=True))
    for ids, label in zip(found.ids.tolist(), found.labels.tolist(), strict=True):
        assert before
        while before.pop(0) != (ids, label):
            assert before


@settings(max_examples=300, deadline=None)
@given(rows=some_rows(), data=st.data())
def test_any_payload_is_read_as_the_messages_of_the_package_read_it(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, data: st.DataObject
) -> None:
    """Frames are intact, payloads are not: the fast way must agree with protobuf."""
    path = tmp_path_factory.mktemp("records") / "file"
    tfrecord.write_shard(path, FIELDS, [Rows(rows.ids[:1], rows.labels[:1])])
    payload = bytearray(path.read_bytes()[12:-4])
    for _ in range(data.draw(st.integers(0, 2))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(tfrecord._frame(bytes(payload)))
    try:
        label, ids = tfrecord._read_message(bytes(payload), path, 0, 3)
    except DataError as error:
        with pytest.raises(DataError) as raised:
            tfrecord.read_shard(path, FIELDS)
        assert str(raised.value) == str(error)
    else:
        found = tfrecord.read_shard(path, FIELDS)
        assert (found.labels.tolist(), found.ids.tolist()) == ([label], [ids.tolist()])


def test_records_of_another_shape_among_official_ones_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "mixed"
    tfrecord.write_shard(path, FIELDS, [ROWS])
    official = path.read_bytes()
    # The package writes the features in the order that they are given in.
    write_with_package(path, {"feature": ([9, 8, 7], "int"), "label": ([1.0], "float")})
    path.write_bytes(official + path.read_bytes() + official)
    found = tfrecord.read_shard(path, FIELDS)
    np.testing.assert_array_equal(found.ids, [*ROWS.ids, [9, 8, 7], *ROWS.ids])
    np.testing.assert_array_equal(found.labels, [*ROWS.labels, 1, *ROWS.labels])


@pytest.mark.parametrize("block_bytes", [1, 7, 100, 1 << 20])
def test_blocks_may_end_anywhere(
    path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(tfrecord, "BLOCK_BYTES", block_bytes)
    assert_same(tfrecord.read_shard(path, FIELDS), ROWS)
    assert tfrecord.count_rows(path) == 4
