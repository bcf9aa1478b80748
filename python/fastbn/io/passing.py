"""One run over many sources: opens them in turn, reads ahead, says what cannot be read and how far it is.

Knows neither what is done with a source nor, but for their names, kinds of files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, TypeAlias, TypeVar

from fastbn.io.readahead import ahead
from fastbn.io.sources import opened
from fastbn.io.sources.base import Place, Reading, Source, UnreadableError, files_of, fingerprint, naming
from fastbn.io.streaming import Report

T = TypeVar("T")
Listener: TypeAlias = Callable[[str, Exception], object]


class FailedError(Exception):
    """What went wrong with a file, as opposed to with what is done with it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Passing(ABC):
    """What runs over places have in common; what they do with a source is in ``_take_in``.

    ``listener`` is told of files that cannot be read; None: they end the run.
    """

    def __init__(self, places: Iterable[Place], reading: Reading, listener: Listener | None, report: Report) -> None:
        self._places, self._listener, self._report = places, listener, report
        self._unreadable: list[tuple[str, Exception]] = []
        note = None if listener is None else lambda path, error: self._unreadable.append((path, error))
        self._reading = reading._replace(unreadable=note)
        self._sizes = [_nbytes(place) for place in places] if isinstance(places, Sequence) else None
        self._total = None if self._sizes is None else sum(self._sizes)
        self._read, self._size = 0, 0  # bytes of the places that are done, and of the one under way

    def _pass(self, first: int = 0) -> None:
        """Take in the places from a number on."""
        for index, place in enumerate(self._places):
            self._size = 0 if self._sizes is None else self._sizes[index]
            if index >= first:
                self._attempt(place)
            self._read += self._size
            self._tell(0.0)

    def _attempt(self, place: Place) -> None:
        """Take in a place, or say that it cannot be read."""
        try:
            with closing(self._opened(place)) as source:
                self._take_in(source, place)
        except FailedError as failed:
            if self._listener is None or not self._undo():
                raise failed.error from failed.error.__cause__
            self._unreadable.append((place.name, failed.error))
        self._settle()

    def _opened(self, place: Place) -> Source:
        try:
            with naming(place.name), ExitStack() as stack:
                source = opened(place, self._reading_of(place))
                stack.callback(source.close)
                self._check(source, place)
                stack.pop_all()
                return source
        except (OSError, UnreadableError) as error:
            raise FailedError(error) from error

    # What a kind of run says for itself.

    @abstractmethod
    def _reading_of(self, place: Place) -> Reading:
        """Return how to read a place."""

    @abstractmethod
    def _check(self, source: Source, place: Place) -> None:
        """Raise UnreadableError where a source does not fit the others, or what it is read for."""

    @abstractmethod
    def _take_in(self, source: Source, place: Place) -> None:
        """Do with a source what the run is for."""

    # What it may say.

    def _undo(self) -> bool:
        """Whether a source that failed leaves nothing behind."""
        return True

    def _leave_out(self, name: str, error: Exception, listener: Listener) -> None:
        """Say that a file could not be read."""
        listener(name, error)

    # What they need.

    def _coming(self, items: Generator[T, None, None], source: Source) -> closing[Generator[T, None, None]]:
        """Return what comes from a source, read ahead where it can be."""
        return closing(ahead(items, self._reading.depth) if source.overlaps else items)

    def _settle(self) -> None:
        """Say which files could not be read. Here, for the thread that reads is not the caller's."""
        while self._unreadable:
            name, error = self._unreadable.pop(0)
            if self._listener is not None:
                self._leave_out(name, error, self._listener)

    def _tell(self, done: float) -> None:
        """Report how far the run is, of the place under way so great a part."""
        self._report(self._read + int(done * self._size), self._total)


def checked(items: Iterator[T], place: Place) -> Generator[T, None, None]:
    """Yield what a source yields; FailedError where it cannot be read, or was changed meanwhile."""
    try:
        with naming(place.name):
            before = _stamp(place)
            yield from items
            if _stamp(place) != before:
                raise UnreadableError(f"{place.name} must not change while it is read, but it did")
    except (OSError, UnreadableError) as error:
        raise FailedError(error) from error


def _nbytes(place: Place) -> int:
    """Return the size of a place's files, or of its array; 0 of what is missing."""
    if place.array is not None:
        return int(getattr(place.array, "nbytes", 0))
    return sum(found.st_size for _, found in files_of(place))


def _stamp(place: Place) -> dict[str, Any] | None:
    """Return what shows a change of a file or store; images, many files that are read one by one, are not watched."""
    return fingerprint(place) if len(place.files) == 1 else None
