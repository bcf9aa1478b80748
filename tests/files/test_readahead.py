"""Reading ahead changes neither what comes nor in which order, and ends when nobody wants more."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from fastbn.io.run import ahead


def count_up(seen: list[int], limit: int = 10**9, error: Exception | None = None) -> Iterator[int]:
    """Yield numbers, and note each before it goes out, and -1 at the end."""
    try:
        for number in range(limit):
            seen.append(number)
            yield number
        if error is not None:
            raise error
    finally:
        seen.append(-1)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fastbn-readahead")]


@pytest.mark.parametrize("depth", [1, 3])
def test_everything_comes_in_order(depth: int) -> None:
    for limit in (0, 1, 2, 50):
        assert list(ahead(count_up([], limit), depth)) == list(range(limit))
    assert list(ahead([3, 2, 1], depth)) == [3, 2, 1]
    assert not threads()


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_read_than_may_wait(depth: int) -> None:
    seen: list[int] = []
    items = ahead(count_up(seen), depth)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(seen) < depth + 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert seen == list(range(depth + 2))  # one is given out, some wait, and one wants to
    items.close()
    assert seen[-1] == -1
    assert not threads()


def test_errors_come_after_what_was_before_them() -> None:
    items = ahead(count_up([], 3, ValueError("of the source")))
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(ValueError, match="of the source"):
        next(items)
    assert not threads()


def test_closing_waits_for_the_item_under_way() -> None:
    started = threading.Event()

    def slow() -> Iterator[int]:
        yield 0
        started.set()
        time.sleep(0.1)
        yield 1

    items = ahead(slow())
    next(items)
    started.wait()
    items.close()
    assert not threads()


def test_an_interruption_of_the_wait_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    result, calls = Future.result, itertools.count()

    def interrupted(self: Future[object], timeout: float | None = None) -> object:
        item = result(self, timeout)
        if next(calls) == 3:
            raise KeyboardInterrupt
        return item

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(ahead(iter(range(100))))
    assert threads() == []
