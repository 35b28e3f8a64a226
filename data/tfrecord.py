"""Encoded rows in TFRecord files, byte for byte as the official code writes them.

A record is one tf.train.Example: `label` a FloatList of one, `feature` an Int64List of F global
ids. The package tfrecord reads and writes such files too, but a record at a time, checking no
CRC, and leaving the order of the two features open. What is done here is: frames with both CRCs
checked, and records of the official shape decoded together. In that shape the length of a record
decides all bytes of it but the label and the ids, so records of one length are a matrix. Any
other record is left to the package's messages.

In this file n is a number of records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from crc32c import crc32c
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.lib.stride_tricks import sliding_window_view
from tfrecord.example_pb2 import Example, Feature, Features, FloatList, Int64List

from data.schema import PREPARE_AGAIN, DataError, Rows
from data.threads import map_ahead

# A frame: length (8 bytes), its CRC (4 bytes), the payload, its CRC (4 bytes).
LENGTH_BYTES, CRC_BYTES = 8, 4
HEADER_BYTES = LENGTH_BYTES + CRC_BYTES
LONGEST_RECORD = 1 << 24
BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 1 << 16
# A varint holds seven bits a byte; five bytes hold any id.
ID_BYTES = 5


class Block(NamedTuple):
    """Whole records, their CRCs checked. starts, lengths: (n,) of the payloads within `content`.

    first: the number of the first record in the file, from 0.
    """

    first: int
    content: bytes
    starts: np.ndarray
    lengths: np.ndarray


def write_shard(path: Path, field_names: Sequence[str], pieces: Iterable[Rows]) -> None:
    """Write the rows of one piece after another as one file.

    The format holds no names; a row has F ids, none negative.
    """
    with path.open("wb") as file:
        for rows in pieces:
            for start in range(0, len(rows.labels), BLOCK_ROWS):
                part = slice(start, start + BLOCK_ROWS)
                file.write(_encode(rows.ids[part], rows.labels[part]))


def read_shard(path: Path, field_names: Sequence[str]) -> Rows:
    """Read a whole file; raise `DataError` naming file and record if any of it is damaged."""
    num_fields = len(field_names)
    parts = list(map_ahead(lambda block: _decode(block, path, num_fields), _blocks(path)))
    if not parts:
        return Rows(np.empty((0, num_fields), dtype=np.int32), np.empty(0, dtype=np.uint8))
    ids, labels = zip(*parts, strict=True)
    return Rows(np.concatenate(ids), np.concatenate(labels))


def read_labels(path: Path, field_names: Sequence[str]) -> np.ndarray:
    """Read the labels of a file, (rows,) uint8."""
    return read_shard(path, field_names).labels


def count_rows(path: Path) -> int:
    """The number of rows; every record is visited, but not decoded."""
    return sum(len(block.starts) for block in _blocks(path))


# ---------------------------------------------------------------- decoding


def _decode(block: Block, path: Path, num_fields: int) -> Rows:
    """The rows of a block."""
    labels = np.empty(len(block.starts), dtype=np.uint8)
    ids = np.empty((len(block.starts), num_fields), dtype=np.int32)
    unusual = []
    content = np.frombuffer(block.content, dtype=np.uint8)
    for length in np.flatnonzero(np.bincount(block.lengths)).tolist():
        records = np.flatnonzero(block.lengths == length)
        prefix = _prefix(length)
        if prefix is None:
            unusual.append(records)
            continue
        payloads = sliding_window_view(content, length)[block.starts[records]]  # (n, length)
        size = prefix.shape[1]
        labelled = [_equal_rows(payloads[:, :size], known) for known in prefix]
        found, good = _decode_varints(payloads[:, size:], num_fields)
        good &= labelled[0] | labelled[1]
        ids[records[good]] = found[good]
        labels[records] = labelled[1]
        unusual.append(records[~good])
    for record in np.sort(np.concatenate(unusual)).tolist():
        start = block.starts[record]
        payload = block.content[start : start + block.lengths[record]]
        labels[record], ids[record] = _read_message(payload, path, block.first + record, num_fields)
    return Rows(ids, labels)


def _equal_rows(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of `rows` (n, bytes) uint8 are `known` (bytes,); eight bytes are compared at a time."""
    places = [*range(0, len(known) - 8, 8), len(known) - 8]
    words = np.stack([rows[:, at : at + 8] for at in places], axis=1).reshape(len(rows), -1)
    wanted = np.concatenate([known[at : at + 8] for at in places])
    equal: np.ndarray = (words.view(np.uint64) == wanted.view(np.uint64)).all(axis=1)
    return equal


def _decode_varints(packed: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (n, width) int64 of varints in the rows of `packed` (n, bytes) uint8, and which
    rows (n,) hold just that many, all of 31 bits at most; the numbers of others mean nothing.
    """
    num_rows, num_bytes = packed.shape
    good = np.ones(num_rows, dtype=bool)
    numbers = np.zeros((num_rows, width), dtype=np.int64)
    if num_bytes < width:
        return numbers, ~good
    flat = packed.ravel()
    ends = np.flatnonzero(flat < 0x80)  # the high bit says that a varint goes on
    row_ends = np.arange(num_bytes - 1, num_rows * num_bytes, num_bytes)
    if len(ends) != num_rows * width or (ends[width - 1 :: width] != row_ends).any():
        last = packed < 0x80
        good = (last.sum(axis=1) == width) & last[:, -1]
        if not good.any():
            return numbers, good
        flat = packed[good].ravel()
        ends = np.flatnonzero(flat < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    values = (flat.take(starts) & 0x7F).astype(np.int64)
    for place in range(1, min(int(lengths.max()), ID_BYTES)):
        longer = np.flatnonzero(lengths > place)
        more = (flat.take(starts.take(longer) + place) & 0x7F).astype(np.int64)
        values[longer] |= more << 7 * place
    fits = (lengths <= ID_BYTES) & (values < 1 << 31)
    numbers[good] = values.reshape(-1, width)
    good[good] = fits.reshape(-1, width).all(axis=1)
    return numbers, good


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


# ---------------------------------------------------------------- encoding


def _encode(ids: np.ndarray, labels: np.ndarray) -> bytes:
    """The frames of rows (n, F) with their labels (n,)."""
    if ids.min(initial=0) < 0:
        raise ValueError(f"id {ids.min()} is negative")
    packed, starts, lengths = _encode_varints(ids)
    known = {length: _empty_frame(length) for length in set(lengths.tolist())}
    ends = np.cumsum([known[length].shape[1] for length in lengths.tolist()])
    content = np.empty(ends[-1], dtype=np.uint8)
    for length, empty in known.items():
        rows = np.flatnonzero(lengths == length)
        size = empty.shape[1]
        frames = empty[labels[rows]]  # (n, size)
        body = slice(size - CRC_BYTES - length, size - CRC_BYTES)
        frames[:, body] = sliding_window_view(packed, length)[starts[rows]]
        payloads = memoryview(frames[:, HEADER_BYTES:-CRC_BYTES].tobytes())
        width = size - HEADER_BYTES - CRC_BYTES
        crcs = [crc32c(payloads[at : at + width]) for at in range(0, len(payloads), width)]
        frames[:, -CRC_BYTES:] = _mask(crcs).view(np.uint8).reshape(-1, CRC_BYTES)
        sliding_window_view(content, size, writeable=True)[ends[rows] - size] = frames
    return content.tobytes()


def _encode_varints(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The varints of all ids (n, F) end to end, uint8; where each row starts, and its bytes."""
    values = ids.ravel()
    sizes = np.ones(values.shape, dtype=np.int64)
    for place in range(1, ID_BYTES):
        sizes += values >= 1 << 7 * place
    ends = np.cumsum(sizes)
    starts = ends - sizes
    packed = np.empty(ends[-1], dtype=np.uint8)
    packed[starts] = (values & 0x7F) | (sizes > 1) << 7
    for place in range(1, int(sizes.max())):
        longer = np.flatnonzero(sizes > place)
        bits = values.take(longer) >> 7 * place & 0x7F
        packed[starts.take(longer) + place] = bits | (sizes.take(longer) > place + 1) << 7
    row_starts = starts.reshape(ids.shape)[:, 0]
    return packed, row_starts, ends.reshape(ids.shape)[:, -1] - row_starts


def _empty_frame(num_bytes: int) -> np.ndarray:
    """Frames (2, size) uint8 for the labels 0 and 1, without their ids and their last CRC."""
    prefix = _official_prefix(num_bytes)
    length = struct.pack("<Q", prefix.shape[1] + num_bytes)
    header = np.frombuffer(length + _masked_crc(length), dtype=np.uint8)
    rest = np.zeros((2, num_bytes + CRC_BYTES), dtype=np.uint8)
    return np.concatenate([np.stack([header, header]), prefix, rest], axis=1)


# ------------------------------------------------------------------ frames


def _blocks(path: Path) -> Iterator[Block]:
    """All records of a file, both CRCs of each checked."""
    headers: dict[bytes, int] = {}
    number, rest, size = 0, b"", BLOCK_BYTES
    with path.open("rb") as file:
        while read := file.read(size):
            content = rest + read
            block, used = _take_frames(content, path, number, headers)
            if len(block.starts):
                yield block
            number += len(block.starts)
            rest = content[used:]
    if rest:
        raise _damaged(path, number, "cut short or its CRC does not match")


def _take_frames(
    content: bytes, path: Path, first: int, headers: dict[bytes, int]
) -> tuple[Block, int]:
    """The whole records that `content` begins with, and how many bytes they take.

    headers: lengths by the bytes of length and CRC that were found to belong together.
    """
    starts: list[int] = []
    ends: list[int] = []
    crcs: list[int] = []
    at, size = 0, len(content)
    while at + HEADER_BYTES <= size:
        header = content[at : at + HEADER_BYTES]
        length = headers.get(header)
        if length is None:
            length = headers[header] = _read_header(header, path, first + len(starts))
        start = at + HEADER_BYTES
        end = start + length
        if end + CRC_BYTES > size:
            break
        crcs.append(crc32c(content[start:end]))
        starts.append(start)
        ends.append(end)
        at = end + CRC_BYTES
    begins = np.array(starts, dtype=np.int64)
    block = Block(first, content, begins, np.array(ends, dtype=np.int64) - begins)
    if len(ends):
        stored = sliding_window_view(np.frombuffer(content, np.uint8), CRC_BYTES)[ends]
        wrong = stored.view("<u4").ravel() != _mask(crcs)
        if wrong.any():
            number = first + int(np.argmax(wrong))
            raise _damaged(path, number, "its CRC does not match")
    return block, at


def _read_header(header: bytes, path: Path, number: int) -> int:
    length = header[:LENGTH_BYTES]
    if header[LENGTH_BYTES:] != _masked_crc(length):
        raise _damaged(path, number, "the CRC of its length does not match")
    (size,) = struct.unpack("<Q", length)
    if size > LONGEST_RECORD:
        raise _damaged(path, number, f"a length of {size} bytes")
    return int(size)


def _damaged(path: Path, number: int, reason: str) -> DataError:
    return DataError(f"{path}, record {number}: {reason}; fetch the file again or {PREPARE_AGAIN}")


def _frame(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + _masked_crc(length) + payload + _masked_crc(payload)


def _masked_crc(data: bytes) -> bytes:
    return _mask([crc32c(data)]).tobytes()


def _mask(crcs: Sequence[int]) -> np.ndarray:
    """CRCs (n,) as they are stored, little-endian uint32."""
    crc = np.array(crcs, dtype="<u4")
    masked: np.ndarray = (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)
    return masked


# ---------------------------------------------------------------- messages


@lru_cache(maxsize=1 << 12)
def _prefix(length: int) -> np.ndarray | None:
    """What precedes the ids in an official record of `length` bytes, None if there is none such."""
    # The prefix grows with what follows it, from some 40 bytes.
    for num_bytes in range(max(0, length - 64), length):
        prefix = _official_prefix(num_bytes)
        if prefix.shape[1] + num_bytes == length:
            return prefix
    return None


@lru_cache(maxsize=1 << 12)
def _official_prefix(num_bytes: int) -> np.ndarray:
    """What precedes ids of `num_bytes` bytes, (2, bytes) uint8: for the labels 0 and 1."""
    message = _tagged(0x0A, b"", num_bytes)  # Int64List.value, packed
    message = _tagged(0x1A, message, num_bytes)  # Feature.int64_list
    message = _tagged(0x12, message, num_bytes)  # the map's value
    message = b"\x0a\x07feature" + message  # the map's key
    message = _tagged(0x0A, message, num_bytes)  # Features.feature
    labels = [_features("label", float_list=FloatList(value=[label])) for label in (0.0, 1.0)]
    prefixes = [_tagged(0x0A, label + message, num_bytes) for label in labels]
    return np.stack([np.frombuffer(prefix, dtype=np.uint8) for prefix in prefixes])


def _tagged(tag: int, content: bytes, more: int) -> bytes:
    """The beginning of a protobuf field that is `content` and `more` bytes after it."""
    return bytes([tag]) + _varint(len(content) + more) + content


def _features(name: str, **kind: FloatList | Int64List) -> bytes:
    """A map of one feature. Joining two such messages joins the maps, in a known order."""
    content: bytes = Features(feature={name: Feature(**kind)}).SerializeToString()
    return content


def _varint(number: int) -> bytes:
    """Protobuf's integer: seven bits a byte, lowest first; all but the last have the high bit."""
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    content.append(number)
    return bytes(content)
