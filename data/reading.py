"""Raw logs read once, fast and in bounded memory: blocks of whole lines in, codes of texts out.

The loops over bytes are those of `data.tokens`. What a rule demands is asked of each text once,
when it is new; only for a block with a fault are lines looked at one by one.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from data.gzipped import GZIP_ERRORS, damaged_gzip, open_log
from data.raw import RawFormat
from data.schema import DataError
from data.threads import num_threads
from data.tokens import Interner, Lines, Texts, split_lines

# Few enough for the caches, many enough for a call.
BLOCK_BYTES = 1 << 22
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
    rows, first_line = 0, 1 + log.header
    for block, columns in _intern_blocks(_blocks(path, log, block_bytes), log, interners):
        if columns is None or not all(valid for _, valid in columns):
            raise _first_fault(block, path, first_line + rows, log)
        chunk = [codes for codes, _ in columns]
        rows += len(chunk[0])
        yield chunk
    if rows == 0:
        raise DataError(f"{path} has no rows; give the {log.dataset} log with --raw PATH")


# The codes of a column of a block, and whether its texts keep the rules.
InternedColumn = tuple[np.ndarray, bool]


def _intern_blocks(
    blocks: Iterable[bytes], log: RawFormat, interners: Mapping[str, Interner]
) -> Iterator[tuple[bytes, list[InternedColumn] | None]]:
    """Yield each block with its columns, or with None if it cannot be split into them.

    Threads look columns up while the next block is split, the one after it read, and the one
    before used. An interner sees one block after another.
    """
    numbers = {name: log.columns.index(name) for name in interners}
    split: Future[tuple[bytes, Lines | None]] | None = None
    started: tuple[bytes, list[Future[InternedColumn]] | None] | None = None
    with ThreadPoolExecutor(num_threads(), thread_name_prefix="read") as pool:
        # The last two turns finish what was started.
        for read in chain(blocks, (None, None)):
            next_split = pool.submit(_split, read, log) if read else None
            done = started and _finish(*started)
            started = None
            if split:
                block, lines = split.result()
                started = (
                    block,
                    lines
                    and [
                        pool.submit(_intern, interners[name], lines.column(number), name, log)
                        for name, number in numbers.items()
                    ],
                )
            split = next_split
            if done:
                yield done


def _finish(
    block: bytes, columns: list[Future[InternedColumn]] | None
) -> tuple[bytes, list[InternedColumn] | None]:
    return block, None if columns is None else [column.result() for column in columns]


def _intern(interner: Interner, texts: Texts, name: str, log: RawFormat) -> InternedColumn:
    known = len(interner)
    codes = interner.codes(texts)
    rules = [rule.valid.fill_null(False).all() for rule in log.rules if rule.column == name]
    if not rules or len(interner) == known:
        return codes, True
    new = pl.DataFrame({name: interner.values(known)})
    return codes, all(new.select(rule).item() for rule in rules)


def _split(block: bytes, log: RawFormat) -> tuple[bytes, Lines | None]:
    """The block with plain line ends, and its columns unless it is not UTF-8 or malformed."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError:
            return block, None
    return block, split_lines(block, log.separator, len(log.columns))


def _blocks(path: Path, log: RawFormat, block_bytes: int) -> Iterator[bytes]:
    """Yield blocks of whole lines, without the header."""
    rest, header = b"", log.header
    position = 0
    try:
        with open_log(path) as file:
            while read := file.read(block_bytes):
                if position == 0:
                    read = read.removeprefix(codecs.BOM_UTF8)
                position += len(read)
                end = read.rfind(b"\n") + 1
                if not end:
                    rest += read
                    if len(rest) > LINE_BYTES:
                        raise DataError(
                            f"{path}: a line of more than {LINE_BYTES} bytes, soon before its "
                            f"byte {position}; is it a log of {log.dataset}?"
                        )
                    continue
                block, rest = rest + read[:end], read[end:]
                if header:
                    block, header = _without_header(block, path, log), False
                if block:
                    yield block
    except GZIP_ERRORS as error:
        raise damaged_gzip(path, error) from error
    if rest:
        block = rest + b"\n"
        if header:
            block = _without_header(block, path, log)
        if block:
            yield block


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


def _first_fault(block: bytes, path: Path, first_line: int, log: RawFormat) -> DataError:
    """The error for the first line of a block, which has a fault, that is wrong in some way."""
    lines = block.split(b"\n")[:-1]
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
