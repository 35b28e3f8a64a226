"""CSV and TSV as users have them: gzipped or not, with or without header and quoted values.

A value may stand in double quotes (RFC 4180), where the layout says so, and then hold separators,
line ends and doubled quotes. Empty lines are skipped. The official logs, which have no quotes, are
read by `data.raw`.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import csv as arrow_csv

from data.gzipped import GZIP_ERRORS, damaged_gzip, open_log
from data.log import Layout
from data.schema import DataError

BLOCK_BYTES = 1 << 24
# A record that is longer than this is a quote that was never closed.
RECORD_BYTES = 1 << 24
DICTIONARY = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Block:
    """Whole records of a file. line: the number of its first one."""

    path: Path
    layout: Layout
    line: int
    content: bytes


def column_names(path: Path, layout: Layout) -> tuple[str, ...]:
    """The columns that the header names, or the layout where there is none.

    Raise `DataError` for a header that is not UTF-8, and a file without one.
    """
    if layout.columns:
        return layout.columns
    for block in _blocks(path, layout, 1 << 16):
        if record := next(_records(block), None):
            lines = block.content.split(b"\n")[: record.next_line - block.line]
            if wrong := _not_utf8(block, lines):
                raise wrong
            return tuple(record.values)
    raise DataError(f"{path} is empty; fetch it again or remove it")


def read_blocks(path: Path, layout: Layout, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yield the records after the header, in blocks of about `block_bytes` bytes."""
    header = layout.columns is None
    for block in _blocks(path, layout, block_bytes):
        if header:
            first = next(_records(block), None)
            if first is None:
                continue
            header = False
            rest = block.content.split(b"\n", first.next_line - block.line)[-1]
            block = Block(path, layout, first.next_line, rest)
        if block.content:
            yield block


def parse(block: Block, names: Sequence[str], used: Sequence[str]) -> pa.Table:
    """The columns `used` of a block, as dictionary arrays of one chunk each.

    Raise `DataError` for the first line that has not as many values as `names`, or is not UTF-8.
    """
    try:
        return arrow_csv.read_csv(
            pa.BufferReader(block.content),
            arrow_csv.ReadOptions(
                use_threads=False, block_size=len(block.content) + 1, column_names=list(names)
            ),
            arrow_csv.ParseOptions(
                delimiter=block.layout.separator,
                quote_char='"' if block.layout.quotes else False,
                double_quote=bool(block.layout.quotes),
                newlines_in_values=bool(block.layout.quotes),
            ),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(used, DICTIONARY),
                include_columns=list(used),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        raise _malformed(block, names, error) from error


def place_of_row(block: Block, row: int) -> str:
    """File and line where a row of the block begins."""
    record = next(islice(_records(block), row, None))
    return f"{block.path}, line {record.line}"


def _blocks(path: Path, layout: Layout, block_bytes: int) -> Iterator[Block]:
    """Yield the whole file in blocks of whole records, without a byte order mark."""
    rest, line = b"", 1
    try:
        with open_log(path) as file:
            while read := file.read(block_bytes):
                if line == 1 and not rest:
                    read = read.removeprefix(codecs.BOM_UTF8)
                content = rest + read
                end = _end_of_records(content, layout)
                if end:
                    yield Block(path, layout, line, content[:end])
                    line += content.count(b"\n", 0, end)
                rest = content[end:]
                if len(rest) > RECORD_BYTES:
                    raise _endless(path, layout, line, rest)
    except GZIP_ERRORS as error:
        raise damaged_gzip(path, error) from error
    if layout.quotes and rest.count(b'"') % 2:
        raise _endless(path, layout, line, rest)
    if rest:
        yield Block(path, layout, line, rest + b"\n")


def _end_of_records(content: bytes, layout: Layout) -> int:
    """Where the last whole record of `content` ends, which begins with one; 0 if none does."""
    end = content.rfind(b"\n") + 1
    if not layout.quotes:
        return end
    # A line end after an odd number of quotes lies within a value.
    within = content.count(b'"', 0, end) % 2
    while end and within:
        earlier = content.rfind(b"\n", 0, end - 1) + 1
        within ^= content.count(b'"', earlier, end) % 2
        end = earlier
    return end


def _endless(path: Path, layout: Layout, line: int, rest: bytes) -> DataError:
    if layout.quotes and b'"' in rest:
        return DataError(
            f"{path}, line {line}: a quote that is never closed ('{_start(rest)}'); close it, or "
            f"say `quotes: false` in the log's description if quotes belong to the values"
        )
    return DataError(f"{path}, line {line}: a line without an end ('{_start(rest)}')")


def _start(content: bytes) -> str:
    line = content.partition(b"\n")[0].decode(errors="replace")
    return line if len(line) <= 120 else line[:120] + "..."


class _Record(NamedTuple):
    values: list[str]
    line: int
    next_line: int


def _records(block: Block) -> Iterator[_Record]:
    """Every record of a block with the number of its line. Slow: to find a place."""
    # No value is longer; by default one of 131,073 characters would be an error.
    csv.field_size_limit(RECORD_BYTES + BLOCK_BYTES)
    reader = csv.reader(
        io.StringIO(block.content.decode(errors="replace"), newline="\n"),
        delimiter=block.layout.separator or ",",
        quoting=csv.QUOTE_MINIMAL if block.layout.quotes else csv.QUOTE_NONE,
    )
    line = block.line
    try:
        for values in reader:
            next_line = block.line + reader.line_num
            if values:  # an empty line is no record
                yield _Record(values, line, next_line)
            line = next_line
    except csv.Error as error:
        raise DataError(f"{block.path}, line {line}: {error}; repair the line") from error


def _malformed(block: Block, names: Sequence[str], error: Exception) -> DataError:
    """The error for the first record of a block that cannot be parsed."""
    if wrong := _not_utf8(block, block.content.split(b"\n")):
        return wrong
    for record in _records(block):
        if len(record.values) != len(names):
            text = (block.layout.separator or ",").join(record.values)
            return DataError(
                f"{block.path}, line {record.line}: {len(record.values)} columns, expected "
                f"{len(names)} ('{_start(text.encode())}'); repair or remove the line, or is the "
                f"separator another than {block.layout.separator!r}?"
            )
    return DataError(f"{block.path}, from line {block.line}: {error}")


def _not_utf8(block: Block, lines: Iterable[bytes]) -> DataError | None:
    """The error for the first line that is not UTF-8, of those that the block begins with."""
    for number, line in enumerate(lines, start=block.line):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            place = f"{block.path}, line {number}"
            return DataError(f"{place}: not UTF-8 ({error}); save the file as UTF-8")
    return None
