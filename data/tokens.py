"""Texts as codes: compiled loops that visit every byte of a log once.

`split_lines` finds the columns of a block of lines. An `Interner` gives each distinct text of one
column a code, and counts it: a hash table with one slot of 16 bytes a text, so that a short text,
such as a number or a hashed id, is found by reading one line of the cache beside its count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from data.spill import narrowest

# The longest text that is its own key; that of a longer one is a hash.
WORD = 8
NEWLINE = ord("\n")
# Bytes that are compared at once while lines are split.
MARKED = 64
# Of a word, the bytes that belong to a text of each length.
MASKS = np.array([(1 << 8 * length) - 1 for length in range(WORD + 1)], dtype=np.uint64)
# Odd numbers whose products spread over all bits (from splitmix64).
MIX = np.uint64(0xBF58476D1CE4E5B9)
MIX_LENGTH = np.uint64(0x94D049BB133111EB)
CODE_BITS = np.uint64(32)
CODE_MASK = np.uint64((1 << 32) - 1)
# Rows whose texts and bounds stay in the caches while one column after another is looked up.
TILE_ROWS = 256
# What a compiled loop needs to know of a column and its Interner: numbers, and addresses of arrays.
TABLE = np.dtype(
    [
        (name, np.intp)
        for name in ("first", "size", "mask", "slots", "counts", "ends", "text", "codes")
    ]
)
# What a compiled loop only reads.
BYTES = types.Array(types.uint8, 1, "C", readonly=True)
BOUNDS = types.Array(types.int32, 1, "C", readonly=True)


class Texts(NamedTuple):
    """One text a row: the bytes bounds[i] + gap to bounds[i + 1], for i = first + step * row.

    block: (bytes,) uint8, valid UTF-8. bounds: int32.
    """

    block: np.ndarray
    bounds: np.ndarray
    first: int
    step: int
    gap: int
    rows: int

    @classmethod
    def of_arrow(cls, array: pa.Array) -> Texts:
        """The texts of an Arrow array that can be cast to strings; null is the empty text."""
        texts = array.cast(pa.string()).fill_null("")
        _, bounds, block = texts.buffers()
        return cls(
            np.frombuffer(block or b"", np.uint8),
            np.frombuffer(bounds, np.int32),
            texts.offset,
            1,
            0,
            len(texts),
        )


class Lines(NamedTuple):
    """A block of lines, split at every separator and line end: bounds (1 + rows * columns,)."""

    block: np.ndarray
    bounds: np.ndarray
    num_columns: int

    @property
    def rows(self) -> int:
        return (len(self.bounds) - 1) // self.num_columns

    def column(self, number: int) -> Texts:
        """The texts of a column, numbered from 0."""
        return Texts(self.block, self.bounds, number, self.num_columns, 1, self.rows)


def split_lines(block: bytes, separator: str, num_columns: int) -> Lines | None:
    """The columns of whole lines, None unless every line has `num_columns`."""
    array = np.frombuffer(block, np.uint8)
    separators, line_ends = _count(array, ord(separator))
    if separators != line_ends * (num_columns - 1):
        return None
    bounds = np.empty(1 + line_ends * num_columns, dtype=np.int32)
    if not _split(array, ord(separator), num_columns, bounds):
        return None
    return Lines(array, bounds, num_columns)


class Interner:
    """Codes 0, 1, 2, ... and counts of the distinct texts of one column, in the order found."""

    def __init__(self) -> None:
        self._size = 0
        # Of each slot: key; length << 32 | code + 1, or 0 if it is free, as a quarter of them are.
        self._slots = np.zeros((2, 2), dtype=np.uint64)
        self._counts = np.zeros(1, dtype=np.int64)
        # The texts as Arrow has them: that of a code is _text[_ends[code] : _ends[code + 1]].
        self._ends = np.zeros(2, dtype=np.int64)
        self._text = np.empty(0, dtype=np.uint8)

    def __len__(self) -> int:
        return self._size

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The narrowest type of the codes given so far."""
        return narrowest(max(self._size - 1, 0))

    @property
    def counts(self) -> np.ndarray:
        """How often each text was met, (len,) int64."""
        return self._counts[: self._size]

    def values(self, start: int = 0, stop: int | None = None) -> pa.Array:
        """The texts with the codes from `start` to `stop`, without a copy.

        Texts that were there when this was called may be had while others are being added.
        """
        stop = self._size if stop is None else stop
        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(self._text)]
        return pa.Array.from_buffers(pa.large_string(), stop - start, buffers, offset=start)

    def codes(self, texts: Texts) -> np.ndarray:
        """The codes (rows,) of the texts, which are counted; a new text gets a new code."""
        return intern([self], [texts])[0]

    def _make_room(self, texts: Texts) -> None:
        """Grow for as many new texts as there are rows, so that the loop need not look."""
        size = self._size + texts.rows
        if 4 * size > 3 * len(self._slots):
            slots = np.zeros((1 << (4 * size // 3).bit_length(), 2), dtype=np.uint64)
            _move(self._slots, slots)
            self._slots = slots
        if size > len(self._counts):
            self._counts = _grown(self._counts, self._size, 4 * size)
            self._ends = _grown(self._ends, self._size + 1, 4 * size + 1)
        used = int(self._ends[self._size])
        length = used + len(texts.block) + WORD
        if length > len(self._text):
            self._text = _grown(self._text, used, 4 * length)


def intern(interners: Sequence[Interner], columns: Sequence[Texts]) -> list[np.ndarray]:
    """What `Interner.codes` gives for each column; all of them are of the same block and rows."""
    block, bounds, _, step, gap, rows = columns[0]
    block.flags.writeable = bounds.flags.writeable = False
    codes = np.empty((len(columns), rows), dtype=np.uint32)
    tables = np.zeros(len(columns), dtype=TABLE)
    for table, interner, texts, column in zip(tables, interners, columns, codes, strict=True):
        interner._make_room(texts)
        table["first"], table["size"] = texts.first, interner._size
        table["mask"] = len(interner._slots) - 1
        table["slots"] = interner._slots.ctypes.data
        table["counts"] = interner._counts.ctypes.data
        table["ends"] = interner._ends.ctypes.data
        table["text"] = interner._text.ctypes.data
        table["codes"] = column.ctypes.data
    _intern(block, bounds, step, gap, rows, tables)
    for interner, size in zip(interners, tables["size"], strict=True):
        interner._size = int(size)
    return [
        column.astype(interner.dtype) for interner, column in zip(interners, codes, strict=True)
    ]


def _grown(array: np.ndarray, used: int, length: int) -> np.ndarray:
    """A longer array; what is not used yet takes no memory until it is."""
    grown = np.zeros(length, dtype=array.dtype)
    grown[:used] = array[:used]
    return grown


# ---------------------------------------------------------------- compiled loops


def _compiled(*arguments: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiled for arguments of these types, at once, else when called; kept on disk.

    Other threads run during a call.
    """
    decorator: Callable[..., Any] = njit([arguments] if arguments else None, nogil=True, cache=True)
    return decorator


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Made part of its callers: a call from a hot loop would cost more than what it does."""
    inlined: Callable[..., Any] = njit(inline="always")(function)
    return inlined


def _typed_load(context: Any, address: Any) -> Any:
    """The eight bytes from an address on as a little-endian uint64; numba has no such load."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(types.intp), generate


def _typed_store(context: Any, address: Any, word: Any) -> Any:
    """Write a word as eight bytes, the lowest first, from an address on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store(arguments[1], place, align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64), generate


def _typed_pointer(context: Any, address: Any) -> Any:
    """An address as what `carray` makes an array of."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), generate


def _typed_prefetch(context: Any, address: Any) -> Any:
    """Have the line of an address brought into the caches, to be written, while work goes on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
        place = builder.inttoptr(arguments[0], byte)
        builder.call(prefetch, [place, word(1), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.intp), generate


def _typed_marks(context: Any, address: Any, separator: Any) -> Any:
    """Bits of the bytes from an address on: whether each is the separator or ends a line."""
    byte, word = ir.IntType(8), ir.IntType(32)
    many = ir.VectorType(byte, MARKED)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = builder.load(builder.inttoptr(arguments[0], many.as_pointer()), align=1)
        none, nowhere = ir.Constant(many, ir.Undefined), ir.Constant(word, 0)
        one = builder.insert_element(none, arguments[1], nowhere)
        zeros = ir.Constant(ir.VectorType(word, MARKED), [0] * MARKED)
        separators = builder.icmp_unsigned("==", found, builder.shuffle_vector(one, none, zeros))
        line_ends = builder.icmp_unsigned("==", found, ir.Constant(many, [NEWLINE] * MARKED))
        return builder.bitcast(builder.or_(separators, line_ends), ir.IntType(MARKED))

    return types.uint64(types.intp, types.uint8), generate


def _typed_lowest(context: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


_load_word: Any = intrinsic(_typed_load)
_store_word: Any = intrinsic(_typed_store)
_marks: Any = intrinsic(_typed_marks)
_lowest: Any = intrinsic(_typed_lowest)
_pointer: Any = intrinsic(_typed_pointer)
_prefetch: Any = intrinsic(_typed_prefetch)


@_compiled(BYTES, types.int64)
def _count(block: np.ndarray, separator: int) -> tuple[int, int]:
    separators = line_ends = 0
    for byte in block:
        separators += byte == separator
        line_ends += byte == NEWLINE
    return separators, line_ends


@_compiled(BYTES, types.int64, types.int64, types.int32[::1])
def _split(block: np.ndarray, separator: int, num_columns: int, bounds: np.ndarray) -> bool:
    """Fill bounds with -1 and the places of separators and line ends; whether lines are even."""
    bounds[0] = -1
    found = 1
    address = np.intp(block.ctypes.data)
    whole = len(block) // MARKED * MARKED
    for place in range(0, whole, MARKED):
        marks = _marks(address + place, np.uint8(separator))
        while marks:
            bounds[found] = place + _lowest(marks)
            found += 1
            marks &= marks - np.uint64(1)
    for place in range(whole, len(block)):
        if block[place] == separator or block[place] == NEWLINE:
            bounds[found] = place
            found += 1
    for end in range(num_columns, found, num_columns):  # noqa: SIM110
        if block[bounds[end]] != NEWLINE:
            return False
    return True


@_compiled()
def _last_word(block: np.ndarray, start: int, length: int) -> Any:
    """A short text as a word, where fewer than eight bytes are left to load."""
    key = np.uint64(0)
    for index in range(length):
        key |= np.uint64(block[start + index]) << np.uint64(8 * index)
    return key


@_compiled()
def _hash(start: int, length: int) -> Any:
    """A hash of the words of a text, the last of which overlaps the one before."""
    key = np.uint64(0)
    for place in range(start, start + length - WORD, WORD):
        key = _mix(key ^ _load_word(place))
    return _mix(key ^ _load_word(start + length - WORD))


@_inlined
def _mix(word: Any) -> Any:
    word *= MIX
    return word ^ (word >> np.uint64(32))


@_inlined
def _slot(key: Any, length: Any, mask: int) -> Any:
    """Where the search for a key begins."""
    return np.intp(_mix(key ^ (np.uint64(length) * MIX_LENGTH)) & np.uint64(mask))


@_compiled()
def _keys(
    block: np.ndarray,
    starts: np.ndarray,
    step: int,
    gap: int,
    keys: np.ndarray,
    lengths: np.ndarray,
    slots: int,
    mask: int,
) -> None:
    """Fill the keys and lengths of the texts of a tile, and have their slots fetched."""
    address = np.intp(block.ctypes.data)
    for row in range(len(keys)):
        start = starts[row * step] + gap
        length = starts[row * step + 1] - start
        # Its own key where it is short, else a hash.
        if length > WORD:
            key = _hash(address + start, length)
        elif start + WORD <= len(block):
            key = _load_word(address + start) & MASKS[length]
        else:
            key = _last_word(block, start, length)
        _prefetch(slots + 16 * _slot(key, length, mask))
        keys[row] = key
        lengths[row] = length


@_compiled()
def _look_up(
    block: np.ndarray,
    starts: np.ndarray,
    step: int,
    gap: int,
    keys: np.ndarray,
    lengths: np.ndarray,
    codes: np.ndarray,
    table: Any,
) -> None:
    """Fill the codes of a tile; what is not in the table is put there."""
    mask, size, text_address = table.mask, table.size, table.text
    slots = carray(_pointer(table.slots), (mask + 1, 2), np.uint64)
    # One end and a word beyond the last text are room to write to.
    ends = carray(_pointer(table.ends), size + len(codes) + 1, np.int64)
    # Loops over addresses: to hand an array to a function means to count references, together
    # with the other threads that read this block, which would cost more than all the rest.
    address = np.intp(block.ctypes.data)
    for row in range(len(codes)):
        key, length = keys[row], lengths[row]
        slot = _slot(key, length, mask)
        while True:
            kept = slots[slot, 1]
            if kept == 0:
                code: Any = size
                slots[slot, 0] = key
                slots[slot, 1] = (np.uint64(length) << CODE_BITS) | np.uint64(code + 1)
                ends[code + 1] = ends[code] + length
                target = text_address + ends[code]
                if length <= WORD:
                    _store_word(target, key)
                else:
                    _copy(address + starts[row * step] + gap, target, length)
                size += 1
                break
            if slots[slot, 0] == key and np.intp(kept >> CODE_BITS) == length:
                code = np.intp(kept & CODE_MASK) - 1
                start = starts[row * step] + gap
                if length <= WORD or _same(address + start, text_address + ends[code], length):
                    break
            slot = (slot + 1) & mask
        codes[row] = code
    table.size = size


@_compiled()
def _copy(source: int, target: int, length: int) -> None:
    """Copy a long text word by word, as `_hash` reads it."""
    for place in range(0, length - WORD, WORD):
        _store_word(target + place, _load_word(source + place))
    _store_word(target + length - WORD, _load_word(source + length - WORD))


@_compiled()
def _same(one: int, other: int, length: int) -> bool:
    """Whether two long texts are equal, word by word as in `_hash`."""
    for place in range(0, length - WORD, WORD):
        if _load_word(one + place) != _load_word(other + place):
            return False
    last = length - WORD
    same: bool = _load_word(one + last) == _load_word(other + last)
    return same


@_compiled(BYTES, BOUNDS, types.int64, types.int64, types.int64, from_dtype(TABLE)[::1])
def _intern(
    block: np.ndarray, bounds: np.ndarray, step: int, gap: int, rows: int, tables: np.ndarray
) -> None:
    """Fill the codes of every table, tile after tile. There must be room for all new texts."""
    keys = np.empty(TILE_ROWS, dtype=np.uint64)
    lengths = np.empty(TILE_ROWS, dtype=np.intp)
    for row in range(0, rows, TILE_ROWS):
        tile = min(TILE_ROWS, rows - row)
        for number in range(len(tables)):
            table = tables[number]
            starts = bounds[table.first + row * step :]
            _keys(block, starts, step, gap, keys[:tile], lengths, table.slots, table.mask)
            codes = carray(_pointer(table.codes), rows, np.uint32)[row : row + tile]
            _look_up(block, starts, step, gap, keys, lengths, codes, table)
            counts = carray(_pointer(table.counts), table.size, np.int64)
            for code in codes:
                counts[code] += 1


@_compiled(types.uint64[:, ::1], types.uint64[:, ::1])
def _move(old: np.ndarray, new: np.ndarray) -> None:
    """Put every key of a table into a larger, empty one."""
    mask = len(new) - 1
    for index in range(len(old)):
        kept = old[index, 1]
        if kept != 0:
            slot = _slot(old[index, 0], kept >> CODE_BITS, mask)
            while new[slot, 1] != 0:
                slot = (slot + 1) & mask
            new[slot, 0] = old[index, 0]
            new[slot, 1] = kept
