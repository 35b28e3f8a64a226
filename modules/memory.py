"""How memory is asked of the system: for the feature table, and from step to step."""

from __future__ import annotations

import ctypes
import platform
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


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GiB that it freed, so that its next step need not ask again.

    glibc hands back what a training step frees, and the system clears every page of it for the
    next one: up to a tenth of a step. Peak memory stays as it is. Does nothing without glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # as in malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 26)
