"""Reading while computing: an iterator that a thread runs a few items ahead. Knows nothing of what it yields."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], depth: int = 1) -> Generator[T, None, None]:
    """Yield the items, in their order, while a thread gets the next ones, of which up to ``depth`` wait.

    What the thread raises is raised here, after the items before it. Once this iterator is closed the thread ends with
    the item that it is at.
    """
    end: Any = object()
    iterator = iter(items)
    pool = ThreadPoolExecutor(1, "fastbn-readahead")
    try:
        waiting = deque(pool.submit(next, iterator, end) for _ in range(depth + 1))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
