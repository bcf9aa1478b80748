"""Images: pixels are rows, channels features, and values what is stored, or the file is refused.

TIFF is read by tifffile, PNM here, what has more than 8 bits by imagecodecs, and everything else by Pillow, which is
exact for 8 bits. A file's first bytes say which it is, and its suffix where they say nothing. A place among images is a
number of files.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastbn.io.options import IMAGE_MODES, MAX_PIXELS, Array, Options
from fastbn.io.places import Place, refuse_streams, suffix_of
from fastbn.io.sources import Block, NoData, Ring, Source, UnreadableError, chosen_columns, naming, needed

_WORKERS = min(8, os.cpu_count() or 1)
_GREY = ("1", "L", "LA", "La")
_EXACT = (*_GREY, "RGB", "RGBA", "RGBa", "RGBX", "P", "PA")  # modes that Pillow gives as they are stored
_PILLOW = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "PCX", "TGA", "ICO")  # which it reads as they are stored
_MODED = (*_PILLOW, "TIFF", "PPM", "JPEG2000", "AVIF")  # of 8 bits, where a mode is asked for
_SHALLOW = re.compile(r"(L|RGB|\d+ channels)(;[2-7])?")  # modes of 8 bits or fewer, which others can be made of
_MASK = 4  # of a TIFF's NewSubfileType
_limit = threading.Lock()


class _Header(NamedTuple):
    """What an image is, before it is decoded: of which mode and size, and what decodes all that a file has of them.

    ``images`` is how many these are, where they can come one by one, and else 1. ``nodata`` has what its pages say is
    no data, once each; None stands for those that say nothing.
    """

    mode: str
    pixels: int
    channels: int
    dtype: np.dtype[Any]
    decode: Callable[[], Iterable[Array]]
    images: int = 1
    nodata: tuple[Any, ...] = ()


_Reader: TypeAlias = Callable[[str, Options], _Header]


class ImageSource(Source):
    """Images of one mode: that of the first, grey or RGB, if no mode is asked for; alpha then does not count."""

    def __init__(self, place: Place, options: Options) -> None:
        for name in ("axis", "dim"):
            if (given := getattr(options, name)) is not None:
                raise UnreadableError(f"{name} must come with arrays, got {given} for the images of {place.name}")
        if options.weights is not None:
            raise UnreadableError(f"weights must come with arrays or tables, got the images of {place.name}")
        needed("PIL.Image", "Images")
        self.name, self._files, self._options = place.name, place.files, options
        first = self._first()
        self.mode = options.mode or first.mode
        bands = _bands(self.mode, first.channels)
        asked_by = options.asked_by and options.asked_by + _conversion(first.mode, options.columns)
        self.chosen = chosen_columns(self.name, options.columns, bands, len(bands), asked_by)
        self._all = self.chosen == list(range(len(bands)))
        self.names = tuple(bands[i] for i in self.chosen)
        self.features = (len(self.chosen),)
        self.dtype = options.dtype or (np.dtype(np.uint8) if options.mode else first.dtype)
        self.notes: list[str] = []
        self.nodata = NoData(options, self.name, self.chosen, bands, len(bands), (2,))
        self._ring, self._most = Ring(), options.block_bytes
        self.axis = (2,) if options.rowwise else (1,)

    def blocks(self, start: int = 0, row: int = 0) -> Iterator[Block]:
        """Yield images (height, width, channels) if they are to be copied, else the pixels of as many as fit."""
        return self._pictures(start, row) if self._options.rowwise else self._pixels(start)

    def restored(self, block: Block, values: Array) -> Block:
        """Return an image as one of an array (N, channels, height, width)."""
        values = np.ascontiguousarray(values.transpose(2, 0, 1))[np.newaxis]
        return block._replace(values=values, corner=(*block.corner, 0))

    def _pixels(self, start: int) -> Iterator[Block]:
        width, count = len(self.chosen), len(self._files)
        most = max(1, self._most // (self.dtype.itemsize * width))
        pixels, filled = self._ring.take((most, width), self.dtype), 0
        valid: Array | None = None

        def block(following: int | None, done: int) -> Block:
            data = None if valid is None else valid[:filled]
            return Block(pixels[:filled], (0, 0), following, done / count, data)

        for index, images in self._decoded(start):
            following: int | None = index  # as long as the block has no pixels of this file
            for image in images:
                values = image.values.reshape(-1, width)
                for begin in range(0, max(1, len(values)), most):
                    part = values[begin : begin + most]
                    if filled and filled + len(part) > most:
                        yield block(following, index)
                        pixels, filled, valid = self._ring.take((most, width), self.dtype), 0, None
                    place = slice(filled, filled + len(part))
                    np.copyto(pixels[place], part, casting="unsafe")
                    if image.valid is not None:
                        valid = np.ones((most, width), bool) if valid is None else valid
                        valid[place] = image.valid.reshape(-1, width)[begin : begin + most]
                    filled, following = place.stop, None
        yield block(count, count)

    def _pictures(self, start: int, row: int) -> Iterator[Block]:
        for index, images in self._decoded(start):
            remaining = iter(images)
            image, page = next(remaining, None), 0
            while image is not None:
                later = next(remaining, None)
                last = later is None
                yield image._replace(
                    values=image.values.astype(self.dtype, copy=False),
                    corner=(row, 0, 0),
                    following=index + 1 if last else None,
                    done=(index + last) / len(self._files),
                    name=self._files[index],
                    page="" if last and not page else f"-{page}",
                )
                image, page, row = later, page + 1, row + 1

    def _decoded(self, start: int) -> Iterator[tuple[int, Iterable[Block]]]:
        """Yield the number and the images of each file from one on, while the next ones are decoded."""
        waiting: deque[tuple[int, int, Future[list[Block]]]] = deque()  # numbers of files, bytes at most, and images
        with _bounded(self._options), ThreadPoolExecutor(_WORKERS) as pool:
            for index in range(start, len(self._files)):
                header, images = self._header(self._files[index])
                if header is None:
                    continue
                channels = 4 if header.dtype == np.uint8 else header.channels * header.dtype.itemsize
                nbytes = header.pixels * channels * (1 + self._options.beside)
                while waiting and (
                    len(waiting) >= 2 * _WORKERS or sum(held for _, held, _ in waiting) + nbytes > self._most
                ):
                    yield from self._finished(*waiting.popleft())
                if header.images > 1 and nbytes > self._most:  # where one of these is damaged, the run ends
                    yield index, images
                else:
                    waiting.append((index, nbytes, pool.submit(list, images)))
            while waiting:
                yield from self._finished(*waiting.popleft())

    def _finished(self, index: int, _: int, future: Future[list[Block]]) -> Iterator[tuple[int, Iterable[Block]]]:
        with self._noting(self._files[index]):
            yield index, future.result()

    def _header(self, path: str) -> tuple[_Header | None, Iterator[Block]]:
        """Return what a file is, and its images, which are decoded as they are asked for; None if it cannot be read."""
        with self._noting(path):
            header = _header_of(path, self._options)
            if self._options.mode is None and header.mode != self.mode:
                hint = " (no mode converts depths: measure each apart, or Moments().update(x / scale))"
                if all(map(_SHALLOW.fullmatch, (self.mode, header.mode))):
                    convertible = {self.mode, header.mode} == {"L", "RGB"}
                    hint = " (or ask for one mode for all: mode='RGB', --mode RGB)" if convertible else ""
                raise UnreadableError(f"{path} must be of mode {self.mode} as those before it, got {header.mode}{hint}")
            # A file says what is no data where nobody else does, and its values are what it stores.
            own = header.nodata if self._options.mode is None and self._options.nodata is None else ()
            if len(own) > 1:
                said = " and ".join(map(str, own))
                raise UnreadableError(
                    f"{path} must say of all its pages what is no data, and the same, got {said} (or give it: nodata=)"
                )
            own = tuple(value for value in own if value is not None)
            notes = [f"left out as no data: {value:.15g} (GDAL_NODATA)" for value in own if value == value]
            self.notes += [note for note in notes if note not in self.notes]
            nodata = NoData(self._options, self.name, self.chosen, None, 0, (2,), own) if own else self.nodata
            return header, self._images(path, header, nodata)
        return None, iter(())

    def _images(self, path: str, header: _Header, nodata: NoData) -> Iterator[Block]:
        """Yield the images of a file: their chosen channels, and which values are data, as they are stored."""
        with naming(path):
            for stored in header.decode():
                values = stored.reshape(*stored.shape[:2], -1)
                values = values if self._all else values[:, :, self.chosen]
                yield Block(values, (0, 0, 0), None, 0.0, nodata.valid(values))

    @contextmanager
    def _noting(self, path: str) -> Iterator[None]:
        """Tell of an image that cannot be read, and go on, if there is someone to tell."""
        try:
            with naming(path):
                yield
        except (OSError, UnreadableError) as error:
            if self._options.unreadable is None:
                raise
            self._options.unreadable(path, error)

    def _first(self) -> _Header:
        for path in self._files:
            with _bounded(self._options), self._noting(path):
                return _header_of(path, self._options)
        raise UnreadableError(f"{self.name} must hold an image that can be read")


opened = ImageSource


@contextmanager
def _bounded(options: Options) -> Iterator[None]:
    """Let Pillow, which has one bound for all, open what the options allow, while that is more than its own."""
    if options.max_pixels <= MAX_PIXELS:
        yield
        return
    image = needed("PIL.Image", "Images")
    with _limit:
        before, image.MAX_IMAGE_PIXELS = image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            image.MAX_IMAGE_PIXELS = before


def _bands(mode: str, channels: int) -> tuple[str, ...]:
    """Return the names of channels: Pillow's, or numbers."""
    if mode in ("LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"):
        return tuple(needed("PIL.ImageMode", "Images").getmode(mode).bands)
    if channels == 3 and mode.startswith("RGB"):
        return ("R", "G", "B")
    return (mode.partition(";")[0],) if channels == 1 else tuple(map(str, range(channels)))


def _conversion(stored: str, columns: Sequence[Any] | None) -> str:
    """Return a hint at the mode that makes channels of these names of what is stored, if one does."""
    modes = [mode for mode in IMAGE_MODES if _bands(mode, 1) == columns] if _SHALLOW.fullmatch(stored) else ()
    return "".join(f" (mode={mode!r}, --mode {mode}, converts)" for mode in modes)


def _mode_of(channels: int, dtype: np.dtype[Any], colour: bool) -> str:
    """Return what to call images of a type, as Pillow does where it knows it: L, RGB, I;16, I and F."""
    known = {"uint8": "L", "uint16": "I;16", "int32": "I", "float32": "F"}
    if channels == 1:
        return known.get(dtype.name, f"{'F' if dtype.kind == 'f' else 'I'};{dtype.name}")
    stem = "RGB" if colour and channels == 3 else f"{channels} channels"
    return stem if dtype == np.uint8 else f"{stem};{dtype.name}"


def _header_of(path: str, options: Options) -> _Header:
    reader = _reader_of(path)
    if options.mode is None:
        header = reader(path, options)
    else:
        header, stored = _pillow(path, options), ""
        with suppress(UnreadableError):  # of what only a mode makes readable, CMYK for instance
            stored = reader(path, options.but(mode=None)).mode
        if stored and _SHALLOW.fullmatch(stored) is None:
            raise UnreadableError(f"{path} must have 8 bits to be of mode {options.mode}, got mode {stored}")
    if header.pixels > options.max_pixels:
        raise _too_large(path, options, header.pixels)
    return header


def _reader_of(path: str) -> _Reader:
    """Return what reads a file as it is stored, by its first bytes, whatever it is called."""
    refuse_streams(path)
    with open(path, "rb") as file:
        head = file.read(26)
    begun = (reader for begin, _, reader in _FORMATS if re.match(begin, head))
    named = (reader for _, suffixes, reader in _FORMATS if suffix_of(path) in suffixes)
    return next(itertools.chain(begun, named), _pillow)


# Pillow: 8 bits, and the modes that can be asked for.


def _opened(path: str, options: Options) -> Any:
    """Return an image as Pillow opens it, which refuses or warns of what is larger than it expects."""
    pillow = needed("PIL.Image", "Images")
    try:
        return pillow.open(path)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise _too_large(path, options, str(error)) from None


def _too_large(path: str, options: Options, found: object) -> UnreadableError:
    rule = f"must have at most {options.max_pixels} pixels"
    return UnreadableError(f"{path} {rule}, got {found} (max_pixels=, --max-pixels, allows more)")


def _pillow(path: str, options: Options) -> _Header:
    pillow = needed("PIL.Image", "Images")
    with _opened(path, options) as image:
        own, asked = str(image.mode), options.mode
        if image.format not in (_PILLOW if asked is None else _MODED):
            raise UnreadableError(f"{path} must be of an image format that can be read exactly, got {image.format}")
        if asked is None and own not in (*_EXACT, "I;16", "I", "F"):
            raise UnreadableError(f"{path} must be grey or RGB, or be asked for a mode (mode='RGB'), got mode {own}")
        if image.format == "GIF" and not _gif_ends(path):
            raise UnreadableError(f"{path} must end behind its last frame, got the end of the file: it is cut short")
        if image.format == "TIFF":
            with _tiff_file(path) as tiff:
                _check_pages(path, tiff)
        frames = 1 if image.format in ("JPEG", "MPO", "ICO") else getattr(image, "n_frames", 1)
        mode = asked or (own if own.startswith(("I", "F")) else "L" if own in _GREY else "RGB")
        pixels, size = image.width * image.height * frames, len(pillow.new(mode, (1, 1)).getbands())
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(mode, np.uint8)

    def decode() -> Iterator[Array]:
        with _opened(path, options) as image:
            for frame in range(frames):
                if frames > 1:
                    image.seek(frame)
                    image.load()  # which may change the mode
                    # A palette behind a grey frame of a GIF, which Pillow drops or makes RGB of.
                    coloured = asked is None and mode == "L" and image.mode not in _GREY
                    if coloured or image.mode != image.im.mode:
                        raise UnreadableError(f"{path} must have frames of one mode, got {own} and {image.mode}")
                yield np.asarray(image if asked is None and image.mode == mode else image.convert(mode))

    return _Header(mode, pixels, size, np.dtype(dtype), decode)


def _gif_ends(path: str) -> bool:
    """Whether a GIF has what marks its end: Pillow takes the end of a file for it, and leaves out frames behind."""
    with open(path, "rb") as file:
        data = file.read()

    def behind_colours(at: int, flags: int) -> int:
        return at + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)

    with suppress(IndexError):
        at = behind_colours(13, data[10])
        while data[at] != ord(";"):
            if data[at] == ord(","):  # a frame
                at = behind_colours(at + 10, data[at + 9]) + 1
            elif data[at] == ord("!"):  # an extension
                at += 2
            else:  # which Pillow skips
                at += 1
                continue
            while data[at]:
                at += data[at] + 1
            at += 1
        return True
    return False


# What has more than 8 bits: imagecodecs.


def _deep(path: str, options: Options, codec: str) -> _Header:
    """Return an image by what decodes its depth, which says nothing of it before.

    Two and four channels are grey and RGB with alpha, which does not count.
    """
    decoder = getattr(needed("imagecodecs", "Images of more than 8 bits"), f"{codec}_decode")
    with suppress(needed("PIL", "Images").UnidentifiedImageError), _opened(path, options) as image:
        if image.width * image.height > options.max_pixels:  # said before so much memory is filled
            raise _too_large(path, options, image.width * image.height)
    with open(path, "rb") as file:
        values = np.asarray(decoder(file.read()))
    several = values.ndim == 3 and values.shape[-1] > 4
    if several and codec == "jpegxl":  # which may have any number of channels too
        what = f"frames or channels in an array of shape {values.shape} (imagecodecs.jpegxl_decode)"
        raise UnreadableError(f"{path} must be grey or RGB, got {what}")
    if values.ndim == 2 or (several and codec == "avif"):
        values = values[..., np.newaxis]
    alpha = codec != "jpeg" and values.shape[-1] in (2, 4)
    channels = values.shape[-1] - alpha
    frames = values.reshape(-1, *values.shape[-3:])[..., :channels]
    return _Header(_mode_of(channels, frames.dtype, True), frames[..., 0].size, channels, frames.dtype, lambda: frames)


def _deep_png(path: str, options: Options) -> _Header:
    """Return a PNG of 16 bits, of whose frames Pillow has 8 at most."""
    decoder = needed("imagecodecs", "Images of more than 8 bits").apng_decode
    with _opened(path, options) as image:
        shape = image.n_frames, image.height, image.width
    with open(path, "rb") as file:
        channels = 3 if file.read(26)[-1] & 2 else 1  # its type of colour

    def decode() -> Iterator[Array]:
        with open(path, "rb") as file:
            yield from decoder(file.read()).reshape(*shape, -1)[..., :channels]

    return _Header(_mode_of(channels, np.dtype("u2"), True), math.prod(shape), channels, np.dtype("u2"), decode)


def _jpeg(path: str, options: Options) -> _Header:
    """Return an image by Pillow, or by imagecodecs what Pillow does not know: more than 8 bits, and lossless ones."""
    with suppress(needed("PIL", "Images").UnidentifiedImageError):
        return _pillow(path, options)
    header = _deep(path, options, "jpeg")
    if header.channels not in (1, 3):
        raise UnreadableError(f"{path} must be grey or RGB, got {header.mode}")
    return header


# PNM, whose numbers Pillow scales to 8 or 16 bits. Images of the binary formats may follow one another in a file.


class _Raster(NamedTuple):
    """An image of a PNM file: its format, shape and type, its largest value, and where its values lie."""

    magic: str
    shape: tuple[int, int, int]
    stored: np.dtype[Any]
    top: float
    begin: int
    nbytes: int


def _pnm(path: str, options: Options) -> _Header:
    rasters = list(_rasters(path))
    modes = [_mode_of(each.shape[2], each.stored.newbyteorder("="), True) for each in rasters]
    if len(set(modes)) > 1:
        raise UnreadableError(f"{path} must hold images of one mode, got {' and '.join(sorted(set(modes)))}")

    def decode() -> Iterator[Array]:
        with open(path, "rb") as file:
            for raster in rasters:
                file.seek(raster.begin)
                yield _unpacked(path, raster, file.read(raster.nbytes))

    pixels = sum(math.prod(raster.shape[:2]) for raster in rasters)
    return _Header(modes[0], pixels, rasters[0].shape[2], rasters[0].stored.newbyteorder("="), decode, len(rasters))


def _rasters(path: str) -> Iterator[_Raster]:
    """Yield what the headers in a file say, one behind the values of another."""
    begin, size = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while begin < size or begin == 0:
            file.seek(begin)
            head = file.read(1 << 12)
            blank = len(head) - len(head.lstrip()) if begin else 0
            begin += blank
            if not blank:  # else a header may be cut
                raster = _raster(path, head, begin, size)
                yield raster
                begin = raster.begin + raster.nbytes


def _raster(path: str, head: bytes, begin: int, size: int) -> _Raster:
    bits = head[:2] in (b"P1", b"P4")  # which have no largest value
    numbers = rb"(?:\s|#[^\n]*\n)+([0-9.+-]+)" * (2 if bits else 3) + rb"()" * bits
    found = re.match(rb"P([1-6Ff])" + numbers, head.replace(b"\0", b"0"))
    if found is None:
        behind = f" {begin} bytes behind its beginning" if begin else ""
        raise UnreadableError(f"{path} must be a PNM image (P1 to P6, Pf, PF), got {head[:2]!r}{behind}")
    magic, width, height, top = found[1].decode(), int(found[2]), int(found[3]), float(found[4] or 1)
    if min(width, height) < 0:  # or the next image would begin before this one
        raise UnreadableError(f"{path} must have a width and a height of 0 or more, got {width} and {height}")
    channels = 3 if magic in "36F" else 1
    stored = np.dtype(f"{'<' if top < 0 else '>'}f4") if magic in "Ff" else np.dtype(">u2" if top > 255 else "u1")
    if magic not in "Ff" and not 1 <= top <= 65535:
        raise UnreadableError(f"{path} must have a largest value of 1 to 65535, got {found[4].decode()}")
    begin += found.end() + (magic not in "123")
    nbytes = height * (-(-width // 8) if magic == "4" else width * channels * stored.itemsize)
    return _Raster(magic, (height, width, channels), stored, top, begin, size - begin if magic in "123" else nbytes)


def _unpacked(path: str, raster: _Raster, data: bytes) -> Array:
    """Return the values of an image; those of a text are one image, with nothing but blanks behind it."""
    magic, stored, width, count = raster.magic, raster.stored, raster.shape[1], math.prod(raster.shape)
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


def _tiff(path: str, options: Options) -> _Header:
    needed("imagecodecs", "TIFF images")
    with _tiff_file(path) as tiff:
        _check_pages(path, tiff)
        pages = [page for series in _series(tiff) for page in series.pages if page is not None]
        if not pages:
            raise UnreadableError(f"{path} must hold an image, got smaller copies and masks alone")
        first = pages[0].keyframe
        channels, dtype, mode = _samples(path, first)
        for page in pages:
            if _samples(path, page.keyframe) != (channels, dtype, mode):
                raise UnreadableError(f"{path} must hold images of one mode, got several")
            # Zeros would be read in the place of those that are missing, or looked for as long as there are any.
            parts, known = math.prod(page.chunked), min(len(page.dataoffsets), len(page.databytecounts))
            if known < parts:
                raise UnreadableError(f"{path} must say where its {parts} strips or tiles are, got {known} places")
        values = sum(series.size for series in _series(tiff))
        count = len(pages) if values == sum(page.keyframe.size for page in pages) else 2  # or more, behind a page
        nodata = tuple({str(value): value for value in (_nodata_of(page, dtype) for page in pages)}.values())

    def decode() -> Iterator[Array]:
        with _tiff_file(path) as tiff:
            for series in _series(tiff):
                if nodata[0] is not None:  # what stands for tiles that are not stored; tifffile does not know all
                    with suppress(OverflowError, ValueError):
                        series.keyframe.nodata = dtype.type(nodata[0])
                for page, values in _pages(series):
                    yield _channels_last(page, values)

    # Channels beyond the fourth count as more pixels, or a header of a few bytes could ask for any memory.
    pixels = values // min(max(1, first.samplesperpixel), 4)
    return _Header(mode, pixels, channels, dtype, decode, count, nodata)


def _tiff_file(path: str) -> Any:
    """Open a TIFF file alone: the others of a set of OME are counted where they come."""
    return needed("tifffile", "TIFF images").TiffFile(path, _multifile=False)


def _check_pages(path: str, tiff: Any) -> None:
    """Refuse a file one of whose pages names another that is not there: tifffile leaves out what it cannot find."""
    file, layout, known = tiff.filehandle, tiff.tiff, set[int]()
    place = tiff.pages.first.offset if tiff.pages else 0
    while place and place not in known:  # some files begin anew at the end
        known.add(place)
        try:
            file.seek(place)
            (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
            file.seek(place + layout.tagnosize + tags * layout.tagsize)
            (place,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
        except (OSError, struct.error):
            raise UnreadableError(f"{path} must hold page {len(known)}, got its end before: it is cut short") from None


def _series(tiff: Any) -> Iterator[Any]:
    for series in tiff.series:
        if not (series.keyframe.is_reduced or series.keyframe.subfiletype & _MASK):
            yield series


def _samples(path: str, page: Any) -> tuple[int, np.dtype[Any], str]:
    """Return how many channels count, of which type, and what images of them are called.

    What has 2 to 7 bits counts as it is stored, and is of another mode than what has 8: its white is not 255.
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
    dtype = np.dtype(np.uint8) if page.bitspersample == 1 else np.dtype(page.dtype).newbyteorder("=")
    channels = len(_no_alpha(page))
    mode = _mode_of(channels, dtype, photometric in ("RGB", "YCBCR"))
    return channels, dtype, f"{mode};{page.bitspersample}" if 1 < page.bitspersample < 8 else mode


def _no_alpha(page: Any) -> list[int]:
    """Return which samples of a pixel are no alpha."""
    first = page.samplesperpixel - len(page.extrasamples)
    extra = (first + number for number, kind in enumerate(page.extrasamples) if int(kind) not in (1, 2))
    return [*range(first), *extra]


def _pages(series: Any) -> Iterator[tuple[Any, Array]]:
    """Yield each page of a series, or all that lies behind its first one."""
    if len(series.pages) == 1 and series.size > series.keyframe.size:
        values = series.asarray(maxworkers=1)
        for part in values.reshape(-1, *series.keyframe.shape):
            yield series.keyframe, part
        return
    for page in series.pages:
        if page is not None:
            yield page.keyframe, page.asarray(maxworkers=1)


def _channels_last(page: Any, values: Array) -> Array:
    """Return a page as (height, width, channels), whichever way its samples lie."""
    values = np.moveaxis(values, page.axes.index("S"), -1) if "S" in page.axes else values[..., np.newaxis]
    values, kept = values.reshape(-1, *values.shape[-2:]), _no_alpha(page)
    values = values if len(kept) == values.shape[-1] else values[..., kept]
    if page.photometric.name == "PALETTE":
        return _painted(page, values[..., 0])
    if page.bitspersample == 1:  # 1 is white, unless the file says otherwise
        values = np.where(values.astype(bool) ^ (page.photometric.name == "MINISWHITE"), np.uint8(255), np.uint8(0))
    return values


def _painted(page: Any, values: Array) -> Array:
    """Return the colours behind the numbers of a palette: its 16 bits are 8 that were stretched."""
    colours = np.asarray(page.colormap)
    if not ((colours % 257 == 0).all() or (colours % 256 == 0).all()):
        raise ValueError("its palette must have colours of 8 bits (or ask for mode='RGB')")
    return np.moveaxis((colours >> 8).astype(np.uint8)[:, values], 0, -1)


def _nodata_of(page: Any, dtype: np.dtype[Any]) -> int | float | None:
    """Return GDAL's value that is no data of a page, a text, as a number; None if it is none."""
    held = page if page.is_virtual else page.aspage()
    text = held.keyframe.tags.valueof("GDAL_NODATA")
    for number in (int, float) if dtype.kind in "iu" else (float,):
        with suppress(TypeError, ValueError):
            return number(text)
    return None


_FORMATS: list[tuple[bytes, tuple[str, ...], _Reader]] = [  # how their files begin and are called, and what reads them
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", (".tif", ".tiff"), _tiff),
    (rb"P[1-6Ff][\s#]", (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), _pnm),
    (rb"\x89PNG\r\n\x1a\n[\s\S]{16}\x10", (), _deep_png),  # of 16 bits
    (rb"\x89PNG\r\n\x1a\n", (), _pillow),
    (rb"\xff\xd8\xff", (), _jpeg),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", (".jp2", ".j2k"), partial(_deep, codec="jpeg2k")),
    (rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a", (".jxl",), partial(_deep, codec="jpegxl")),
    (rb"[\s\S]{4}ftyp", (".avif",), partial(_deep, codec="avif")),
]
