"""Raw logs read once, fast and in bounded memory: blocks of whole lines in, codes of texts out.

The loops over bytes are those of `data.tokens`. What a rule demands is asked of each text once,
soon after it is new; only of a block with a fault, read again, are lines looked at one by one.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from data.gzipped import GZIP_ERRORS, damaged_gzip, open_log
from data.raw import RawFormat
from data.schema import DataError
from data.threads import map_ahead, num_threads
from data.tokens import Interner, Lines, intern, split_lines

# Few enough for the caches, many enough for a call.
BLOCK_BYTES = 1 << 22
# Blocks whose new texts are checked together: a question costs as much as thousands of texts.
ASKED_BLOCKS = 16
# Blocks that the columns looked up fastest may be ahead of the slowest.
STARTED_BLOCKS = 4
# No log has longer lines, so a block stays bounded too.
LINE_BYTES = 1 << 26


def read_chunks(
    path: Path,
    log: RawFormat,
    interners: Mapping[str, Interner],
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[list[np.ndarray]]:
    """Yield the rows of a plain or gzipped log in order, in chunks of about `block_bytes` bytes.

    interners: one for each used column, in the order of these; they may have read other files
    before. A chunk is the codes (rows,) that each gives to the texts of its column. Raise
    `DataError` with file and line for anything that does not fit the format.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the {log.dataset} log with --raw PATH")
    rows = 0
    try:
        for chunk in _intern_blocks(_blocks(path, log, block_bytes), log, interners):
            rows += len(chunk[0])
            yield chunk
    except _FaultyBlockError as fault:
        raise _first_fault(path, log, block_bytes, fault.number) from None
    if rows == 0:
        raise DataError(f"{path} has no rows; give the {log.dataset} log with --raw PATH")


class _FaultyBlockError(Exception):
    """The block of a file, numbered from 0, that has its first fault."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Coded(NamedTuple):
    """A column of a block. codes: (rows,). distinct: texts of the column up to this block's end."""

    codes: np.ndarray
    distinct: int


class _Rules:
    """The rules of a log, asked of each text once: of those that are new in several blocks."""

    def __init__(self, log: RawFormat, interners: Mapping[str, Interner]) -> None:
        self._rules = log.rules
        self._interners = {rule.column: interners[rule.column] for rule in log.rules}
        # Of each column, the number of texts before the first block and after each, and how many
        # of them were asked about.
        self._sizes = {name: [len(interner)] for name, interner in self._interners.items()}
        self._asked = {name: size for name, (size,) in self._sizes.items()}

    def note_block(self, block: Mapping[str, _Coded]) -> None:
        """Another block of the file was looked up."""
        for name, sizes in self._sizes.items():
            sizes.append(block[name].distinct)

    def ask(self) -> None:
        """Raise `_FaultyBlockError` for the first block with a text that breaks a rule."""
        faulty = []
        for rule in self._rules:
            asked, sizes = self._asked[rule.column], self._sizes[rule.column]
            if asked < sizes[-1]:
                texts = self._interners[rule.column].values(asked, sizes[-1])
                new = pl.DataFrame({rule.column: texts})
                broken = new.select((~rule.valid.fill_null(False)).arg_true()).to_series()
                if len(broken):
                    faulty.append(bisect_right(sizes, asked + broken[0]) - 1)
        if faulty:
            raise _FaultyBlockError(min(faulty))
        self._asked = {name: sizes[-1] for name, sizes in self._sizes.items()}


def _intern_blocks(
    blocks: Iterable[bytes], log: RawFormat, interners: Mapping[str, Interner]
) -> Iterator[list[np.ndarray]]:
    """Yield the codes of each block; raise `_FaultyBlockError` for one that breaks the format.

    Every group of columns has a thread of its own, so that an interner sees one block after
    another, and no group waits for the others.
    """
    # Two groups a core: some columns take longer than others.
    stride = 2 * num_threads()
    groups = [list(interners)[first::stride] for first in range(min(stride, len(interners)))]
    rules, done = _Rules(log, interners), 0
    started: deque[list[Future[dict[str, _Coded]]]] = deque()

    def finish() -> list[np.ndarray]:
        nonlocal done
        block: dict[str, _Coded] = {}
        for group in started.popleft():
            block |= group.result()
        rules.note_block(block)
        done += 1
        if done % ASKED_BLOCKS == 0:
            rules.ask()
        return [block[name].codes for name in interners]

    with ExitStack() as stack:
        threads = [
            stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="intern")) for _ in groups
        ]
        for lines in map_ahead(lambda block: _split(block, log), blocks):
            if lines is None:
                while started:
                    finish()
                rules.ask()
                raise _FaultyBlockError(done)
            started.append(
                [
                    thread.submit(_intern, lines, group, log, interners)
                    for thread, group in zip(threads, groups, strict=True)
                ]
            )
            if len(started) > STARTED_BLOCKS:
                yield finish()
        while started:
            yield finish()
        rules.ask()


def _intern(
    lines: Lines, names: Sequence[str], log: RawFormat, interners: Mapping[str, Interner]
) -> dict[str, _Coded]:
    """Some columns of a block."""
    columns = [lines.column(log.columns.index(name)) for name in names]
    codes = intern([interners[name] for name in names], columns)
    return {name: _Coded(own, len(interners[name])) for name, own in zip(names, codes, strict=True)}


def _split(block: bytes, log: RawFormat) -> Lines | None:
    """The columns of a block, None if it is not UTF-8 or malformed."""
    block = _plain(block)
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError:
            return None
    return split_lines(block, log.separator, len(log.columns))


def _plain(block: bytes) -> bytes:
    """The block with plain line ends."""
    return block.replace(b"\r\n", b"\n") if b"\r" in block else block


def _blocks(path: Path, log: RawFormat, block_bytes: int) -> Iterator[bytes]:
    """Yield blocks of whole lines, without the header."""
    position = 0
    try:
        with open_log(path) as file:
            while block := file.read(block_bytes):
                if not block.endswith(b"\n"):
                    rest = file.readline(LINE_BYTES)
                    if len(rest) == LINE_BYTES:
                        raise DataError(
                            f"{path}: a line of more than {LINE_BYTES} bytes, which begins before "
                            f"byte {position + len(block)}; is it a log of {log.dataset}?"
                        )
                    block += rest if rest.endswith(b"\n") else rest + b"\n"
                start, position = position, position + len(block)
                if start == 0:
                    block = block.removeprefix(codecs.BOM_UTF8)
                    block = _without_header(block, path, log) if log.header else block
                if block:
                    yield block
    except GZIP_ERRORS as error:
        raise damaged_gzip(path, error) from error


def _without_header(block: bytes, path: Path, log: RawFormat) -> bytes:
    """`block` after its first line, which must name the columns."""
    line, _, rest = block.partition(b"\n")
    header = line.decode(errors="replace").removesuffix("\r")
    expected = log.separator.join(log.columns)
    if header != expected:
        raise DataError(
            f"{path}, line 1: the header is '{_shorten(header)}', expected '{expected}'; "
            f"is it a log of {log.dataset}?"
        )
    return rest


# ------------------------------------------------------------------- faults


def _first_fault(path: Path, log: RawFormat, block_bytes: int, number: int) -> DataError:
    """The error for the first line that is wrong in some way, which is in this block of a file."""
    first_line, lines = 1 + log.header, list[bytes]()
    for block in islice(_blocks(path, log, block_bytes), number + 1):
        first_line += len(lines)
        lines = _plain(block).split(b"\n")[:-1]
    faults = ((row, _malformed(line, log)) for row, line in enumerate(lines))
    row, fault = next(((row, fault) for row, fault in faults if fault), (len(lines), None))
    # A line further up may break a rule.
    texts = [line.decode().split(log.separator) for line in lines[:row]]
    for rule in log.rules:
        number = log.columns.index(rule.column)
        column = pl.Series(rule.column, [text[number] for text in texts[:row]], pl.String)
        broken = column.to_frame().select((~rule.valid.fill_null(False)).arg_true()).to_series()
        if len(broken):
            row = broken[0]
            fault = f"{rule.column} is '{_shorten(texts[row][number])}', expected {rule.expected}"
    return DataError(f"{path}, line {first_line + row}: {fault}; repair or remove the line")


def _malformed(line: bytes, log: RawFormat) -> str | None:
    """What is wrong with a line that is not the right number of columns of UTF-8."""
    columns = 1 + line.count(log.separator.encode())
    if columns != len(log.columns):
        return (
            f"{columns} columns, expected {len(log.columns)} for {log.dataset} "
            f"('{_shorten(line.decode(errors='replace'))}')"
        )
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 ({error})"
    return None


def _shorten(text: str, length: int = 120) -> str:
    return text if len(text) <= length else text[:length] + "..."
