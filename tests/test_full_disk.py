"""Preparing onto a disk that fills up, a real one: a tmpfs of every size that is too small."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.encode import Settings
from data.prepare import main, prepare
from data.schema import DataError, read_schema
from data.shards import SHARD_FORMATS
from tests.raw_logs import avazu_lines, write_lines


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def resize(disk: Path, kilobytes: int) -> None:
    options = f"remount,size={kilobytes}k"
    subprocess.run(["mount", "-o", options, str(disk)], check=True)


def used_kilobytes(disk: Path) -> int:
    done = subprocess.run(["df", "-k", "--output=used", disk], capture_output=True, check=True)
    return int(done.stdout.split()[-1])


def content(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("file_format", SHARD_FORMATS)
def test_wherever_the_disk_fills_up_the_older_data_set_stays(
    tmp_path: Path, disk: Path, file_format: str
) -> None:
    log = write_lines(tmp_path / "log.csv", avazu_lines(300))
    prepare("avazu", log, disk / "set")
    before = content(disk)
    rows = 4000
    write_lines(log, avazu_lines(rows, seed=1))
    np.save(tmp_path / "log.csv.truth.npy", np.full(rows, 0.5))
    settings = Settings(formats=(file_format,), shard_rows=700)
    failures = 0
    for more in range(8, 4096, 32):
        resize(disk, used_kilobytes(disk) + more)
        try:
            schema = prepare("avazu", log, disk / "set", settings)
        except DataError as error:
            failures += 1
            assert f"{disk / 'set'}: no space left on its disk" in str(error)
            assert "--output" in str(error)
            assert content(disk) == before
            assert [path.name for path in disk.iterdir()] == ["set"]
        else:
            break
    assert failures > 5
    assert read_schema(disk / "set") == schema
    prepare("avazu", log, tmp_path / "elsewhere", settings)
    assert content(disk / "set") == content(tmp_path / "elsewhere")


def test_the_command_names_the_place_and_the_way_out_in_one_line(
    tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_lines(tmp_path / "log.csv", avazu_lines(4000))
    resize(disk, 100)
    assert main(["avazu", "--raw", str(log), "--output", str(disk / "set")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {disk / 'set'}: no space left on its disk (")
    assert list(disk.iterdir()) == []
