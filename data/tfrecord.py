"""Encoded rows in TFRecord files, byte for byte as the official code writes them.

A record is one tf.train.Example: `label` a FloatList of one, `feature` an Int64List of F global
ids. The messages are those of the PyPI package tfrecord; the frames around them are read and
written here because the package checks no CRC and does not fix the order of the two features.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from crc32c import crc32c
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tfrecord.example_pb2 import Example, Feature, Features, FloatList, Int64List

from data.schema import PREPARE_AGAIN, DataError, Rows

# A frame: length (8 bytes), its CRC (4 bytes), the payload, its CRC (4 bytes).
LENGTH_BYTES, CRC_BYTES = 8, 4
LONGEST_RECORD = 1 << 24


def write_shard(path: Path, field_names: Sequence[str], rows: Rows) -> None:
    """Write rows as one file. The format holds no names; a row has F ids."""
    labels = [_features("label", float_list=FloatList(value=[label])) for label in (0.0, 1.0)]
    with path.open("wb") as file:
        for label, ids in zip(rows.labels.tolist(), rows.ids.tolist(), strict=True):
            features = labels[label] + _features("feature", int64_list=Int64List(value=ids))
            file.write(_frame(_message(features)))


def read_shard(path: Path, field_names: Sequence[str]) -> Rows:
    """Read a whole file; raise `DataError` naming file and record if any of it is damaged."""
    labels, ids = array("B"), array("i")
    for number, example in _examples(path):
        labels.append(_label(example, path, number))
        row = example.features.feature["feature"].int64_list.value
        if len(row) != len(field_names):
            raise DataError(
                f"{path}, record {number}: `feature` is an Int64List of {len(row)} ids, but the "
                f"schema has {len(field_names)} fields; was schema.yaml made from other data?"
            )
        try:
            ids.extend(row)
        except OverflowError:
            raise DataError(
                f"{path}, record {number}: id {max(row, key=abs)} does not fit 32 bits; "
                f"was schema.yaml made from other data?"
            ) from None
    return Rows(
        np.frombuffer(ids, dtype=np.int32).reshape(-1, len(field_names)),
        np.frombuffer(labels, dtype=np.uint8),
    )


def read_labels(path: Path, field_names: Sequence[str]) -> np.ndarray:
    """Read the labels of a file, (rows,) uint8."""
    labels = (_label(example, path, number) for number, example in _examples(path))
    return np.fromiter(labels, dtype=np.uint8)


def count_rows(path: Path) -> int:
    """The number of rows; every record is visited, but not decoded."""
    return sum(1 for _ in _payloads(path))


def _examples(path: Path) -> Iterator[tuple[int, Example]]:
    """Number (from 0) and content of every record."""
    for number, payload in enumerate(_payloads(path)):
        try:
            example = Example.FromString(payload)
        except DecodeError as error:
            raise _damaged(path, number, f"not a tf.train.Example: {error}") from error
        yield number, example


def _label(example: Example, path: Path, number: int) -> int:
    value = list(example.features.feature["label"].float_list.value)
    if value not in ([0.0], [1.0]):
        raise DataError(
            f"{path}, record {number}: `label` is the FloatList {value}, expected [0.0] or [1.0]"
        )
    return int(value[0])


# ------------------------------------------------------------------ frames


def _payloads(path: Path) -> Iterator[bytes]:
    """The payload of every record, both of its CRCs checked."""
    number = 0
    with path.open("rb") as file:
        while header := file.read(LENGTH_BYTES + CRC_BYTES):
            length = header[:LENGTH_BYTES]
            if header[LENGTH_BYTES:] != _masked_crc(length):
                raise _damaged(path, number, "the CRC of its length does not match")
            (size,) = struct.unpack("<Q", length)
            if size > LONGEST_RECORD:
                raise _damaged(path, number, f"a length of {size} bytes")
            content = file.read(size + CRC_BYTES)
            payload = content[:size]
            if content[size:] != _masked_crc(payload):
                raise _damaged(path, number, "cut short or its CRC does not match")
            yield payload
            number += 1


def _damaged(path: Path, number: int, reason: str) -> DataError:
    return DataError(f"{path}, record {number}: {reason}; fetch the file again or {PREPARE_AGAIN}")


def _frame(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + _masked_crc(length) + payload + _masked_crc(payload)


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated = (crc >> 15 | crc << 17) + 0xA282EAD8
    return struct.pack("<I", rotated & 0xFFFFFFFF)


# ---------------------------------------------------------------- messages


def _features(name: str, **kind: FloatList | Int64List) -> bytes:
    """A map of one feature. Joining two such messages joins the maps, in a known order."""
    content: bytes = Features(feature={name: Feature(**kind)}).SerializeToString()
    return content


def _message(features: bytes) -> bytes:
    """The Example whose field 1 is the message `features`."""
    return b"\x0a" + _varint(len(features)) + features


def _varint(number: int) -> bytes:
    """Protobuf's integer: seven bits a byte, lowest first; all but the last have the high bit."""
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    content.append(number)
    return bytes(content)
