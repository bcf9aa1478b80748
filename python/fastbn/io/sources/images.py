"""Images, decoded by Pillow: pixels are rows, channels features. A place among them is a number of images."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from fastbn._validation import Shape
from fastbn.io.optional import needed
from fastbn.io.sources.base import Array, Block, Place, Reading, Ring, UnreadableError, chosen_columns, naming

_WORKERS = min(8, os.cpu_count() or 1)
# What is more than 8 bits deep has no counterpart among the modes that can be asked for.
_DEEP = {"I;16": np.uint16, "I;16B": np.uint16, "I;16L": np.uint16, "I": np.int32, "F": np.float32}
_GREY = ("1", "L", "LA", "La")


class Picture(NamedTuple):
    """A decoded image of shape (height, width, channels), and how many files come before the next one."""

    path: str
    values: Array
    following: int


class _Waiting(NamedTuple):
    """An image that is being decoded, of so many bytes at most."""

    number: int
    nbytes: int
    image: Any
    values: Future[Array]


class ImageSource:
    """Images of one mode: that of the first, grey or RGB, if none is asked for; alpha then does not count."""

    overlaps = True
    axis: Shape = (1,)
    shape: Shape | None = None
    flat = False
    more: Sequence[str] = ()
    order: tuple[int, ...] | None = None

    def __init__(self, place: Place, reading: Reading) -> None:
        self._image = needed("PIL.Image", "Images")
        if reading.axis not in (1, -1):
            raise UnreadableError(f"axis must be 1 for images, got {reading.axis} for {place.name}")
        self.name, self._files, self._reading = place.name, place.files, reading
        self._asked = reading.mode
        self.mode = reading.mode or self._first_mode()
        bands = needed("PIL.ImageMode", "Images").getmode(self.mode).bands
        self.chosen = chosen_columns(self.name, reading.columns, bands, len(bands))
        self._all = self.chosen == list(range(len(bands)))
        self.names: tuple[str, ...] | None = tuple(bands[i] for i in self.chosen)
        self.features: Shape = (len(self.chosen),)
        self.dtype = reading.dtype or np.dtype(_DEEP.get(self.mode, np.uint8))
        self._ring, self._most = Ring(reading), reading.block_bytes

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Yield the pixels of as many images as fit into a block."""
        most = max(1, self._most // (self.dtype.itemsize * len(self.chosen)))
        block, filled, following = self._ring.take((most, len(self.chosen)), self.dtype), 0, start
        for picture in self.pictures(start):
            pixels = picture.values.reshape(-1, len(self.chosen))
            if filled and filled + len(pixels) > most:
                yield Block(block[:filled], (0, 0), following, following / len(self._files))
                block, filled = self._ring.take((most, len(self.chosen)), self.dtype), 0
            following = picture.following
            if len(pixels) > most:
                yield Block(pixels.astype(self.dtype), (0, 0), following, following / len(self._files))
                continue
            np.copyto(block[filled : filled + len(pixels)], pixels, casting="unsafe")
            filled += len(pixels)
        yield Block(block[:filled], (0, 0), len(self._files), 1.0)

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the images in order, the next ones being decoded meanwhile."""
        waiting: deque[_Waiting] = deque()
        image: Any = None
        try:
            with ThreadPoolExecutor(_WORKERS) as pool:
                for index in range(start, len(self._files)):
                    image = self._header(index)
                    if image is None:
                        continue
                    nbytes = image.width * image.height * 4 * (1 + self._reading.beside)
                    while len(waiting) >= 2 * _WORKERS or (waiting and self._held(waiting) + nbytes > self._most):
                        yield from self._finished(waiting.popleft())
                    waiting.append(_Waiting(index, nbytes, image, pool.submit(self._decoded, image)))
                while waiting:
                    yield from self._finished(waiting.popleft())
        finally:
            for left in (image, *(each.image for each in waiting)):
                if left is not None:
                    left.close()

    def close(self) -> None:
        """Do nothing: a file is open while it is decoded."""

    def _held(self, waiting: Iterable[_Waiting]) -> int:
        return sum(each.nbytes for each in waiting)

    def _header(self, index: int) -> Any:
        """Open an image, of which that reads the header alone; None if it cannot be read."""
        path = self._files[index]
        try:
            with naming(path), ExitStack() as stack:
                image = stack.enter_context(self._image.open(path))
                self._check_mode(path, image)
                stack.pop_all()
                return image
        except (OSError, UnreadableError) as error:
            self._unreadable(path, error)
            return None

    def _finished(self, waiting: _Waiting) -> Iterator[Picture]:
        path = self._files[waiting.number]
        try:
            with naming(path):
                values = waiting.values.result()
        except (OSError, UnreadableError) as error:
            self._unreadable(path, error)
            return
        yield Picture(path, values, waiting.number + 1)

    def _decoded(self, image: Any) -> Array:
        with image:
            values = np.asarray(image if _mode_of(image) == image.mode == self.mode else image.convert(self.mode))
        values = values.reshape(*values.shape[:2], -1)
        return values if self._all else values[:, :, self.chosen]

    def _check_mode(self, path: str, image: Any) -> None:
        mode = _mode_of(image)
        if self._asked is not None and image.mode in _DEEP:
            raise UnreadableError(f"{path} must have 8 bits to be of mode {self.mode}, got mode {image.mode}")
        if self._asked is None and mode != self.mode:
            raise UnreadableError(
                f"{path} must be of mode {self.mode} as those before it, got {mode} (or ask for one mode for all)"
            )

    def _first_mode(self) -> str:
        first: Exception | None = None
        for path in self._files:
            try:
                with naming(path), self._image.open(path) as image:
                    return _mode_of(image)
            except (OSError, UnreadableError) as error:
                if self._reading.unreadable is None:
                    raise
                first = first or error
        raise UnreadableError(f"{self.name} must hold an image that can be read: {first}")

    def _unreadable(self, path: str, error: Exception) -> None:
        if self._reading.unreadable is None:
            raise error
        self._reading.unreadable(path, error)


def _mode_of(image: Any) -> str:
    """Return the mode in which an image counts unless another is asked for."""
    if image.mode in _DEEP:
        return "I;16" if image.mode.startswith("I;16") else str(image.mode)
    return "L" if image.mode in _GREY else "RGB"


opened = ImageSource
