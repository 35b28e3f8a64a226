"""Numbers between numpy and Arrow, without pandas.

pyarrow's own conversions import pandas where it is installed, which takes half a second.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def to_arrow(numbers: np.ndarray) -> pa.Array:
    """The Arrow array of numbers (n,), which are copied unless they lie side by side."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(numbers))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), buffers)


def to_numpy(numbers: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The read-only array (n,) of Arrow numbers, none of which is null."""
    if isinstance(numbers, pa.ChunkedArray):
        numbers = numbers.chunk(0) if numbers.num_chunks == 1 else numbers.combine_chunks()
    return np.from_dlpack(numbers)
