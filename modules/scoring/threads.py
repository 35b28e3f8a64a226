"""Threads for numpy, which lets go of the interpreter while it sorts and counts."""

from __future__ import annotations

import os


def num_threads() -> int:
    """One a core that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
