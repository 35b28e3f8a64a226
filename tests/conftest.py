"""A small encoded data set, made once by the real command; and one thread for everything.

The tests' tensors are small: a second thread saves nothing, and on a busy machine waits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def run_command(*arguments: str | Path, cwd: Path, code: int = 0) -> str:
    """Run `python ARGUMENTS` as a user would in a project at `cwd`; its output, both streams.

    code: the exit code that it must end with.
    """
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stdout
    return result.stdout


def interrupt(*_: object, **_more: object) -> None:
    """What Ctrl-C does, in place of a function."""
    raise KeyboardInterrupt


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/encoded/avazu`, from 4,000 synthetic rows in shards of 700."""
    folder = tmp_path_factory.mktemp("project")
    run_command(
        "-m", "data.prepare", "avazu", "--synthetic", "4000", "--shard-rows", "700", cwd=folder
    )
    return folder


@pytest.fixture(scope="session")
def encoded(project: Path) -> Path:
    """The encoded data set of `project`."""
    return project / "data/encoded/avazu"
