"""A run over many places, in order: opens each, reads ahead, says what cannot be read and how far it is."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any, TypeAlias, TypeVar

import numpy as np

from fastbn._moments.provenance import Coordinates, frame_columns
from fastbn.io.checkpoints import Checkpoint, Progress
from fastbn.io.options import Options
from fastbn.io.places import TABLES, Place, fingerprint, is_frame, nbytes_of, refuse_streams
from fastbn.io.sources import Block, Source, UnreadableError, naming

_LEAST_AHEAD = 1 << 16  # bytes of a source; to start a thread for less takes longer than to read it
T = TypeVar("T")
Make: TypeAlias = Callable[[Iterable[Block]], Generator[Block, None, None]]


class FailedError(Exception):
    """What went wrong with a file (its argument), as opposed to with what is done with it."""


@contextmanager
def failing(place: Place) -> Iterator[None]:
    """Make FailedError of what goes wrong with a place."""
    try:
        with naming(place.name):
            yield
    except (OSError, UnreadableError) as error:
        raise FailedError(error) from error


def opened(place: Place, options: Options) -> Source:
    """Open a place. A frame is a table, unless its rows are features or all of it is one array of NumPy."""
    for path in place.files if place.format != "images" else ():  # of which there are many
        refuse_streams(path)
    module = "images" if place.format == "images" else "tables" if place.format in TABLES.values() else "arrays"
    if is_frame(place.array):
        types = set(getattr(place.array, "dtypes", ()))
        alike = len(types) == 1 and all(isinstance(each, np.dtype) and each.kind in "biuf" for each in types)
        weights = isinstance(options.weights, str) and options.weights in frame_columns(place.array)
        rows = options.axis in (None, 1, -1, (1,), (-1,)) and (weights or not alike)
        module = "tables" if options.tabular or rows else module
    source: Source = importlib.import_module(f"fastbn.io.{module}").opened(place, options)
    return source


def check_dims(source: Source, coords: Coordinates | None) -> None:
    """Raise UnreadableError where a source has a dimension of the statistics' features along another axis."""
    names = source.origin.dims or ()
    if coords is not None and (other := coords.elsewhere(names, source.axis)):
        swapped = {names[axis] for axis in source.axis} == set(coords.dims)
        hint = "xarray's transpose swaps them" if swapped else "dim=, --dim, names the dimensions to reduce"
        raise UnreadableError(f"{source.name} must have its features {other} ({hint})")


class Run:
    """One run over places, in order: opens each, reads it ahead, and notes how far it is and what cannot be read.

    What is done with each source is `_take`'s, of `Counting` and `Rewriting`, which goes through `_blocks`.
    """

    _checkpoint: Checkpoint | None = None

    def __init__(self, places: Iterable[Place], options: Options) -> None:
        self._places, self._listener, self.state = places, options.listener, Progress()
        self._unreadable: list[tuple[str, Exception]] = []  # noted by the thread that reads, which is not the caller's
        noted = None if self._listener is None else lambda path, error: self._unreadable.append((path, error))
        self._options = options.but(unreadable=noted)
        self._sizes = [nbytes_of(place) for place in places] if isinstance(places, Sequence) else None
        self._total = None if self._sizes is None else sum(self._sizes)
        self._read, self._size = 0, 0  # bytes of the places that are done, and of the one under way, if that is known

    @abstractmethod
    def _options_of(self, place: Place) -> Options:
        """Return how a place is to be read."""

    @abstractmethod
    def _take(self, source: Source, place: Place) -> None:
        """Do with a source what the run is for; FailedError where it does not fit."""

    def _undo(self) -> bool:
        """Whether a source that failed has left nothing behind."""
        return True

    def _synchronize(self) -> None:
        """Have the system write out what was made, before a checkpoint says that it is there."""

    def _each(self) -> None:
        state = self.state
        for index, place in enumerate(self._places):
            self._size = 0 if self._sizes is None else self._sizes[index]
            if index >= state.place:
                try:
                    with failing(place):
                        source = opened(place, self._options_of(place))
                    with closing(source):
                        with failing(place):
                            dims = self._checked_dims(source)
                        self._take(source, place)
                        state.dims, found = state.dims or dims, source.coordinates
                        state.coords = found if state.coords is None else state.coords.filled(found)
                except FailedError as failed:
                    (error,) = failed.args
                    if self._listener is None or not self._undo():
                        raise error from error.__cause__
                    self._unreadable.append((place.name, error))
                self._report_unreadable()
                state.place, state.position, state.before, state.parts = index + 1, 0, state.row, {}
                self._save()
            self._read += self._size
            self._tell(0.0)

    def _checked_dims(self, source: Source) -> list[str] | None:
        """Return the names of a source's feature dimensions, if the run goes by names.

        They must be those of the sources before it, and so must be the coordinates along them.
        """
        names, before, coords = source.origin.dims or (), self.state.dims, self.state.coords
        dims = [names[axis] for axis in source.axis if axis < len(names)]
        by_name = dims if self._options.dim is not None and names else None
        if None not in (by_name, before) and by_name != before:
            rule = f"must have its features along {', '.join(before or ())}, as those before it"
            raise UnreadableError(f"{source.name} {rule}, got {', '.join(dims)}")
        check_dims(source, coords)
        if coords is not None and (differs := coords.difference(source.coordinates)):
            rule = f"must have the coordinates of those before it {differs}"
            raise UnreadableError(f"{source.name} {rule} (those without, xarray's drop_vars, go by position)")
        return by_name

    def _blocks(self, source: Source, place: Place, make: Make | None = None) -> Generator[Block, None, None]:
        """Yield a source's blocks, or what is made of them, and note after each how far the run is.

        One thread reads and another makes, while the caller has the block before, if the source allows.
        """
        small = self._sizes is not None and self._size < _LEAST_AHEAD

        def overlapped(items: Generator[Block, None, None]) -> Generator[Block, None, None]:
            return ahead(items) if source.overlaps and not small else items

        state = self.state
        for remark in source.suspects:
            self._options.note(remark)
        with ExitStack() as stack:
            blocks = stack.enter_context(closing(overlapped(self._read_from(source, place))))
            if make is not None:
                blocks = stack.enter_context(closing(overlapped(make(blocks))))
            for block in blocks:
                yield block
                self._report_unreadable()
                state.row = max(state.row, state.before + block.corner[0] + len(block.values))
                if block.following is not None:
                    state.position = block.following
                    self._save()
                self._tell(block.done)
                del block  # the next one is read into the memory of this

    def _read_from(self, source: Source, place: Place) -> Generator[Block, None, None]:
        """Yield a source's blocks; FailedError where it cannot be read, or was changed meanwhile.

        Images, many files that are read one by one, are not watched.
        """
        watched = len(place.files) == 1
        with failing(place):
            before = fingerprint(place) if watched else None
            for block in source.blocks(self.state.position, self.state.row - self.state.before):
                self._read += block.values.nbytes if self._sizes is None else 0
                yield block
                del block  # the next one is read into the memory of this
            if watched and fingerprint(place) != before:
                raise UnreadableError(f"{place.name} must not change while it is read, but it did")

    def _report_unreadable(self) -> None:
        while self._unreadable:
            name, error = self._unreadable.pop(0)
            if self._listener is not None and name not in self.state.skipped:
                self.state.skipped[name] = str(error)
                self._listener(name, error)

    def _save(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.save(self.state, self._synchronize)

    def _tell(self, done: float) -> None:
        """Report how far the run is: so great a part of the place under way is done."""
        if self._options.progress is not None:
            self._options.progress(self._read + int(done * self._size), self._total)


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
