"""A run over many places, in order: opens each, reads ahead, says what cannot be read and how far it is."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any, TypeVar

import numpy as np

from fastbn.io.options import Listener, Options
from fastbn.io.places import TABLES, Place, fingerprint, is_frame, nbytes_of
from fastbn.io.sources import Source, UnreadableError, naming

T = TypeVar("T")


class FailedError(Exception):
    """What went wrong with a file (its argument), as opposed to with what is done with it."""


@contextmanager
def _failing(place: Place) -> Iterator[None]:
    """Make FailedError of what goes wrong with a place."""
    try:
        with naming(place.name):
            yield
    except (OSError, UnreadableError) as error:
        raise FailedError(error) from error


def opened(place: Place, options: Options) -> Source:
    """Open a place. A frame is a table, unless its rows are features or all of it is one array of NumPy."""
    module = "images" if place.format == "images" else "tables" if place.format in TABLES.values() else "arrays"
    if is_frame(place.array):
        types = set(getattr(place.array, "dtypes", ()))
        alike = len(types) == 1 and all(isinstance(each, np.dtype) and each.kind in "biuf" for each in types)
        rows = options.axis in (None, 1, -1, (1,), (-1,)) and not alike
        module = "tables" if options.tabular or rows else module
    source: Source = importlib.import_module(f"fastbn.io.{module}").opened(place, options)
    return source


class Run:
    """One run over places, in order: opens each, says which cannot be read, and how far it is.

    ``listener`` is told of files that cannot be read (None: they end the run), ``options_of`` says how to read a place,
    and ``check`` raises UnreadableError where an opened one does not fit.
    """

    def __init__(
        self,
        places: Iterable[Place],
        options: Options,
        listener: Listener | None,
        options_of: Callable[[Place], Options],
        check: Callable[[Source, Place], object],
    ) -> None:
        self._places, self._listener, self._options_of, self._check = places, listener, options_of, check
        self._unreadable: list[tuple[str, Exception]] = []
        noted = None if listener is None else lambda path, error: self._unreadable.append((path, error))
        self.options = options.but(unreadable=noted)
        self._sizes = [nbytes_of(place) for place in places] if isinstance(places, Sequence) else None
        self._total = None if self._sizes is None else sum(self._sizes)
        self._read, self._size = 0, 0  # bytes of the places that are done, and of the one under way

    def each(
        self, take: Callable[[Source, Place], object], first: int = 0, undo: Callable[[], bool] = lambda: True
    ) -> Iterator[int]:
        """Do something with each source from a number on, and yield how many are done.

        ``undo`` says whether a source that failed leaves nothing behind.
        """
        for index, place in enumerate(self._places):
            self._size = 0 if self._sizes is None else self._sizes[index]
            if index >= first:
                try:
                    with closing(self._opened(place)) as source:
                        take(source, place)
                except FailedError as failed:
                    (error,) = failed.args
                    if self._listener is None or not undo():
                        raise error from error.__cause__
                    self._unreadable.append((place.name, error))
                self.report_unreadable()
                yield index + 1
            self._read += self._size
            self.tell(0.0)

    def overlapped(self, items: Generator[T, None, None], source: Source) -> closing[Generator[T, None, None]]:
        """Return items that a thread gets, where it may."""
        return closing(ahead(items, self.options.depth) if source.overlaps else items)

    def report_unreadable(self) -> None:
        """Say which files could not be read. Here, for the thread that reads is not the caller's."""
        while self._unreadable:
            name, error = self._unreadable.pop(0)
            if self._listener is not None:
                self._listener(name, error)

    def tell(self, done: float, nbytes: int = 0) -> None:
        """Report how far the run is: of the place under way so great a part, or so many bytes of unknown ones more."""
        self._read += nbytes if self._sizes is None else 0
        if self.options.progress is not None:
            self.options.progress(self._read + int(done * self._size), self._total)

    def _opened(self, place: Place) -> Source:
        with _failing(place), ExitStack() as stack:
            source = opened(place, self._options_of(place))
            stack.callback(source.close)
            self._check(source, place)
            for column, why in source.suspects:
                self.options.note(f"column {column!r} of {source.name} is left out, for {why}")
            stack.pop_all()
            return source


def checked(items: Iterator[T], place: Place) -> Generator[T, None, None]:
    """Yield what a source yields; FailedError where it cannot be read, or was changed meanwhile.

    Images, many files that are read one by one, are not watched.
    """
    watched = len(place.files) == 1
    with _failing(place):
        before = fingerprint(place) if watched else None
        yield from items
        if watched and fingerprint(place) != before:
            raise UnreadableError(f"{place.name} must not change while it is read, but it did")


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
            del item  # else a block that is done with stays until the next one is there
    finally:
        pool.shutdown(cancel_futures=True)
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
