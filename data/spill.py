"""Columns of small integers on disk, appended to in pieces and read back one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np


class Spill:
    """One file a column under `folder`, which must exist. Each piece has a type of its own.

    A context that closes the files; removing them is left to the owner of the folder.
    """

    def __init__(self, folder: Path, num_columns: int) -> None:
        self._stack = ExitStack()
        self._paths = [folder / f"codes-{number}" for number in range(num_columns)]
        self._files = [self._stack.enter_context(path.open("w+b")) for path in self._paths]
        self._pieces: list[list[tuple[np.dtype[np.generic], int]]] = [[] for _ in self._files]

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def append(self, columns: Sequence[np.ndarray]) -> None:
        """Append a piece (rows,) of unsigned integers to each column."""
        for file, pieces, column in zip(self._files, self._pieces, columns, strict=True):
            file.write(column.data)
            pieces.append((column.dtype, len(column)))

    def column(self, number: int) -> np.ndarray:
        """A whole column (rows,) in the widest type of its pieces."""
        pieces = self._pieces[number]
        rows = sum(length for _, length in pieces)
        values = np.empty(
            rows, max((dtype for dtype, _ in pieces), key=lambda dtype: dtype.itemsize)
        )
        file, start = self._files[number], 0
        file.seek(0)
        for dtype, length in pieces:
            piece = np.frombuffer(file.read(length * dtype.itemsize), dtype)
            values[start : start + length] = piece
            start += length
        return values

    def drop(self, number: int) -> None:
        """Give the disk space of a column back."""
        self._files[number].truncate(0)


def narrowest(highest: int) -> np.dtype[np.generic]:
    """The narrowest unsigned type that holds `highest`."""
    return np.dtype(np.min_scalar_type(highest))
