"""Log files that may be gzipped, opened as what they hold."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from data.schema import DataError

GZIP_MAGIC = b"\x1f\x8b"
# What reading a damaged gzip file raises.
GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


def open_log(path: Path) -> io.BufferedIOBase:
    """The bytes of a plain or gzipped file."""
    with path.open("rb") as file:
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return gzip.open(path) if zipped else path.open("rb")


def damaged_gzip(path: Path, error: Exception) -> DataError:
    """The error for a file that raised one of `GZIP_ERRORS`; it is read again to find the line."""
    line = 1
    try:
        with open_log(path) as file:
            # By small pieces: what lies just before the damage is lost from a large one.
            while piece := file.read1(1 << 16):
                line += piece.count(b"\n")
    except GZIP_ERRORS:
        pass
    return DataError(
        f"{path}, line {line}: damaged gzip file from here on ({error}); fetch it again"
    )
