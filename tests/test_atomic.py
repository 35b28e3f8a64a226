"""Folders that are complete or absent, whatever happens to their writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.atomic import atomic_folder

# Writes one file into the folder, says so, and waits to be killed.
WRITER = """
import sys, time
from pathlib import Path
from data.atomic import atomic_folder

with atomic_folder(Path(sys.argv[1]), replace=True) as folder:
    (folder / "file").write_text("new")
    print("writing", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_writer(target: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing `target`."""
    command = [sys.executable, "-c", WRITER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def write(target: Path, text: str, *, replace: bool = False) -> None:
    with atomic_folder(target, replace=replace) as folder:
        assert list(folder.iterdir()) == []
        (folder / "file").write_text(text)


def listing(folder: Path) -> dict[str, str]:
    """Every file under `folder`, hidden ones too, with its content."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_older_folder_is_set_aside_when_the_new_one_is_complete(tmp_path: Path) -> None:
    target, aside = tmp_path / "a", tmp_path / "b"
    for text in ("old", "new", "newest"):
        with atomic_folder(target, aside=aside) as folder:
            (folder / "file").write_text(text)
    kept = {"a/file": "newest", "b/file": "old", "b.2/file": "new"}
    assert listing(tmp_path) == kept
    with pytest.raises(RuntimeError), atomic_folder(target, aside=aside):
        raise RuntimeError
    assert listing(tmp_path) == kept


def test_the_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with atomic_folder(target) as folder:
        (folder / "file").write_text("new")
        assert not target.exists()
    assert listing(tmp_path) == {"a/b/file": "new"}


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "a") as folder:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(OSError, match=r"a/b cannot be written: .*/file is a file; choose another"),
        atomic_folder(tmp_path / "file/a/b"),
    ):
        pass
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    with (
        pytest.raises(OSError, match=r"closed/a cannot be written: .*/closed is closed to you"),
        atomic_folder(closed / "a"),
    ):
        pass


def test_an_existing_folder_is_only_replaced_on_demand(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")
    with pytest.raises(FileExistsError, match="remove it or ask for it to be replaced"):
        write(tmp_path / "a", "new")
    assert listing(tmp_path) == {"a/file": "old"}
    write(tmp_path / "a", "new", replace=True)
    assert listing(tmp_path) == {"a/file": "new"}


def test_a_failed_replacement_keeps_the_older_folder(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "a", replace=True) as folder:
        (folder / "file").write_text("half")
        raise RuntimeError
    assert listing(tmp_path) == {"a/file": "old"}


def test_a_link_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "disk" / "a", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a")
    write(tmp_path / "link", "new", replace=True)
    assert (tmp_path / "link").is_symlink()
    assert listing(tmp_path / "disk") == {"a/file": "new"}


def test_of_two_writers_the_second_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with another_writer(target) as process:
        with pytest.raises(BlockingIOError, match="being written by another process"):
            write(target, "mine")
        assert process.poll() is None
        assert listing(tmp_path) == {".a.partial/file": "new"}


@pytest.mark.parametrize("older", [True, False])
def test_what_a_killed_writer_left_is_cleared(tmp_path: Path, older: bool) -> None:
    target = tmp_path / "a"
    if older:
        write(target, "old")
    with another_writer(target) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert target.exists() == older
    write(target, "mine", replace=True)
    assert listing(tmp_path) == {"a/file": "mine"}


def test_a_folder_left_aside_between_the_renames_comes_back(tmp_path: Path) -> None:
    write(tmp_path / ".a.replaced", "old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "a", replace=True):
        raise RuntimeError
    assert listing(tmp_path) == {"a/file": "old"}
