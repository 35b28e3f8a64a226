"""What a run was made from and where."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from data.schema import Schema


def provenance(schema: Schema, device: torch.device) -> dict[str, Any]:
    """Data, versions, device, machine and commit, as entries of a report."""
    return {
        "data": {
            "fingerprint": schema.fingerprint,
            "synthetic": schema.synthetic,
            "rows": dict(schema.rows),
            "positives": dict(schema.positives),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "numpy")},
        },
        "device": str(device),
        "machine": describe_machine(device),
        "git_commit": _git_commit(),
    }


def describe_machine(device: torch.device) -> str:
    """The GPU's name, or that of the processor and its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else ())
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _git_commit() -> str | None:
    """The commit of this code, with `-dirty` behind it where files differ; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
