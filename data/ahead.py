"""The next item of an iteration is made while one is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items; a thread makes the next one meanwhile, and no further one.

    An exception reaches the caller in its turn; leaving early waits for the item being made.
    """
    iterator = iter(items)

    def take() -> list[Item]:
        return list(islice(iterator, 1))

    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        ahead = thread.submit(take)
        while found := ahead.result():
            item = found.pop()
            ahead = thread.submit(take)
            yield item
            del item  # or it would live on while another one is made
