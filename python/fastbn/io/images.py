"""Images: pixels are rows, channels features, and values what is stored, or the file is refused.

TIFF is read by tifffile, PNM here, what has more than 8 bits by imagecodecs, and everything else by Pillow, which is
exact for 8 bits. A file's first bytes say which it is, and its suffix where they say nothing. A place among images is a
number of files.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastbn.io.options import MAX_PIXELS, Array, Reading, Shape
from fastbn.io.places import Place, suffix_of
from fastbn.io.sources import (
    Block,
    NoData,
    Origin,
    Ring,
    UnreadableError,
    chosen_columns,
    naming,
    needed,
    nodata_of,
)

_WORKERS = min(8, os.cpu_count() or 1)
_GREY = ("1", "L", "LA", "La")
_EXACT = (*_GREY, "RGB", "RGBA", "RGBa", "RGBX", "P", "PA")  # modes that Pillow gives as they are stored
_CODECS = {".jp2": "jpeg2k", ".j2k": "jpeg2k", ".avif": "avif", ".jxl": "jpegxl"}
_MAGIC = {  # how files of a format begin
    "tiff": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "png": rb"\x89PNG\r\n\x1a\n",
    "jpeg2k": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "jpegxl": rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a",
    "avif": rb"[\s\S]{4}ftyp",
    "pnm": rb"P[1-6Ff][\s#]",
}
_PILLOW = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "PCX", "TGA", "ICO")  # which it reads as they are stored
_MODED = (*_PILLOW, "TIFF", "PPM", "JPEG2000", "AVIF")  # of 8 bits, where a mode is asked for
_PNM = (".ppm", ".pgm", ".pbm", ".pnm", ".pfm")
_MASK = 4  # of a TIFF's NewSubfileType
_limit = threading.Lock()


class Picture(NamedTuple):
    """A decoded image of shape (height, width, channels).

    ``following`` is how many files come before the next one, None where more of this one comes.
    """

    path: str
    values: Array
    following: int | None


class _Waiting(NamedTuple):
    """A file that is being decoded, of so many bytes at most."""

    number: int
    nbytes: int
    pictures: Future[list[Array]]


class _Header(NamedTuple):
    """What an image is, before it is decoded: of which kind and size, and how to decode all that a file has of them.

    ``each`` decodes them one by one, where that can be.
    """

    kind: str
    pixels: int
    channels: int
    dtype: np.dtype[Any]
    decode: Callable[[], list[Array]]
    nodata: tuple[Any, ...] = ()
    each: Callable[[], Iterator[Array]] | None = None


_Reader: TypeAlias = Callable[[str, Reading], _Header]


class ImageSource:
    """Images of one kind: that of the first, grey or RGB, if no mode is asked for; alpha then does not count."""

    overlaps = True
    axis: Shape = (1,)
    shape: Shape | None = None
    flat = False
    more: Sequence[str] = ()
    suspects: Sequence[tuple[str, str]] = ()
    order: tuple[int, ...] | None = None
    origin = Origin()

    def __init__(self, place: Place, reading: Reading) -> None:
        if reading.axis not in (None, 1, -1) or reading.dim is not None:
            raise UnreadableError(f"axis must be 1 for images, got {reading.dim or reading.axis} for {place.name}")
        if reading.weights is not None:
            raise UnreadableError(f"weights must come with arrays or tables, got the images of {place.name}")
        needed("PIL.Image", "Images")
        self.name, self._files, self._reading = place.name, place.files, reading
        first = self._first()
        self.kind = reading.mode or first.kind
        bands = _bands(self.kind, first.channels)
        self.chosen = chosen_columns(self.name, reading.columns, bands, len(bands))
        self._all = self.chosen == list(range(len(bands)))
        self.names: tuple[str, ...] | None = tuple(bands[i] for i in self.chosen)
        self.features: Shape = (len(self.chosen),)
        wide = first.dtype.kind == "b" or first.dtype.itemsize == 8 or first.dtype == np.uint32
        own = np.dtype(np.float64) if wide else first.dtype
        self.dtype = reading.dtype or (np.dtype(np.uint8) if reading.mode else own)
        nodata = nodata_of(reading, self.name, self.chosen, bands, len(bands))
        own_nodata = () if reading.mode else first.nodata
        self.notes = [f"left out as no data: {v:.15g} (GDAL_NODATA)" for v in own_nodata if nodata is None and v == v]
        self._nodata = NoData([own_nodata] * len(self.chosen) if nodata is None else nodata, self.axis)
        self._ring, self._most = Ring(reading), reading.block_bytes

    def blocks(self, start: int = 0, row: int = 0) -> Iterator[Block]:
        """Yield the pixels of as many images as fit into a block."""
        width = len(self.chosen)
        most = max(1, self._most // (self.dtype.itemsize * width))
        block, filled, done, following = self._ring.take((most, width), self.dtype), 0, start, True
        for picture in self.pictures(start):
            pixels = picture.values.reshape(-1, width)
            for begin in range(0, max(1, len(pixels)), most):
                part = pixels[begin : begin + most]
                if filled and filled + len(part) > most:
                    yield self._block(block[:filled], done, following and begin == 0)
                    block, filled = self._ring.take((most, width), self.dtype), 0
                np.copyto(block[filled : filled + len(part)], part, casting="unsafe")
                filled += len(part)
            done = done if picture.following is None else picture.following
            following = picture.following is not None
        yield self._block(block[:filled], len(self._files), True)

    def _block(self, values: Array, done: int, resumable: bool) -> Block:
        valid = self._nodata.valid(values)
        return Block(values, (0, 0), done if resumable else None, done / len(self._files), valid)

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the images in order, the next ones being decoded meanwhile."""
        waiting: deque[_Waiting] = deque()
        with _bounded(self._reading), ThreadPoolExecutor(_WORKERS) as pool:
            for index in range(start, len(self._files)):
                header = self._header(index)
                if header is None:
                    continue
                channels = 4 if header.dtype == np.uint8 else header.channels * header.dtype.itemsize
                nbytes = header.pixels * channels * (1 + self._reading.beside)
                while len(waiting) >= 2 * _WORKERS or (waiting and _held(waiting) + nbytes > self._most):
                    yield from self._finished(waiting.popleft())
                if header.each is not None and nbytes > self._most:
                    yield from self._one_by_one(index, header.each())
                    continue
                waiting.append(_Waiting(index, nbytes, pool.submit(self._decoded, header)))
            while waiting:
                yield from self._finished(waiting.popleft())

    def close(self) -> None:
        """Do nothing: a file is open while it is decoded."""

    def valid(self, values: Array) -> Array | None:
        """Return which of an image's values are data."""
        valid = self._nodata.valid(values.reshape(-1, values.shape[-1]))
        return None if valid is None else valid.reshape(values.shape)

    def _header(self, index: int) -> _Header | None:
        """Return what an image is; None if it cannot be read."""
        path = self._files[index]
        try:
            with naming(path):
                header = _header_of(path, self._reading)
                if self._reading.mode is None and header.kind != self.kind:
                    convertible = {self.kind, header.kind} == {"L", "RGB"}
                    hint = " (or ask for one mode for all: mode='RGB', --mode RGB)" if convertible else ""
                    raise UnreadableError(
                        f"{path} must be of mode {self.kind} as those before it, got {header.kind}{hint}"
                    )
                return header
        except (OSError, UnreadableError) as error:
            self._unreadable(path, error)
            return None

    def _finished(self, waiting: _Waiting) -> Iterator[Picture]:
        path = self._files[waiting.number]
        try:
            with naming(path):
                pictures = waiting.pictures.result()
        except (OSError, UnreadableError) as error:
            self._unreadable(path, error)
            return
        for number, values in enumerate(pictures, 1):
            yield Picture(path, values, waiting.number + 1 if number == len(pictures) else None)

    def _one_by_one(self, index: int, images: Iterator[Array]) -> Iterator[Picture]:
        """Yield the images of a file that are too many for the memory; where one is damaged, the run ends."""
        path = self._files[index]
        with naming(path):
            last = next(images)
            for image in images:
                yield Picture(path, self._as_chosen(last), None)
                last = image
            yield Picture(path, self._as_chosen(last), index + 1)

    def _decoded(self, header: _Header) -> list[Array]:
        return [self._as_chosen(values) for values in header.decode()]

    def _as_chosen(self, values: Array) -> Array:
        values = values.reshape(*values.shape[:2], -1)
        return values if self._all else values[:, :, self.chosen]

    def _first(self) -> _Header:
        """Return what the first image is that can be read."""
        first: Exception | None = None
        for path in self._files:
            try:
                with _bounded(self._reading), naming(path):
                    return _header_of(path, self._reading)
            except (OSError, UnreadableError) as error:
                if self._reading.unreadable is None:
                    raise
                first = first or error
        raise UnreadableError(f"{self.name} must hold an image that can be read: {first}")

    def _unreadable(self, path: str, error: Exception) -> None:
        if self._reading.unreadable is None:
            raise error
        self._reading.unreadable(path, error)


opened = ImageSource


def _held(waiting: Iterable[_Waiting]) -> int:
    return sum(each.nbytes for each in waiting)


@contextmanager
def _bounded(reading: Reading) -> Iterator[None]:
    """Let Pillow, which has one bound for all, open what the options allow, while that is more than its own."""
    if reading.max_pixels <= MAX_PIXELS:
        yield
        return
    image = needed("PIL.Image", "Images")
    with _limit:
        before, image.MAX_IMAGE_PIXELS = image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            image.MAX_IMAGE_PIXELS = before


def _bands(kind: str, channels: int) -> tuple[str, ...]:
    """Return the names of channels: Pillow's, or numbers."""
    if kind in ("LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"):
        return tuple(needed("PIL.ImageMode", "Images").getmode(kind).bands)
    if channels == 3 and kind.startswith("RGB"):
        return ("R", "G", "B")
    return (kind.partition(";")[0],) if channels == 1 else tuple(map(str, range(channels)))


def _kind(channels: int, dtype: np.dtype[Any], colour: bool) -> str:
    """Return what to call images of a type, as Pillow does where it knows it: L, RGB, I;16, I and F."""
    known = {"uint8": "L", "uint16": "I;16", "int32": "I", "float32": "F"}
    if channels == 1:
        return known.get(dtype.name, f"{'F' if dtype.kind == 'f' else 'I'};{dtype.name}")
    stem = "RGB" if colour and channels == 3 else f"{channels} channels"
    return stem if dtype == np.uint8 else f"{stem};{dtype.name}"


def _header_of(path: str, reading: Reading) -> _Header:
    reader = _reader_of(path)
    if reading.mode is None:
        header = reader(path, reading)
    else:
        header, stored = _pillow(path, reading), ""
        with suppress(UnreadableError):  # of what only a mode makes readable, CMYK for instance
            stored = reader(path, reading._replace(mode=None)).kind
        if re.fullmatch(r"((L|RGB|\d+ channels)(;[2-7])?)?", stored) is None:
            raise UnreadableError(f"{path} must have 8 bits to be of mode {reading.mode}, got mode {stored}")
    if header.pixels > reading.max_pixels:
        raise UnreadableError(
            f"{path} must have at most {reading.max_pixels} pixels, got {header.pixels} (max_pixels= allows more)"
        )
    return header


def _reader_of(path: str) -> _Reader:
    """Return what reads a file as it is stored, by its first bytes, whatever it is called."""
    with open(path, "rb") as file:
        head = file.read(26)
    suffix = suffix_of(path)
    named = "tiff" if suffix in (".tif", ".tiff") else "pnm" if suffix in _PNM else _CODECS.get(suffix, "")
    found = next((name for name, magic in _MAGIC.items() if re.match(magic, head)), named)
    if found in ("tiff", "pnm"):
        return _tiff if found == "tiff" else _pnm
    if found in _CODECS.values() or (found == "png" and head[24:25] == b"\x10"):
        return partial(_deep, codec=found)
    return _pillow


# Pillow: 8 bits, and the modes that can be asked for.


def _pillow(path: str, reading: Reading) -> _Header:
    pillow = needed("PIL.Image", "Images")
    with pillow.open(path) as image:
        mode, asked = str(image.mode), reading.mode
        if image.format not in (_PILLOW if asked is None else _MODED):
            raise UnreadableError(f"{path} must be of an image format that can be read exactly, got {image.format}")
        if asked is None and mode not in (*_EXACT, "I;16", "I", "F"):
            raise UnreadableError(f"{path} must be grey or RGB, or be asked for a mode (mode='RGB'), got mode {mode}")
        frames = 1 if image.format in ("JPEG", "MPO", "ICO") else getattr(image, "n_frames", 1)
        kind = asked or (mode if mode.startswith(("I", "F")) else "L" if mode in _GREY else "RGB")
        pixels, size = image.width * image.height * frames, len(pillow.new(kind, (1, 1)).getbands())
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(kind, np.uint8)

    def decode() -> list[Array]:
        found = []
        with pillow.open(path) as image:
            for frame in range(frames):
                if frames > 1:
                    image.seek(frame)
                    image.load()  # which may change the mode
                    # A palette behind a grey frame of a GIF, which Pillow drops or makes RGB of.
                    coloured = asked is None and kind == "L" and image.mode not in _GREY
                    if coloured or image.mode != image.im.mode:
                        raise UnreadableError(f"{path} must have frames of one mode, got {mode} and {image.mode}")
                exact = asked is None and image.mode == kind
                found.append(np.asarray(image if exact else image.convert(kind)))
        return found

    return _Header(kind, pixels, size, np.dtype(dtype), decode)


# What has more than 8 bits: imagecodecs.


def _png_header(path: str) -> tuple[int, int]:
    """Return the numbers of pixels and channels of a PNG of 16 bits."""
    with open(path, "rb") as file:
        head = file.read(26)
    return int.from_bytes(head[16:20], "big") * int.from_bytes(head[20:24], "big"), 3 if head[25] & 2 else 1


def _deep(path: str, reading: Reading, codec: str) -> _Header:
    """Return an image by what decodes its depth, of which only PNG says something before it is decoded.

    Two and four channels are grey and RGB with alpha, which does not count.
    """
    codecs = needed("imagecodecs", "Images of more than 8 bits")
    decoder = getattr(codecs, f"{codec}_decode")

    def decode() -> list[Array]:
        with open(path, "rb") as file:
            values = np.asarray(decoder(file.read()))
        values = values if values.ndim > 2 else values[..., np.newaxis]
        channels = {2: 1, 4: 3}.get(values.shape[-1], values.shape[-1])
        return [values.reshape(-1, *values.shape[-2:])[..., :channels]]

    if codec == "png":
        pixels, channels = _png_header(path)
        return _Header(_kind(channels, np.dtype(np.uint16), True), pixels, channels, np.dtype(np.uint16), decode)
    found = decode()
    channels = found[0].shape[-1]
    dtype = found[0].dtype
    return _Header(_kind(channels, dtype, True), found[0].size // channels, channels, dtype, lambda: found)


# PNM, whose numbers Pillow scales to 8 or 16 bits. Images of the binary formats may follow one another in a file.


class _Raster(NamedTuple):
    """An image of a PNM file: its format, shape and type, its largest value, and where its values lie."""

    magic: str
    shape: tuple[int, int, int]
    stored: np.dtype[Any]
    top: float
    begin: int
    nbytes: int


def _pnm(path: str, reading: Reading) -> _Header:
    rasters = list(_rasters(path))
    kinds = [_kind(each.shape[2], each.stored.newbyteorder("="), True) for each in rasters]
    if len(set(kinds)) > 1:
        raise UnreadableError(f"{path} must hold images of one kind, got {' and '.join(sorted(set(kinds)))}")

    def each() -> Iterator[Array]:
        with open(path, "rb") as file:
            for raster in rasters:
                file.seek(raster.begin)
                yield _unpacked(path, raster, file.read(raster.nbytes))

    pixels = sum(height * width for height, width, _ in (raster.shape for raster in rasters))
    channels, dtype = rasters[0].shape[2], rasters[0].stored.newbyteorder("=")
    return _Header(kinds[0], pixels, channels, dtype, lambda: list(each()), (), each)


def _rasters(path: str) -> Iterator[_Raster]:
    """Yield what the headers in a file say, one behind the values of another."""
    begin, size = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while begin < size or begin == 0:
            file.seek(begin)
            head = file.read(1 << 12)
            blank = len(head) - len(head.lstrip()) if begin else 0
            if blank == len(head) and begin:
                begin += blank
                continue
            raster = _raster(path, head[blank:], begin + blank, size)
            yield raster
            begin = raster.begin + raster.nbytes


def _raster(path: str, head: bytes, begin: int, size: int) -> _Raster:
    found = re.match(rb"P([1-6Ff])" + rb"(?:\s|#[^\n]*\n)+([0-9.+-]+)" * 3, head.replace(b"\0", b"0") + b" ")
    if head[:2] in (b"P1", b"P4"):
        found = re.match(rb"P([14])" + rb"(?:\s|#[^\n]*\n)+([0-9]+)" * 2 + rb"()", head)
    if found is None:
        behind = f" {begin} bytes behind its beginning" if begin else ""
        raise UnreadableError(f"{path} must be a PNM image (P1 to P6, Pf, PF), got {head[:2]!r}{behind}")
    magic, width, height = found[1].decode(), int(found[2]), int(found[3])
    if min(width, height) < 0:  # or the next image would begin before this one
        raise UnreadableError(f"{path} must have a width and a height of 0 or more, got {width} and {height}")
    channels = 3 if magic in "36F" else 1
    top = float(found[4] or 1)
    stored = np.dtype(f"{'<' if top < 0 else '>'}f4") if magic in "Ff" else np.dtype(">u2" if top > 255 else "u1")
    if magic not in "Ff" and not 1 <= top <= 65535:
        raise UnreadableError(f"{path} must have a largest value of 1 to 65535, got {found[4].decode()}")
    begin += found.end() + (magic not in "123")
    nbytes = height * (-(-width // 8) if magic == "4" else width * channels * stored.itemsize)
    nbytes = size - begin if magic in "123" else nbytes
    return _Raster(magic, (height, width, channels), stored, top, begin, nbytes)


def _unpacked(path: str, raster: _Raster, data: bytes) -> Array:
    """Return the values of an image; those of a text are one image, with nothing but blanks behind it."""
    magic, stored, (height, width, channels) = raster.magic, raster.stored, raster.shape
    count = height * width * channels
    if magic in "123":
        entries = re.sub(rb"#[^\n]*", b"", data).split()
        numbers = re.findall(rb"[\s\S]", b"".join(entries)) if magic == "1" else entries
        if len(numbers) > count:
            raise UnreadableError(f"{path} must hold one image of {count} values, got more behind it")
        values: Array = np.array(numbers, np.int64)
        if values.size and not 0 <= values.min() <= values.max() <= raster.top:
            raise UnreadableError(f"{path} must have values of 0 to {raster.top:.0f}, got {values.max()}")
    elif magic == "4":
        packed = np.frombuffer(data[: raster.nbytes], np.uint8)
        whole = packed[: packed.size // (-(-width // 8) or 1) * -(-width // 8)]
        values = np.unpackbits(whole.reshape(-1, -(-width // 8) or 1), axis=1)[:, :width]
    else:
        values = np.frombuffer(data[: len(data) // stored.itemsize * stored.itemsize], stored)
    if values.size < count:
        raise UnreadableError(f"{path} must hold {count} values, got {values.size}: it is cut short")
    values = values.reshape(raster.shape)
    if magic in "14":  # 1 is black
        values = (1 - values) * 255
    return values[::-1] if magic in "Ff" else values.astype(stored.newbyteorder("="))


# TIFF: every page that is no smaller copy of another and no mask.


def _tiff(path: str, reading: Reading) -> _Header:
    tifffile = needed("tifffile", "TIFF images")
    needed("imagecodecs", "TIFF images")
    with tifffile.TiffFile(path) as tiff:
        pages = list(_pages(tiff))
        if not pages:
            raise UnreadableError(f"{path} must hold an image, got smaller copies and masks alone")
        first = pages[0].keyframe
        channels, dtype, kind = _samples(path, first)
        for page in pages:
            if _samples(path, page.keyframe) != (channels, dtype, kind):
                raise UnreadableError(f"{path} must hold images of one kind, got several")
            # Zeros would be read in the place of those that are missing, or looked for as long as there are any.
            parts, known = math.prod(page.chunked), min(len(page.dataoffsets), len(page.databytecounts))
            if known < parts:
                raise UnreadableError(f"{path} must say where its {parts} strips or tiles are, got {known} places")
        pixels = sum(series.size for series in _series(tiff)) // max(1, first.samplesperpixel)
        text = first.tags.valueof("GDAL_NODATA")
    nodata = () if text is None else _gdal(str(text), dtype)

    def each() -> Iterator[Array]:
        with tifffile.TiffFile(path) as tiff:
            for series in _series(tiff):
                for page in _decoded(series):
                    yield _channels_last(*page, channels)

    return _Header(kind, pixels, channels, dtype, lambda: list(each()), nodata, each)


def _series(tiff: Any) -> Iterator[Any]:
    for series in tiff.series:
        if not (series.keyframe.is_reduced or series.keyframe.subfiletype & _MASK):
            yield series


def _pages(tiff: Any) -> Iterator[Any]:
    for series in _series(tiff):
        yield from (page for page in series.pages if page is not None)


def _samples(path: str, page: Any) -> tuple[int, np.dtype[Any], str]:
    """Return how many channels count, of which type, and what images of them are called.

    What has 2 to 7 bits counts as it is stored, and is of another kind than what has 8: its white is not 255.
    """
    photometric = page.photometric.name
    if page.dtype is None or page.dtype.kind not in "biuf":
        raise UnreadableError(f"{path} must hold real numbers, got {page.dtype}")
    if photometric == "PALETTE":
        return 3, np.dtype(np.uint8), "RGB"
    if photometric in ("SEPARATED", "CIELAB", "ICCLAB", "ITULAB") or (
        photometric == "YCBCR" and page.compression.name not in ("JPEG", "OJPEG", "JPEG2000")
    ):
        raise UnreadableError(f"{path} must be grey or RGB, or be asked for a mode (mode='RGB'), got {photometric}")
    alpha = sum(int(kind) in (1, 2) for kind in page.extrasamples)
    dtype = np.dtype(np.uint8) if page.bitspersample == 1 else np.dtype(page.dtype).newbyteorder("=")
    channels = page.samplesperpixel - alpha
    kind = _kind(channels, dtype, photometric in ("RGB", "YCBCR"))
    return channels, dtype, f"{kind};{page.bitspersample}" if 1 < page.bitspersample < 8 else kind


def _decoded(series: Any) -> Iterator[tuple[Any, Array]]:
    """Yield each page of a series, or all that lies behind its first one."""
    if len(series.pages) == 1 and series.size > series.keyframe.size:
        values = series.asarray(maxworkers=1)
        for part in values.reshape(-1, *series.keyframe.shape):
            yield series.keyframe, part
        return
    for page in series.pages:
        if page is not None:
            yield page.keyframe, page.asarray(maxworkers=1)


def _channels_last(page: Any, values: Array, channels: int) -> Array:
    """Return a page as (height, width, channels), whichever way its samples lie."""
    if page.photometric.name == "PALETTE":
        return _painted(page, values)
    values = np.moveaxis(values, page.axes.index("S"), -1) if "S" in page.axes else values[..., np.newaxis]
    values = values.reshape(-1, *values.shape[-2:])[..., :channels]
    if page.bitspersample == 1:  # 1 is white, unless the file says otherwise
        values = np.where(values.astype(bool) ^ (page.photometric.name == "MINISWHITE"), np.uint8(255), np.uint8(0))
    return values


def _painted(page: Any, values: Array) -> Array:
    """Return the colours behind the numbers of a palette: its 16 bits are 8 that were stretched."""
    colours = np.asarray(page.colormap)
    if not ((colours % 257 == 0).all() or (colours % 256 == 0).all()):
        raise ValueError("its palette must have colours of 8 bits (or ask for mode='RGB')")
    return np.moveaxis((colours >> 8).astype(np.uint8)[:, values], 0, -1)


def _gdal(text: str, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return GDAL's value that is no data, a text, as a number; nothing if it is none."""
    for number in (int, float) if dtype.kind in "iu" else (float,):
        with suppress(ValueError):
            return (number(text),)
    return ()
