"""The distinct ids of a batch, found in one compiled pass.

Shapes: B rows, F fields, N features, U distinct ids of a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor


class DistinctIds(NamedTuple):
    """The distinct ids of a batch, and where in the batch each stands.

    ids: (U,) int64, rising. place: (B, F) int32, where in `ids` each id of the batch stands.
    order: (B*F,) int32, the positions in the flattened batch, those of each distinct id together
    and rising; offsets: (U+1,) int32, where in `order` those of each distinct id begin.
    """

    ids: Tensor
    place: Tensor
    order: Tensor
    offsets: Tensor

    def to(self, table: torch.device, model: torch.device) -> DistinctIds:
        """`ids` on the table's device, the rest on the model's, copied without waiting."""
        ids, *places = self
        return DistinctIds(to_device(ids, table), *(to_device(part, model) for part in places))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, from the CPU, on `device`; to a GPU it is copied without waiting."""
    on_gpu = device.type == "cuda"
    return (tensor.pin_memory() if on_gpu else tensor).to(device, non_blocking=on_gpu)


class DistinctFinder:
    """Finds the distinct ids of a batch in time linear in the batch, on the CPU.

    A bit a feature marks those of the batch, so their ids come out in rising order, in which the
    table's rows are visited in half the time; and a table of all features says of each where
    among them it stands. Nothing is sorted or hashed.
    """

    def __init__(self, num_features: int) -> None:
        self._marks = np.zeros(-(-num_features // 64), dtype=np.uint64)
        self._rank = np.empty(num_features, dtype=np.int32)

    def find(self, ids: Tensor) -> DistinctIds:
        """The distinct ids of a batch (B, F) int64. Raises `IndexError` for one out of range."""
        flat = ids.reshape(-1).numpy()
        distinct = np.empty(len(flat), dtype=np.int64)
        place, order = (np.empty(len(flat), dtype=np.int32) for _ in range(2))
        offsets = np.zeros(len(flat) + 1, dtype=np.int32)
        size = _group(flat, self._marks, self._rank, distinct, place, order, offsets)
        if size < 0:
            raise IndexError(
                f"a batch holds ids from {flat.min()} to {flat.max()}, but the feature table "
                f"has rows 0 to {len(self._rank) - 1}"
            )
        parts = (distinct[:size], place.reshape(ids.shape), order, offsets[: size + 1])
        return DistinctIds(*map(torch.from_numpy, parts))


# A de Bruijn sequence: 64 times its bits move on by one, and its highest six differ each time.
SEQUENCE = np.uint64(0x03F79D71B4CB0A89)
PLACES = np.zeros(64, dtype=np.int64)
PLACES[[((int(SEQUENCE) << place) & (1 << 64) - 1) >> 58 for place in range(64)]] = np.arange(64)


@njit(nogil=True, cache=True)
def _group(
    flat: np.ndarray,
    marks: np.ndarray,
    rank: np.ndarray,
    distinct: np.ndarray,
    place: np.ndarray,
    order: np.ndarray,
    offsets: np.ndarray,
) -> int:
    """Fill the last four; return the number of distinct ids, -1 if one is out of range.

    marks: (N / 64,), zeros, and again so afterwards. rank: (N,). offsets: zeros.
    """
    for feature in flat:
        if not 0 <= feature < len(rank):
            marks[:] = 0
            return -1
        marks[feature >> 6] |= np.uint64(1) << np.uint64(feature & 63)
    size = 0
    for word in range(len(marks)):
        bits = marks[word]
        marks[word] = 0
        while bits:
            lowest = bits & (~bits + np.uint64(1))
            feature = 64 * word + PLACES[(lowest * SEQUENCE) >> np.uint64(58)]
            bits ^= lowest
            rank[feature] = size
            distinct[size] = feature
            size += 1
    for position in range(len(flat)):
        number = rank[flat[position]]
        place[position] = number
        offsets[number + 1] += 1
    # Each begins where the one before ends; `order` is filled by moving the beginnings on.
    for number in range(size):
        offsets[number + 1] += offsets[number]
    for position in range(len(flat)):
        number = place[position]
        order[offsets[number]] = position
        offsets[number] += 1
    for number in range(size, 0, -1):
        offsets[number] = offsets[number - 1]
    offsets[0] = 0
    return size
