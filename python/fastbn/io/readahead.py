"""Reading while computing: an iterator that a thread runs a few items ahead. Knows nothing of what it yields."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], depth: int = 1) -> Generator[T, None, None]:
    """Yield the items, in their order, while a thread gets the next ones, of which up to ``depth`` wait.

    What the thread raises is raised here, after the items before it. Once this iterator is closed the thread ends with
    the item that it is at.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    end = object()
    left = threading.Event()

    def fetch() -> None:
        last: tuple[Any, BaseException | None] = (end, None)
        try:
            for item in items:
                waiting.put((item, None))
                if left.is_set():
                    break
        except BaseException as error:  # whatever it is belongs to the one who iterates
            last = (end, error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            waiting.put(last)

    thread = threading.Thread(target=fetch, name="fastbn-readahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        left.set()
        while thread.is_alive():
            with waiting.mutex:  # not by get(): an interruption in there may have kept it from waking the thread
                waiting.queue.clear()
                waiting.not_full.notify_all()
            thread.join(0.01)
