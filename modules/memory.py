"""Memory for tables whose rows are visited in any order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def in_huge_pages(shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """An uninitialised float32 tensor; on a CPU in memory whose rows are found fast.

    NumPy asks Linux to back large arrays with huge pages, torch does not: rows here and there are
    then read and written in three quarters of the time.
    """
    if device is None or device.type == "cpu":
        return torch.from_numpy(np.empty(tuple(shape), dtype=np.float32))
    return torch.empty(*shape, device=device)
