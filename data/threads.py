"""Work spread over threads; polars, pyarrow and numpy let go of the interpreter meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import polars as pl

Item = TypeVar("Item")
Result = TypeVar("Result")


def num_threads() -> int:
    """As many as polars has, which is one a core unless POLARS_MAX_THREADS says otherwise."""
    return pl.thread_pool_size()


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results in the order of the items, computed by threads a few items ahead.

    No more than two items beyond the threads are taken before their turn, so memory stays
    bounded. An exception reaches the caller, and ends the threads as leaving early does.
    """
    threads = num_threads()
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                del item  # or it would live on while the next one is made
                if len(pending) > threads + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
