"""Statistics over many blocks of many sources: opens them in turn, counts, keeps checkpoints. Knows no format."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from fastbn.checks import Shape
from fastbn.io.combining import joined, taken
from fastbn.io.checkpoints import Checkpoint, Progress
from fastbn.io.readahead import ahead
from fastbn.io.sources import opened
from fastbn.io.sources.base import Array, Block, Place, Reading, Source, UnreadableError, naming
from fastbn.statistics import Moments

T = TypeVar("T")
Report: TypeAlias = Callable[[int, int | None], object]
OnError: TypeAlias = Callable[[str, Exception], object]


class FailedError(Exception):
    """What went wrong with a file, as opposed to with what is done with it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Counting:
    """One run over places. ``on_error`` is told of files that cannot be read; None: they end the run."""

    def __init__(
        self,
        places: Iterable[Place],
        reading: Reading,
        *,
        nan: Literal["propagate", "omit"] = "propagate",
        where_finite: bool = False,
        extremes: bool = True,
        on_error: OnError | None = None,
        checkpoint: Checkpoint | None = None,
        report: Report = lambda done, total: None,
    ) -> None:
        self._places, self._on_error, self._checkpoint, self._report = places, on_error, checkpoint, report
        self._unreadable: list[tuple[str, Exception]] = []
        tell = None if on_error is None else lambda path, error: self._unreadable.append((path, error))
        self._reading = reading._replace(unreadable=tell)
        self._options: dict[str, Any] = {"nan": "omit" if where_finite else nan, "extremes": extremes}
        self._where_finite = where_finite
        self._sizes = [nbytes_of(place) for place in places] if isinstance(places, Sequence) else None
        self._total = None if self._sizes is None else sum(self._sizes)
        self._read, self._size = 0, 0  # bytes of the places that are done, and of the one under way
        self.state = Progress(total=Moments(**self._options))

    def run(self, resume: bool = False) -> Progress:
        """Count everything, or what a checkpoint has not counted."""
        if self._checkpoint is not None:
            self.state = (self._checkpoint.load() if resume else None) or self.state
            self._checkpoint.start()
        for index, place in enumerate(self._places):
            self._size = 0 if self._sizes is None else self._sizes[index]
            if index >= self.state.place:
                self._take_in(place)
                self.state.place, self.state.position, self.state.parts = index + 1, 0, {}
            self._read += self._size
            self._tell(0)
        if self.state.total.shape is None:
            skipped = list(self.state.skipped.values())
            found = f"{len(skipped)} that cannot; {skipped[0]}" if skipped else "nothing"
            raise ValueError(f"source must hold something that can be read, got {found}")
        return self.state

    def _take_in(self, place: Place) -> None:
        try:
            with closing(self._opened(place)) as source:
                blocks = checked(source.blocks(self.state.position), place)
                with closing(ahead(blocks, self._reading.depth) if source.overlaps else blocks) as coming:
                    for block in coming:
                        self._count(source, block)
                self._settle()
                self._merge(source)
        except FailedError as failed:
            if self._on_error is None:
                raise failed.error from failed.error.__cause__
            self._unreadable.append((place.name, failed.error))
            self._settle()

    def _opened(self, place: Place) -> Source:
        reading = self._reading
        known = self.state.names if place.kind in ("csv", "parquet") and reading.columns is None else None
        try:
            with naming(place.name):
                source = opened(place, reading if known is None else reading._replace(columns=tuple(known)))
                with ExitStack() as stack:
                    stack.callback(source.close)
                    _check_agreement(source, self.state.total.shape, self.state.names, known)
                    stack.pop_all()
                return source
        except (OSError, UnreadableError) as error:
            raise FailedError(error) from error

    def _count(self, source: Source, block: Block) -> None:
        corner = tuple(block.corner[axis] for axis in source.axis)
        part = self.state.parts.setdefault(corner, Moments(**self._options))
        part.merge(self._measured(block.values, source.axis))
        self.state.position = block.following
        self._settle()
        if self._checkpoint is not None:
            self._checkpoint.save(self.state)
        if self._sizes is None:
            self._read += block.values.nbytes
        self._tell(int(block.done * self._size))

    def _measured(self, values: Array, axis: Shape) -> Moments:
        """Return a block's statistics; infinite values that are to be left out become NaN, in a copy."""
        part = Moments(**self._options).update(values, axis=axis)
        if self._where_finite and not np.isfinite(np.where(np.asarray(part.count) > 0, part.mean, 0.0)).all():
            finite = np.where(np.isfinite(values), values, np.nan).astype(values.dtype, copy=False)
            part = Moments(**self._options).update(finite, axis=axis)
        return part

    def _merge(self, source: Source) -> None:
        found = joined(self.state.parts)
        self.state.total.merge(found if source.order is None else taken(found, source.order))
        if self.state.names is None and source.names is not None:
            self.state.names = list(source.names)

    def _settle(self) -> None:
        """Say which files could not be read. Here, for the thread that reads is not the caller's."""
        while self._unreadable:
            name, error = self._unreadable.pop(0)
            if self._on_error is not None and name not in self.state.skipped:
                self.state.skipped[name] = str(error)
                self._on_error(name, error)

    def _tell(self, done: int) -> None:
        self._report(self._read + done, self._total)


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


def nbytes_of(place: Place) -> int:
    """Return the size of a place's files, or of its array; 0 of what is missing."""
    if place.array is not None:
        return int(getattr(place.array, "nbytes", 0))
    return sum(_size(path) for path in place.files)


def _size(path: str) -> int:
    if os.path.isdir(path):
        return sum(_size(os.path.join(root, name)) for root, _, names in os.walk(path) for name in names)
    try:
        return os.stat(path).st_size
    except OSError:  # whoever opens it will say so
        return 0


def _stamp(place: Place) -> tuple[int, int] | None:
    if len(place.files) != 1 or not os.path.isfile(place.files[0]):
        return None
    found = os.stat(place.files[0])
    return found.st_size, found.st_mtime_ns


def _check_agreement(source: Source, shape: Shape | None, names: list[str] | None, known: list[str] | None) -> None:
    more = getattr(source, "more", None)
    if known is not None and more:
        raise UnreadableError(
            f"{source.name} must have the columns of those before it ({', '.join(known)}), got {', '.join(more)} too"
        )
    if names is not None and source.names is not None and list(source.names) != names:
        raise UnreadableError(
            f"{source.name} must have the features of those before it ({', '.join(names)}), "
            f"got {', '.join(source.names)}"
        )
    if shape not in (None, source.features):
        raise UnreadableError(
            f"{source.name} must have the features of those before it, of shape {shape}, got {source.features}"
        )
