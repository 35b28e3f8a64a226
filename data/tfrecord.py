"""Encoded rows in TFRecord files, byte for byte as the official code writes them.

A record is one tf.train.Example: `label` a FloatList of one, `feature` an Int64List of F global
ids. The package tfrecord reads and writes such files too, but a record at a time, checking no
CRC, and leaving the order of the two features open. Here compiled loops check both CRCs of every
record, and read and write records of the official shape. Any other record is left to the
package's messages.

In this file n is a number of records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numba import types
from tfrecord.example_pb2 import Example

from data.compiled import BYTES, compiled, inlined, load_word
from data.schema import PREPARE_AGAIN, DataError, Rows
from data.threads import map_ahead

# A frame: length (8 bytes), its CRC (4 bytes), the payload, its CRC (4 bytes).
LENGTH_BYTES, CRC_BYTES = 8, 4
HEADER_BYTES = LENGTH_BYTES + CRC_BYTES
FRAME_BYTES = HEADER_BYTES + CRC_BYTES
LONGEST_RECORD = 1 << 24
BLOCK_BYTES = 1 << 20
# What may be wrong with a frame, and what is said of it.
NO_FAULT, BAD_LENGTH, TOO_LONG, BAD_PAYLOAD = range(4)
FAULTS = {
    BAD_LENGTH: "the CRC of its length does not match",
    TOO_LONG: "a length of {} bytes",
    BAD_PAYLOAD: "its CRC does not match",
}

# What precedes the ids in an official record, byte for byte, but for the lengths that count all
# bytes to the end of the record (REST) and the upper half of the label as a float32 (LABEL).
# https://protobuf.dev/programming-guides/encoding
REST, LABEL = -1, -2
PREFIX = np.array(
    [
        *(0x0A, REST),  # Example.features
        *(0x0A, 17, 0x0A, 5, *b"label"),  # an entry of Features.feature: its key
        *(0x12, 8, 0x12, 6, 0x0A, 4, 0, 0, LABEL),  # its value: Feature.float_list, of one
        *(0x0A, REST, 0x0A, 7, *b"feature"),  # the other entry: its key
        *(0x12, REST, 0x1A, REST, 0x0A, REST),  # its value: Feature.int64_list, packed
    ],
    dtype=np.int16,
)
# The upper half of 1.0; that of 0.0 is 0.
ONE = 0x3F80
# What stands in the place of a label where a record has another shape.
UNUSUAL = 2
# What takes more bytes, or is as large, is no id and no length of an official record.
VARINT_BYTES = 5
TOO_LARGE = 1 << 31
# Of CRC-32C, its bits reversed: RFC 3720, appendix B.4.
POLYNOMIAL = np.uint32(0x82F63B78)
# What `_encode` only reads; a piece of rows may be cut out of another order.
IDS = types.Array(types.int32, 2, "A", readonly=True)
LABELS = types.Array(types.uint8, 1, "A", readonly=True)


class Block(NamedTuple):
    """Whole records, their CRCs checked. bounds: (n, 2) int64, of the payloads in `content`.

    first: the number of the first record in the file, from 0. content: (bytes,) uint8.
    """

    first: int
    content: np.ndarray
    bounds: np.ndarray


def write_shard(path: Path, field_names: Sequence[str], pieces: Iterable[Rows]) -> None:
    """Write the rows of one piece after another as one file.

    The format holds no names; a row has F ids, none negative.
    """
    num_fields = len(field_names)
    longest = FRAME_BYTES + (len(PREFIX) + num_fields) * VARINT_BYTES
    block_rows = max(1, BLOCK_BYTES // longest)
    frames = np.empty(block_rows * longest, dtype=np.uint8)
    with path.open("wb") as file:
        for ids, labels in pieces:
            if ids.shape != (len(labels), num_fields):
                raise ValueError(f"ids {ids.shape} of {len(labels)} labels and {num_fields} fields")
            if ids.min(initial=0) < 0:
                raise ValueError(f"id {ids.min()} is negative")
            if labels.max(initial=0) > 1:
                raise ValueError(f"label {labels.max()} is neither 0 nor 1")
            for start in range(0, len(labels), block_rows):
                part = slice(start, start + block_rows)
                file.write(frames[_encode(ids[part], labels[part], frames) :].data)


def read_shard(path: Path, field_names: Sequence[str]) -> Rows:
    """Read a whole file; raise `DataError` naming file and record if any of it is damaged."""
    num_fields = len(field_names)
    parts = list(map_ahead(lambda block: _read_block(block, path, num_fields), _blocks(path)))
    if not parts:
        return Rows(np.empty((0, num_fields), dtype=np.int32), np.empty(0, dtype=np.uint8))
    ids, labels = zip(*parts, strict=True)
    return Rows(np.concatenate(ids), np.concatenate(labels))


def read_labels(path: Path, field_names: Sequence[str]) -> np.ndarray:
    """Read the labels of a file, (rows,) uint8."""
    return read_shard(path, field_names).labels


def count_rows(path: Path) -> int:
    """The number of rows; every record is visited, but not decoded."""
    return sum(len(block.bounds) for block in _blocks(path))


def _blocks(path: Path) -> Iterator[Block]:
    """All records of a file, both CRCs of each checked."""
    number, rest = 0, b""
    with path.open("rb") as file:
        while read := file.read(BLOCK_BYTES):
            content = np.frombuffer(rest + read, dtype=np.uint8)
            bounds = np.empty((len(content) // FRAME_BYTES, 2), dtype=np.int64)
            found, used, fault = _walk(content, bounds)
            if found:
                yield Block(number, content, bounds[:found])
            number += found
            rest = content[used:].tobytes()
            if fault != NO_FAULT:
                length = int.from_bytes(rest[:LENGTH_BYTES], "little")
                raise _damaged(path, number, FAULTS[fault].format(length))
    if rest:
        raise _damaged(path, number, "cut short or its CRC does not match")


def _damaged(path: Path, number: int, reason: str) -> DataError:
    return DataError(f"{path}, record {number}: {reason}; fetch the file again or {PREPARE_AGAIN}")


def _read_block(block: Block, path: Path, num_fields: int) -> Rows:
    """The rows of a block."""
    labels = np.empty(len(block.bounds), dtype=np.uint8)
    ids = np.empty((len(block.bounds), num_fields), dtype=np.int32)
    _decode(block.content, block.bounds, ids, labels)
    for record in np.flatnonzero(labels == UNUSUAL).tolist():
        payload = block.content[slice(*block.bounds[record])].tobytes()
        labels[record], ids[record] = _read_message(payload, path, block.first + record, num_fields)
    return Rows(ids, labels)


def _read_message(
    payload: bytes, path: Path, number: int, num_fields: int
) -> tuple[int, np.ndarray]:
    """Label and ids (F,) int32 of any tf.train.Example."""
    try:
        example = Example.FromString(payload)
    except DecodeError as error:
        raise _damaged(path, number, f"not a tf.train.Example: {error}") from error
    label = _label(example, path, number)
    row = list(example.features.feature["feature"].int64_list.value)
    if len(row) != num_fields:
        raise DataError(
            f"{path}, record {number}: `feature` is an Int64List of {len(row)} ids, but the "
            f"schema has {num_fields} fields; was schema.yaml made from other data?"
        )
    if max(row) >= 1 << 31 or min(row) < -1 << 31:
        raise DataError(
            f"{path}, record {number}: id {max(row, key=abs)} does not fit 32 bits; "
            f"was schema.yaml made from other data?"
        )
    return label, np.array(row, dtype=np.int32)


def _label(example: Example, path: Path, number: int) -> int:
    value = list(example.features.feature["label"].float_list.value)
    if value not in ([0.0], [1.0]):
        raise DataError(
            f"{path}, record {number}: `label` is the FloatList {value}, expected [0.0] or [1.0]"
        )
    return int(value[0])


# ---------------------------------------------------------------- compiled loops


def _crc_tables() -> np.ndarray:
    """(8, 256) uint32: what a byte does to a CRC-32C that 0 to 7 more bytes follow."""
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ table % 2 * POLYNOMIAL
    tables = [table]
    for _ in range(7):
        tables.append(tables[-1] >> 8 ^ table[tables[-1] & 0xFF])
    return np.stack(tables)


CRC_TABLES = _crc_tables()


@inlined
def _get(content: np.ndarray, at: int, size: int) -> int:
    """The little-endian number of `size` bytes at a place."""
    number = 0
    for index in range(size):
        number |= content[at + index] << 8 * index
    return number


@inlined
def _put(content: np.ndarray, at: int, size: int, number: int) -> None:
    """Write a number as `_get` reads it."""
    for index in range(size):
        content[at + index] = number >> 8 * index & 0xFF


@inlined
def _get_varint(content: np.ndarray, at: int) -> tuple[int, int]:
    """Protobuf's integer at a place, and the place behind it; TOO_LARGE if VARINT_BYTES end first.

    Seven bits a byte, lowest first; all but the last byte have the high bit.
    """
    number = 0
    for place in range(VARINT_BYTES):
        byte = content[at + place]
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    return TOO_LARGE, at + VARINT_BYTES


@inlined
def _put_varint(content: np.ndarray, end: int, number: int) -> int:
    """Write a number as `_get_varint` reads it, up to a place; return where it begins."""
    start = end - 1
    while number >> 7 * (end - start):
        start -= 1
    for place in range(start, end - 1):
        content[place] = number & 0x7F | 0x80
        number >>= 7
    content[end - 1] = number
    return start


@inlined
def _crc(content: np.ndarray, start: int, end: int) -> int:
    """The CRC-32C of bytes, masked as frames have it.

    Eight bytes at a time: Kounavis and Berry 2005, "A systematic approach to building high
    performance software-based CRC generators". The mask is that of
    https://www.tensorflow.org/tutorials/load_data/tfrecord
    """
    address = np.intp(content.ctypes.data)
    whole = start + (end - start) // 8 * 8
    crc: Any = np.uint64(0xFFFFFFFF)
    for place in range(start, whole, 8):
        word = load_word(address + place) ^ crc
        crc = np.uint64(0)
        for byte in range(8):
            crc ^= CRC_TABLES[7 - byte, word >> np.uint64(8 * byte) & np.uint64(0xFF)]
    for place in range(whole, end):
        low = (crc ^ content[place]) & np.uint64(0xFF)
        crc = crc >> np.uint64(8) ^ CRC_TABLES[0, low]
    crc = np.int64(crc ^ np.uint64(0xFFFFFFFF))
    masked: int = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return masked


@compiled(BYTES, types.int64[:, ::1])
def _walk(content: np.ndarray, bounds: np.ndarray) -> tuple[int, int, int]:
    """Fill the bounds of the whole records that `content` begins with.

    Returns how many there are, how many bytes they take, and the fault of the next.
    """
    found = at = 0
    while at + HEADER_BYTES <= len(content):
        start = at + HEADER_BYTES
        if _crc(content, at, at + LENGTH_BYTES) != _get(content, at + LENGTH_BYTES, CRC_BYTES):
            return found, at, BAD_LENGTH
        length = _get(content, at, LENGTH_BYTES)
        if not 0 <= length <= LONGEST_RECORD:
            return found, at, TOO_LONG
        end = start + length
        if end + CRC_BYTES > len(content):
            break
        if _crc(content, start, end) != _get(content, end, CRC_BYTES):
            return found, at, BAD_PAYLOAD
        bounds[found, 0], bounds[found, 1] = start, end
        found += 1
        at = end + CRC_BYTES
    return found, at, NO_FAULT


@inlined
def _match_prefix(content: np.ndarray, at: int, end: int) -> tuple[int, int]:
    """The label of a record and where its ids begin; UNUSUAL if PREFIX does not precede them."""
    label = UNUSUAL
    for part in PREFIX:
        if at >= end:
            return UNUSUAL, end
        if part == REST:
            rest, at = _get_varint(content, at)
            matches = at + rest == end
        elif part == LABEL:
            half = _get(content, at, 2)
            label = 1 if half == ONE else 0
            matches = half == ONE or half == 0
            at += 2
        else:
            matches = content[at] == part
            at += 1
        if not matches:
            return UNUSUAL, end
    return label, at


@compiled(BYTES, types.int64[:, ::1], types.int32[:, ::1], types.uint8[::1])
def _decode(content: np.ndarray, bounds: np.ndarray, ids: np.ndarray, labels: np.ndarray) -> None:
    """Fill ids (n, F) and labels (n,); of a record without the official shape the label is UNUSUAL.

    No byte is read beyond the CRC that follows a record.
    """
    num_fields = ids.shape[1]
    for record in range(len(bounds)):
        end = bounds[record, 1]
        label, at = _match_prefix(content, bounds[record, 0], end)
        field = 0
        while at < end and field < num_fields:
            number, at = _get_varint(content, at)
            if number >= TOO_LARGE:
                break
            ids[record, field] = number
            field += 1
        labels[record] = label if at == end and field == num_fields else UNUSUAL


@compiled(IDS, LABELS, types.uint8[::1])
def _encode(ids: np.ndarray, labels: np.ndarray, frames: np.ndarray) -> int:
    """Fill the end of `frames` with those of rows (n, F) and labels (n,); return where they begin.

    From the last byte to the first, so that what a length counts is there before it.
    """
    at = len(frames)
    for row in range(len(ids) - 1, -1, -1):
        at -= CRC_BYTES
        end = at
        for field in range(ids.shape[1] - 1, -1, -1):
            at = _put_varint(frames, at, ids[row, field])
        for part in PREFIX[::-1]:
            if part == REST:
                at = _put_varint(frames, at, end - at)
            elif part == LABEL:
                at -= 2
                _put(frames, at, 2, ONE * labels[row])
            else:
                at -= 1
                frames[at] = part
        _put(frames, end, CRC_BYTES, _crc(frames, at, end))
        length = end - at
        at -= HEADER_BYTES
        _put(frames, at, LENGTH_BYTES, length)
        crc = _crc(frames, at, at + LENGTH_BYTES)
        _put(frames, at + LENGTH_BYTES, CRC_BYTES, crc)
    return at
