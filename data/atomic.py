"""Folders that are complete or absent: written beside their place, renamed last."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path


@contextmanager
def atomic_folder(
    target: Path, *, replace: bool = False, aside: Path | None = None
) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends without an exception.

    An exception removes the folder and leaves an older `target` as it was; what a killed process
    left behind is removed by the next writer of the same target. Of two writers of one target at
    the same time the second raises `BlockingIOError`. An existing `target` is removed in the end
    where `replace` is set, is moved to `aside` where that is given (or to `aside`.2 and so on, as
    nothing is lost there), and raises `FileExistsError` otherwise. A `target` that is a link is
    followed. Raises `OSError` as `check_writable`.
    """
    target = Path(target).resolve()
    check_writable(target)
    partial = target.with_name(f".{target.name}.partial")
    replaced = target.with_name(f".{target.name}.replaced")
    with locked_folder(partial, target):
        # A process killed between the two renames below left the older folder aside: take it back.
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        try:
            if target.exists() and not replace and aside is None:
                raise FileExistsError(f"{target} exists; remove it or ask for it to be replaced")
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced if aside is None else _free_name(aside))
        partial.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)


def _free_name(path: Path) -> Path:
    """`path`, or `path`.2, `path`.3 and so on: the first one that is not there."""
    names = chain([path], (path.with_name(f"{path.name}.{number}") for number in count(2)))
    return next(name for name in names if not name.exists())


def check_writable(folder: Path) -> None:
    """Raise `OSError` where `folder` is not there and cannot be made, or cannot be written into."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        reason = "a file"
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = "closed to you"
    else:
        return
    raise OSError(f"{folder} cannot be written: {there} is {reason}; choose another place")


@contextmanager
def locked_folder(folder: Path, target: Path) -> Iterator[None]:
    """Make `folder` empty and hold a lock on it that dies with the process.

    target: what is written in it. Raises `BlockingIOError` where another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between our open and our lock its owner may have renamed it to `target`.
        if not folder.exists() or os.fstat(handle).st_ino != folder.stat().st_ino:
            raise BlockingIOError
        for leftover in folder.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield
    except BlockingIOError:
        raise BlockingIOError(
            f"{target} is being written by another process; wait for it or stop it"
        ) from None
    finally:
        os.close(handle)
