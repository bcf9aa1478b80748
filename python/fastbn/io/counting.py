"""Statistics over many blocks of many sources: counts what comes, keeps checkpoints. Leaves reading to `passing`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from fastbn._moments.moments import Moments
from fastbn._validation import Shape
from fastbn.io.checkpoints import Checkpoint, Progress
from fastbn.io.combining import joined, taken
from fastbn.io.names import TABLES
from fastbn.io.passing import Listener, Passing, checked
from fastbn.io.sources.base import Array, Block, Place, Reading, Source, UnreadableError
from fastbn.io.streaming import Report


class Counting(Passing):
    """One run over places, which counts them together."""

    def __init__(
        self,
        places: Iterable[Place],
        reading: Reading,
        *,
        nan: Literal["propagate", "omit"] = "propagate",
        where_finite: bool = False,
        extremes: bool = True,
        listener: Listener | None,
        checkpoint: Checkpoint | None,
        report: Report,
    ) -> None:
        super().__init__(places, reading, listener, report)
        self._checkpoint, self._where_finite = checkpoint, where_finite
        self._options: dict[str, Any] = {"nan": "omit" if where_finite else nan, "extremes": extremes}
        self.state = Progress(total=Moments(**self._options))

    def run(self, resume: bool = False) -> Progress:
        """Count everything, or what a checkpoint has not counted."""
        if self._checkpoint is not None:
            self.state = (self._checkpoint.load() if resume else None) or self.state
            self._checkpoint.start()
        self._pass(self.state.place)
        if self.state.total.shape is None:
            skipped = list(self.state.skipped.values())
            found = f"{len(skipped)} that cannot; {skipped[0]}" if skipped else "nothing"
            raise ValueError(f"source must hold something that can be read, got {found}")
        return self.state

    def _attempt(self, place: Place) -> None:
        super()._attempt(place)
        self.state.place, self.state.position, self.state.parts = self.state.place + 1, 0, {}

    def _reading_of(self, place: Place) -> Reading:
        known = self._known(place)
        return self._reading if known is None else self._reading._replace(columns=tuple(known))

    def _known(self, place: Place) -> list[str] | None:
        """Return the columns of the tables before this one, of which it must have all and no more."""
        return self.state.names if place.kind in TABLES.values() and self._reading.columns is None else None

    def _check(self, source: Source, place: Place) -> None:
        _check_agreement(source, self.state.total.shape, self.state.names, self._known(place))

    def _take_in(self, source: Source, place: Place) -> None:
        with self._coming(checked(source.blocks(self.state.position), place), source) as blocks:
            for block in blocks:
                self._count(source, block)
        self._merge(source)

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
        self._tell(block.done)

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

    def _leave_out(self, name: str, error: Exception, listener: Listener) -> None:
        if name not in self.state.skipped:
            self.state.skipped[name] = str(error)
            listener(name, error)


def _check_agreement(source: Source, shape: Shape | None, names: list[str] | None, known: list[str] | None) -> None:
    if known is not None and source.more:
        raise UnreadableError(
            f"{source.name} must have the columns of those before it ({', '.join(known)}), "
            f"got {', '.join(source.more)} too"
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
