"""How memory is asked of the system."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modules.memory import in_huge_pages

ROOT = Path(__file__).parents[1]
# Page faults of the last of ten "steps", each of which makes and frees 5 x 20 MB.
STEPS = """
import resource, sys
from modules.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for step in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"1" * 20_000_000 for _ in range(5)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_a_step_takes_the_memory_that_the_one_before_it_freed() -> None:
    def faults(what: str) -> int:
        command = [sys.executable, "-c", STEPS, what]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("hand back") > 5_000
    assert faults("keep") < 100


def test_tables_are_of_the_shape_and_on_the_device_asked_for() -> None:
    table = in_huge_pages((5, 3))
    assert (table.shape, table.dtype, table.device.type) == ((5, 3), torch.float32, "cpu")
    assert table.is_contiguous()
    assert in_huge_pages((5, 3), torch.device("meta")).device.type == "meta"
