"""The distinct ids of a batch, found by one sort.

Shapes: B rows, F fields, N features, U distinct ids of a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
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


def find_distinct(ids: Tensor, num_features: int) -> DistinctIds:
    """The distinct ids of a batch (B, F) int64, on the CPU.

    Ids are sorted with their positions in the lower bits. By NumPy: it sorts with vector
    instructions, and does not wake torch's threads, which train meanwhile. In rising order a
    table's rows are also visited in half the time.
    Raises `IndexError` for an id that is not in 0..num_features-1.
    """
    size, bits = ids.numel(), ids.numel().bit_length()
    keys = (ids.numpy().reshape(-1) << bits) + np.arange(size)
    keys.sort()
    order = (keys & ((1 << bits) - 1)).astype(np.int32)
    keys >>= bits  # the ids, rising
    is_first = np.append(True, keys[1:] != keys[:-1])
    starts = is_first.nonzero()[0]
    distinct = keys[starts]
    if distinct[0] < 0 or distinct[-1] >= num_features:
        raise IndexError(
            f"a batch holds ids from {distinct[0]} to {distinct[-1]}, but the feature table "
            f"has rows 0 to {num_features - 1}"
        )
    place = np.empty(size, np.int32)
    place[order] = is_first.cumsum(dtype=np.int32) - 1
    offsets = np.append(starts, size).astype(np.int32)
    return DistinctIds(
        torch.from_numpy(distinct),
        torch.from_numpy(place).view(ids.shape),
        torch.from_numpy(order),
        torch.from_numpy(offsets),
    )
