"""TFRecord files: the official bytes, read and written, and never a wrong number."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tfrecord as package
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


def frame(payload: bytes, length: int | None = None) -> bytes:
    """A payload as the package frames it, said to be of a length."""
    size = struct.pack("<Q", len(payload) if length is None else length)
    masked_crc = package.TFRecordWriter.masked_crc
    return b"".join([size, masked_crc(size), payload, masked_crc(payload)])


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


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs ../shared/data")
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


@pytest.mark.parametrize("length", [(1 << 24) + 1, 1 << 60, 1 << 63, (1 << 64) - 1])
def test_an_absurd_length_is_refused_before_it_is_read(path: Path, length: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content + frame(b"\0" * 64, length))
    with pytest.raises(DataError, match=f"record 4: a length of {length} bytes"):
        tfrecord.read_shard(path, FIELDS)


def test_payloads_of_any_length_have_the_crc_of_the_package(path: Path) -> None:
    payloads = [np.random.default_rng(size).bytes(size) for size in range(50)]
    path.write_bytes(b"".join(map(frame, payloads)))
    (block,) = tfrecord._blocks(path)
    assert [bytes(block.content[start:end]) for start, end in block.bounds] == payloads


GOOD = {"label": ([1.0], "float"), "feature": ([1, 2, 3], "int")}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"feature": ([1, 2], "int")}, "Int64List of 2 ids, but the schema has 3 fields"),
        ({"feature": ([1.0, 2.0, 3.0], "float")}, "Int64List of 0 ids"),
        ({"feature": ([1, -(2**40), 3], "int")}, f"id {-(2**40)} does not fit 32 bits"),
        ({"label": ([0.5], "float")}, "`label` is the FloatList [0.5]"),
        ({"label": ([-1.0], "float")}, "`label` is the FloatList [-1.0]"),
        ({"label": ([1.0078125], "float")}, "`label` is the FloatList [1.0078125]"),
        ({"label": ([1 + 2**-23], "float")}, "`label` is the FloatList [1.00000011"),
        ({"label": ([2**-149], "float")}, "`label` is the FloatList [1.4012984"),
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


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [(b"\x0a\x7f", "not a tf.train.Example"), (b"", r"`label` is the FloatList \[\]")],
)
def test_a_payload_that_is_no_example_is_refused(
    path: Path, payload: bytes, complaint: str
) -> None:
    path.write_bytes(frame(payload))
    with pytest.raises(DataError, match=f"record 0.* {complaint}"):
        tfrecord.read_shard(path, FIELDS)


def assert_read_as_messages(path: Path, payload: bytes) -> None:
    """The fast way must agree with protobuf."""
    path.write_bytes(frame(payload))
    try:
        label, ids = tfrecord._read_message(payload, path, 0, 3)
    except DataError as error:
        with pytest.raises(DataError) as raised:
            tfrecord.read_shard(path, FIELDS)
        assert str(raised.value) == str(error)
    else:
        found = tfrecord.read_shard(path, FIELDS)
        assert (found.labels.tolist(), found.ids.tolist()) == ([label], [ids.tolist()])


@pytest.mark.parametrize(
    "varint",
    [
        b"\x7f",
        b"\xff\x7f",
        b"\xff\xff\x7f",
        b"\xff\xff\xff\x7f",
        b"\xff\xff\xff\xff\x07",  # 2^31 - 1
        b"\x80\x80\x80\x80\x08",  # 2^31
        b"\xff\xff\xff\xff\x7f",  # 2^35 - 1
        b"\x80\x80\x80\x80\x80\x01",  # 2^35
        b"\x80\x00",  # 0, and 1 below, in more bytes than they need
        b"\x81\x80\x00",
        b"\x81\x80\x80\x80\x00",
        b"\x81\x80\x80\x80\x80\x00",
        b"\x81" + b"\x80" * 8 + b"\x00",
        b"\xff" * 9 + b"\x01",  # -1
        b"\x80\x80\x80\x80\xf8\xff\xff\xff\xff\x01",  # -2^31
        b"\xff\xff\xff\xff\xf7\xff\xff\xff\xff\x01",  # -2^31 - 1
        b"\x80",  # without an end
        b"\x80\x80\x80\x80\x80",
        b"\xff" * 11,
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_any_varint_is_read_as_the_messages_of_the_package_read_it(
    path: Path, varint: bytes, place: int
) -> None:
    packed = [b"\x01", b"\x02", b"\x03"]
    packed[place] = varint
    ids = b"".join(packed)
    label = bytes.fromhex("0a11 0a05") + b"label" + bytes.fromhex("1208 1206 0a04 0000803f")
    feature = bytes([*b"\x0a\x07feature\x12", len(ids) + 4, 0x1A, len(ids) + 2, 0x0A, len(ids)])
    content = label + bytes([0x0A, len(feature + ids)]) + feature + ids
    payload = bytes([0x0A, len(content)]) + content
    assert_read_as_messages(path, payload)
    assert_read_as_messages(path, payload + b"\x01")
    assert_read_as_messages(path, payload[:-1])


def test_a_payload_with_another_byte_is_not_taken_for_official_unless_it_means_the_same(
    path: Path,
) -> None:
    """Every byte of one record, in every other way: some are other ids, most are not official."""
    payload = path.read_bytes()[12:][: struct.unpack_from("<Q", path.read_bytes())[0]]
    spoiled = np.tile(np.frombuffer(payload, np.uint8), (256 * len(payload), 1))
    places = np.repeat(np.arange(len(payload)), 256)
    spoiled[np.arange(len(spoiled)), places] = np.tile(np.arange(256), len(payload))
    # What follows a payload, its CRC, must not be taken for a part of it.
    content = np.pad(spoiled, ((0, 0), (0, 4)), constant_values=0x01)
    starts = np.arange(len(content)) * content.shape[1]
    bounds = np.stack([starts, starts + len(payload)], axis=1)
    ids = np.empty((len(content), 3), dtype=np.int32)
    labels = np.empty(len(content), dtype=np.uint8)
    tfrecord._decode(content.ravel(), bounds, ids, labels)
    official = labels != tfrecord.UNUSUAL
    assert official[(spoiled == np.frombuffer(payload, np.uint8)).all(axis=1)].all()
    assert not official.all()
    for row in np.flatnonzero(official):
        label, expected = tfrecord._read_message(spoiled[row].tobytes(), path, 0, 3)
        assert (labels[row], ids[row].tolist()) == (label, expected.tolist())


def test_rows_in_any_order_of_memory_and_in_many_blocks_are_the_same_bytes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = path.read_bytes()
    tfrecord.write_shard(path, FIELDS, [Rows(np.asfortranarray(ROWS.ids), ROWS.labels)])
    assert path.read_bytes() == expected
    monkeypatch.setattr(tfrecord, "BLOCK_BYTES", 1)
    pieces = [Rows(ROWS.ids[part], ROWS.labels[part]) for part in (slice(0, 3), slice(3, 4))]
    tfrecord.write_shard(path, FIELDS, pieces)
    assert path.read_bytes() == expected


@pytest.mark.parametrize(
    ("ids", "labels", "complaint"),
    [
        ([[1, 2, -3]], [1], "id -3 is negative"),
        ([[1, 2, 3]], [2], "label 2 is neither 0 nor 1"),
        ([[1, 2]], [1], r"ids \(1, 2\) of 1 labels and 3 fields"),
        ([[1, 2, 3]], [1, 0], r"ids \(1, 3\) of 2 labels and 3 fields"),
    ],
)
def test_rows_that_the_file_cannot_hold_are_refused(
    path: Path, ids: list[list[int]], labels: list[int], complaint: str
) -> None:
    rows = Rows(np.array(ids, dtype=np.int32), np.array(labels, dtype=np.uint8))
    with pytest.raises(ValueError, match=complaint):
        tfrecord.write_shard(path, FIELDS, [rows])


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
    """Frames are intact, payloads are not."""
    path = tmp_path_factory.mktemp("records") / "file"
    tfrecord.write_shard(path, FIELDS, [Rows(rows.ids[:1], rows.labels[:1])])
    payload = bytearray(path.read_bytes()[12:-4])
    for _ in range(data.draw(st.integers(0, 2))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert_read_as_messages(path, bytes(payload))


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
