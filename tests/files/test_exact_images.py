"""Images count as they are stored, whatever their depth, sign, byte order and number in a file, or are refused."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

import fastbn
from support.datafiles import LEAST, Array, assert_streamed, same_bits


def assert_counts(path: Path, pixels: Array, **options: Any) -> fastbn.Moments:
    """Assert that a file has the statistics of these pixels, (..., channels)."""
    found = fastbn.stream(path, **options)
    assert_streamed(found, pixels.reshape(-1, pixels.shape[-1]))
    return found


def test_a_png_of_16_bits_and_three_channels(tmp_path: Path, rng: np.random.Generator) -> None:
    constant = np.full((8, 9, 3), 1000, np.uint16)
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(constant))
    found = assert_counts(tmp_path / "x.png", constant)
    assert found.mean.tolist() == [1000.0] * 3
    for channels, kept in ((1, 1), (2, 1), (3, 3), (4, 3)):
        values = rng.integers(0, 65536, (7, 5, channels)).astype(np.uint16)
        (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(values[..., 0] if channels == 1 else values))
        assert_counts(tmp_path / "x.png", values[..., :kept])
    fastbn.standardize(tmp_path / "x.png", found, tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").shape == (1, 3, 7, 5)


TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8", "u8", "i8"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiffs_of_all_types(tmp_path: Path, rng: np.random.Generator, dtype: str, byteorder: Any) -> None:
    stored = np.dtype(dtype)
    low = 0 if stored.kind == "u" else -100
    for shape, photometric in (((6, 7), "minisblack"), ((6, 7, 3), "rgb")):
        values = (rng.integers(low, 100, shape) * (255 if stored.itemsize > 1 else 1)).astype(stored)
        tifffile.imwrite(tmp_path / "x.tif", values, byteorder=byteorder, photometric=photometric)
        exact = values.reshape(6 * 7, -1)
        found = fastbn.stream(tmp_path / "x.tif")
        assert_streamed(found, exact if stored.itemsize < 8 and dtype != "u4" else exact.astype(np.float64))


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd"])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"planarconfig": "separate"}, {"rowsperstrip": 3}], ids=str)
def test_tiffs_of_all_layouts(
    tmp_path: Path, rng: np.random.Generator, compression: str | None, layout: dict[str, Any]
) -> None:
    values = rng.integers(0, 65536, (37, 41, 3)).astype(np.uint16)
    stored = np.moveaxis(values, -1, 0) if "planarconfig" in layout else values
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", compression=compression, **layout)
    assert_counts(tmp_path / "x.tif", values)


def test_tiffs_of_many_bands_and_of_alpha(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 65536, (12, 11, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig="contig")
    assert_counts(tmp_path / "x.tif", values)
    assert_counts(tmp_path / "x.tif", values[..., [4, 0]], columns=[4, "0"])
    tifffile.imwrite(tmp_path / "x.tif", values[..., :4], photometric="rgb", extrasamples=["unassalpha"])
    assert_counts(tmp_path / "x.tif", values[..., :3])
    tifffile.imwrite(tmp_path / "x.tif", values[..., :4], photometric="rgb", extrasamples=["unspecified"])
    assert_counts(tmp_path / "x.tif", values[..., :4])


@pytest.mark.parametrize("kinds", [(1, 0), (0, 2), (1, 0, 0), (0, 1, 0), (1, 2)])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_may_stand_among_the_samples(
    tmp_path: Path, rng: np.random.Generator, kinds: tuple[int, ...], planar: Any
) -> None:
    names = {0: "unspecified", 1: "assocalpha", 2: "unassalpha"}
    for photometric, colours in (("minisblack", 1), ("rgb", 3)):
        values = rng.integers(0, 65536, (8, 9, colours + len(kinds))).astype(np.uint16)
        stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
        how: dict[str, Any] = {"photometric": photometric, "planarconfig": planar}
        tifffile.imwrite(tmp_path / "x.tif", stored, extrasamples=[names[kind] for kind in kinds], **how)
        kept = [*range(colours), *(colours + number for number, kind in enumerate(kinds) if not kind)]
        assert_counts(tmp_path / "x.tif", values[..., kept])


def test_a_palette_with_alpha(tmp_path: Path, rng: np.random.Generator) -> None:
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).convert("PA")
    image.save(tmp_path / "x.tif")
    assert_counts(tmp_path / "x.tif", np.asarray(image.convert("RGB")))


def test_tiffs_of_few_bits(tmp_path: Path, rng: np.random.Generator) -> None:
    bits = rng.integers(0, 2, (5, 9)).astype(bool)
    for photometric, white in (("minisblack", bits), ("miniswhite", ~bits)):
        tifffile.imwrite(tmp_path / "x.tif", bits, photometric=photometric, bitspersample=1)
        assert_counts(tmp_path / "x.tif", (white * np.uint8(255))[..., None])
    palette = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).quantize(5)
    palette.save(tmp_path / "p.tif")
    assert_counts(tmp_path / "p.tif", np.asarray(palette.convert("RGB")))
    odd = np.arange(768, dtype=np.uint16).reshape(3, 256)
    tifffile.imwrite(tmp_path / "q.tif", np.zeros((4, 4), np.uint8), photometric="palette", colormap=odd)
    with pytest.raises(ValueError, match=r"q.tif cannot be read: its palette must have colours of 8 bits"):
        fastbn.stream(tmp_path / "q.tif")


def test_what_pillow_would_convert_is_refused(tmp_path: Path) -> None:
    for name in ("x.jpg", "x.tif"):
        Image.new("CMYK", (4, 4), (1, 2, 3, 4)).save(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} must be grey or RGB, or be asked for a mode \(mode='RGB'\)"):
            fastbn.stream(tmp_path / name)
    assert fastbn.stream(tmp_path / "x.tif", mode="CMYK").mean.tolist() == [1.0, 2.0, 3.0, 4.0]
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((4, 4), np.complex64))
    with pytest.raises(ValueError, match=r"c.tif must hold real numbers, got complex64"):
        fastbn.stream(tmp_path / "c.tif")


def test_no_mode_takes_bits_away(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.full((4, 4, 3), 1000, np.uint16)))
    tifffile.imwrite(tmp_path / "b.tif", np.full((4, 4), 1000, np.uint16))
    tifffile.imwrite(tmp_path / "c.tif", np.full((4, 4), 0.5, np.float32))
    (tmp_path / "d.pgm").write_bytes(pnm("P5", np.full((4, 4, 1), 1000), 4095))
    (tmp_path / "e.jp2").write_bytes(imagecodecs.jpeg2k_encode(np.full((4, 4, 3), 1000, np.uint16), level=0))
    for path in sorted(tmp_path.iterdir()):
        for mode in ("L", "RGB"):
            with pytest.raises(
                ValueError, match=rf"{path.name} (must have 8 bits to be of mode {mode}|cannot be read)"
            ):
                fastbn.stream(path, mode=mode)
    tifffile.imwrite(tmp_path / "f.tif", np.full((4, 4, 3), 9, np.uint8), photometric="rgb")
    assert fastbn.stream(tmp_path / "f.tif", mode="L").mean == [9.0]


def test_bits_that_are_packed(tmp_path: Path, rng: np.random.Generator) -> None:
    for bits in (2, 4, 10, 12, 14):
        values = rng.integers(0, 2**bits, (6, 8)).astype(np.uint16 if bits > 8 else np.uint8)
        shown = np.unpackbits(values.astype(">u2")[..., None].view(np.uint8), axis=-1)
        rows = np.packbits(shown[..., -bits:].reshape(6, -1), axis=1).tobytes()
        page = {"shape": (6, 8), "dtype": values.dtype, "bitspersample": bits, "photometric": "minisblack"}
        tifffile.imwrite(tmp_path / "x.tif", iter([rows]), compression=None, rowsperstrip=6, **page)
        assert_counts(tmp_path / "x.tif", values[..., None])


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_are_of_another_kind_than_8(tmp_path: Path, bits: int) -> None:
    """They count as stored, so that their white is no 255."""
    page = {"shape": (2, 4), "dtype": np.uint8, "bitspersample": bits, "photometric": "minisblack"}
    rows = bytes([255] * bits)
    tifffile.imwrite(tmp_path / "b.tif", iter([rows]), compression=None, rowsperstrip=2, **page)
    found = fastbn.stream(tmp_path / "b.tif")
    assert (found.mean.tolist(), found.names) == ([2.0**bits - 1], ("L",))  # type: ignore[attr-defined]
    Image.new("L", (4, 2), 255).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"b.tif must be of mode L as those before it, got L;{bits}"):
        fastbn.stream(tmp_path)


# A file's name says nothing of what it holds.


def test_the_first_bytes_say_what_reads_a_file(tmp_path: Path, rng: np.random.Generator) -> None:
    deep = rng.integers(0, 65536, (24, 25, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", deep, photometric="rgb")
    tifffile.imwrite(tmp_path / "big.tif", deep, photometric="rgb", bigtiff=True, byteorder=">")
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(deep))
    for name, codec in (("x.jp2", "jp2"), ("x.j2k", "j2k")):
        (tmp_path / name).write_bytes(imagecodecs.jpeg2k_encode(deep, level=0, reversible=True, codecformat=codec))
    (tmp_path / "x.jxl").write_bytes(imagecodecs.jpegxl_encode(deep, lossless=True))
    (tmp_path / "x.ppm").write_bytes(pnm("P6", deep, 65535))
    for path in sorted(tmp_path.iterdir()):
        for suffix in (".png", ".tif", ".jpg", ".jp2", ".ppm"):
            other = tmp_path / f"other{suffix}"
            other.write_bytes(path.read_bytes())
            assert_counts(other, deep)
            with pytest.raises(ValueError, match=r"must have 8 bits to be of mode L|cannot be read"):
                fastbn.stream(other, mode="L")
            other.unlink()


def test_formats_that_pillow_would_scale_are_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 9).save(tmp_path / "x.sgi")
    (tmp_path / "x.sgi").rename(tmp_path / "x.png")
    for mode in (None, "L"):
        with pytest.raises(ValueError, match=r"x.png must be of an image format that can be read exactly, got SGI"):
            fastbn.stream(tmp_path / "x.png", mode=mode)


# More than one image in a file.


def test_frames_of_several_modes_are_named(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    red = Image.fromarray(np.stack([ramp, ramp * 0, ramp * 0], -1))
    Image.fromarray(ramp).save(tmp_path / "x.gif", save_all=True, append_images=[red], optimize=False, disposal=2)
    for mode in (None, "RGB"):  # Pillow drops the palette of the second
        with pytest.raises(ValueError, match=r"x.gif must have frames of one mode, got L and P"):
            fastbn.stream(tmp_path / "x.gif", mode=mode)
    small = Image.fromarray(np.stack([ramp, ramp * 0, ramp * 0], -1)[4:, 4:])
    frames = [Image.fromarray(ramp), Image.new("RGB", (16, 16), (255, 0, 0)), small]
    frames[0].save(tmp_path / "z.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"z.gif must have frames of one mode"):
        fastbn.stream(tmp_path / "z.gif")
    greys = [ramp, ramp[::-1], ramp.T // 128 * 255]
    first, *others = [Image.fromarray(grey) for grey in greys]
    first.save(tmp_path / "y.gif", save_all=True, append_images=others, optimize=False, disposal=2)
    assert_counts(tmp_path / "y.gif", np.concatenate(greys)[..., None])


@pytest.mark.parametrize(("magic", "top"), [("P4", None), ("P5", 255), ("P5", 4095), ("P6", 255), ("P6", 65535)])
@pytest.mark.parametrize("between", ["", "\n"])
def test_all_images_of_a_pnm(
    tmp_path: Path, rng: np.random.Generator, magic: str, top: int | None, between: str
) -> None:
    channels = 3 if magic == "P6" else 1
    shapes = [(6, 11), (3, 4), (5, 11)]
    images = [rng.integers(0, (top or 1) + 1, (*shape, channels)) for shape in shapes]
    stored = [pnm(magic, each[..., 0] if magic == "P4" else each, top) for each in images]
    (tmp_path / "x.pnm").write_bytes(between.encode().join(stored) + b" \n" * 4000)
    shown = [(1 - each) * 255 if magic == "P4" else each for each in images]
    values = np.concatenate([each.reshape(-1, channels) for each in shown])
    assert_counts(tmp_path / "x.pnm", values.astype(np.uint16 if (top or 1) > 255 else np.uint8))
    for blanks in (4084, 4090, 4096):  # a header may be at the end of what is read at a time
        (tmp_path / "x.pnm").write_bytes((b" " * blanks).join(stored))
        assert fastbn.stream(tmp_path / "x.pnm").count == len(values)
    (tmp_path / "x.pnm").write_bytes(b"".join(stored)[:-1])
    with pytest.raises(ValueError, match=r"x.pnm must hold \d+ values, got \d+: it is cut short"):
        fastbn.stream(tmp_path / "x.pnm")
    (tmp_path / "x.pnm").write_bytes(b"".join(stored) + b"more")
    with pytest.raises(ValueError, match=r"x.pnm must be a PNM image .*, got b'mo' \d+ bytes behind its beginning"):
        fastbn.stream(tmp_path / "x.pnm")


def test_images_of_a_pnm_are_of_one_kind_and_those_of_text_alone(tmp_path: Path) -> None:
    values = np.full((2, 3, 1), 1)
    path = tmp_path / "x.pgm"
    path.write_bytes(pnm("P5", values, 255) + pnm("P5", values, 256))
    with pytest.raises(ValueError, match=r"x.pgm must hold images of one mode, got I;16 and L"):
        fastbn.stream(path)
    for magic, top in (("P1", None), ("P2", 255)):
        path.write_bytes(pnm(magic, values, top) * 2)
        with pytest.raises(ValueError, match=r"x.pgm must hold one image of 6 values, got more behind it"):
            fastbn.stream(path)
    path.write_bytes(pnm("P2", values * 300, 255))
    with pytest.raises(ValueError, match=r"x.pgm must have values of 0 to 255, got 300"):
        fastbn.stream(path)


def test_all_pages_of_a_tiff(tmp_path: Path, rng: np.random.Generator) -> None:
    pages = np.stack([np.full((6, 5), value, np.uint8) for value in (0, 100, 200)])
    for options in ({}, {"imagej": True}, {"ome": True}, {"bigtiff": True}):
        tifffile.imwrite(tmp_path / "x.tif", pages, **{"photometric": "minisblack"} | options)
        found = fastbn.stream(tmp_path / "x.tif")
        assert (found.count, found.mean.tolist()) == (90, [100.0])
        assert [found.min.tolist(), found.max.tolist()] == [[0.0], [200.0]]  # type: ignore[union-attr]
    with tifffile.TiffWriter(tmp_path / "y.tif") as tiff:  # of several sizes
        parts = [rng.integers(0, 256, (4 + i, 9, 3), np.uint8) for i in range(3)]
        for part in parts:
            tiff.write(part, photometric="rgb", metadata=None)
    assert_counts(tmp_path / "y.tif", np.concatenate([part.reshape(-1, 3) for part in parts]))


def test_smaller_copies_and_masks_are_no_images_of_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 256, (64, 64), np.uint8)
    with tifffile.TiffWriter(tmp_path / "x.tif") as tiff:
        tiff.write(values, subifds=1, tile=(16, 16))
        tiff.write(values[::2, ::2], subfiletype=1, tile=(16, 16))
        tiff.write(values[::4, ::4], subfiletype=1, tile=(16, 16))
        tiff.write((values > 9), subfiletype=4)
    assert_counts(tmp_path / "x.tif", values[..., None])


def test_stacks_behind_one_page(tmp_path: Path, rng: np.random.Generator) -> None:
    """As ImageJ writes what is larger than 4 GB, and others what is shorter."""
    stack = rng.integers(0, 65536, (12, 6, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", stack, photometric="minisblack", truncate=True)
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        assert len(tiff.pages) == 1
    assert_counts(tmp_path / "x.tif", stack[..., None])
    for axes in ({"axes": "TZYX"}, None):
        deep = stack.reshape(3, 4, 6, 5)
        tifffile.imwrite(tmp_path / "x.tif", deep, photometric="minisblack", imagej=axes is not None, metadata=axes)
        assert_counts(tmp_path / "x.tif", stack[..., None])
    tifffile.imwrite(tmp_path / "x.tif", deep, photometric="minisblack", volumetric=True, tile=(4, 16, 16))
    assert_counts(tmp_path / "x.tif", stack[..., None])


def test_stacks_larger_than_memory_come_page_by_page(tmp_path: Path, rng: np.random.Generator) -> None:
    stack = rng.integers(0, 256, (40, 90, 80, 3), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", stack, photometric="rgb")
    Image.fromarray(stack[0]).save(tmp_path / "a.png")
    both = np.concatenate([stack[:1], stack])
    assert_counts(tmp_path, both, memory=LEAST)
    assert_counts(tmp_path, both[..., [2]], memory=LEAST, columns=["B"])
    data = bytearray((tmp_path / "x.tif").read_bytes())
    (tmp_path / "x.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises((ValueError, OSError), match=r"x.tif"):
        fastbn.stream(tmp_path, memory=LEAST)


def test_a_tiff_of_masks_alone(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((4, 4), bool), subfiletype=4, photometric="minisblack")
    with pytest.raises(ValueError, match=r"x.tif must hold an image, got smaller copies and masks alone"):
        fastbn.stream(tmp_path / "x.tif")


def test_all_frames_of_what_moves(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((6, 5, 3), value, np.uint8)) for value in (0, 100, 200)]
    for name, options in (("x.gif", {}), ("x.webp", {"lossless": True}), ("x.png", {"default_image": False})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        found = fastbn.stream(tmp_path / name)
        assert (found.count, found.mean.tolist()) == (90, [100.0, 100.0, 100.0])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("still", [False, True], ids=["", "behind a still image"])
def test_all_frames_of_a_png_of_16_bits(tmp_path: Path, rng: np.random.Generator, channels: int, still: bool) -> None:
    frames = rng.integers(0, 65536, (3, 6, 5, channels)).astype(np.uint16)
    stored = frames.astype(">u2").view(np.uint8).reshape(3, 6, -1)
    rows = np.concatenate([np.zeros((3, 6, 1), np.uint8), stored], axis=2)
    head = struct.pack(">2I5B", 5, 6, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts, number = [(b"IHDR", head), (b"acTL", struct.pack(">2I", 3 - still, 0))], 0
    for index, packed in enumerate(map(zlib.compress, map(bytes, rows))):
        if index >= still:
            parts.append((b"fcTL", struct.pack(">5I2H2B", number, 5, 6, 0, 0, 1, 10, 0, 0)))
            number += 1
        parts.append((b"fdAT", struct.pack(">I", number) + packed) if index else (b"IDAT", packed))
        number += index > 0
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in (*parts, (b"IEND", b""))))
    found = assert_counts(path, frames[..., : 3 if channels > 2 else 1])
    fastbn.standardize(path, found, tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").shape == (3, len(found.mean), 6, 5)
    with pytest.raises(ValueError, match="must have at most 89 pixels, got 90"):
        fastbn.stream(path, max_pixels=89)


class StopError(Exception):
    pass


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "RGB"])
@pytest.mark.parametrize(
    ("codec", "size"),
    [
        *(("jpegxl", size) for size in ((8, 8), (5, 40))),
        *(("avif", size) for size in ((8, 8), (9, 7), (5, 40))),
    ],
)
def test_all_frames_of_what_moves_in_deep_formats(
    tmp_path: Path, rng: np.random.Generator, codec: str, channels: tuple[int, ...], size: tuple[int, int]
) -> None:
    encode, suffix = getattr(imagecodecs, f"{codec}_encode"), {"jpegxl": "jxl"}.get(codec, codec)
    how: dict[str, Any] = {"lossless": True} if codec == "jpegxl" else {"level": 100}
    how |= {"photometric": "rgb" if channels else "gray"} if codec == "jpegxl" else {}
    frames = rng.integers(0, 256, (3, *size, *channels), np.uint8)
    moving, still = tmp_path / f"moving.{suffix}", tmp_path / f"still.{suffix}"
    moving.write_bytes(encode(frames, **how))
    still.write_bytes(encode(frames[0], **how))
    decode = getattr(imagecodecs, f"{codec}_decode")  # which is exact of JPEG XL
    for path, shape in ((moving, frames.shape), (still, frames.shape[1:])):
        decoded = decode(path.read_bytes())
        assert decoded.shape == shape
        assert codec == "avif" or np.array_equal(decoded, frames if path == moving else frames[0])
        if (path, codec, channels) == (moving, "jpegxl", ()):  # an array of that shape may be one image of channels
            with pytest.raises(ValueError, match=r"moving.jxl must be grey or RGB, got frames or channels"):
                fastbn.stream(path)
            continue
        found = assert_counts(path, decoded.reshape(-1, *(channels or (1,))))
        fastbn.standardize(path, found, tmp_path / "y.npy", overwrite=True)
        assert np.load(tmp_path / "y.npy").shape == (3 if path == moving else 1, *(channels or (1,)), *size)


OME = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{own}"><Image ID="Image:0">
<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="8" SizeY="6" SizeZ="{planes}" SizeC="1" SizeT="1">
<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>"""


@pytest.mark.parametrize("planes", [1, 2])
def test_files_of_one_ome_set_count_once(tmp_path: Path, rng: np.random.Generator, planes: int) -> None:
    x = rng.integers(0, 1000, (3, planes, 6, 8), np.uint16)
    files = [f"{number}.ome.tif" for number in range(3)]
    ids = [f"00000000-0000-0000-0000-00000000000{number}" for number in range(3)]
    data = "".join(
        f'<TiffData FirstZ="{number * planes + page}" IFD="{page}" PlaneCount="1">'
        f'<UUID FileName="{files[number]}">urn:uuid:{ids[number]}</UUID></TiffData>'
        for number in range(3)
        for page in range(planes)
    )
    for own, name, part in zip(ids, files, x, strict=True):
        text = OME.format(own=own, planes=3 * planes, data=data)
        with tifffile.TiffWriter(tmp_path / name) as file:
            for page in part:
                file.write(page, photometric="minisblack", description=text, metadata=None, contiguous=False)
    assert_counts(tmp_path, x.reshape(-1, 1))
    for name, part in zip(files, x, strict=True):
        assert_counts(tmp_path / name, part.reshape(-1, 1))


def stopping(calls: int) -> Callable[[int, int | None], None]:
    """Return a function to report to that ends the run after so many calls."""
    left = iter(range(calls))

    def progress(done: int, total: int | None) -> None:
        if next(left, None) is None:
            raise StopError

    return progress


def test_pages_go_on_where_a_run_was_stopped(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        pages = rng.integers(0, 256, (7, 90, 80), np.uint8)
        tifffile.imwrite(folder / f"{number}.tif", pages, photometric="minisblack")
    whole = fastbn.stream(folder, memory=LEAST)
    stops = 0
    for calls in range(11):
        try:
            fastbn.stream(folder, memory=LEAST, checkpoint=tmp_path / "c", every=0.0, progress=stopping(calls))
        except StopError:
            stops += 1
            resumed = fastbn.stream(folder, memory=LEAST, checkpoint=tmp_path / "c", every=0.0, resume=True)
            assert same_bits(resumed, whole)
    assert stops > 4


def test_pages_become_arrays_of_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    pages = rng.integers(0, 256, (3, 4, 5), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", pages, photometric="minisblack")
    moments = fastbn.stream(tmp_path / "x.tif")
    fastbn.standardize(tmp_path / "x.tif", moments, tmp_path / "y.npy")
    expected = (pages - pages.mean()) / pages.std()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy")[:, 0], expected, rtol=0, atol=16 * 2.0**-23 * 2)
    fastbn.standardize(tmp_path / "x.tif", moments, tmp_path / "y")
    assert sorted(path.name for path in (tmp_path / "y").iterdir()) == ["x-0.npy", "x-1.npy", "x-2.npy"]


def test_channels_beyond_four_count_as_pixels(tmp_path: Path) -> None:
    """A header of a few bytes may claim any number of them."""
    values = np.arange(32 * 32 * 8, dtype=np.uint16).reshape(32, 32, 8)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ValueError, match=r"x.tif must have at most 2047 pixels, got 2048"):
        fastbn.stream(tmp_path / "x.tif", max_pixels=2047)
    assert_counts(tmp_path / "x.tif", values, max_pixels=2048)


@pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
def test_tiff_with_places_missing(tmp_path: Path, tag: str) -> None:
    """The strips that nothing is known of were read as zeros."""
    values = np.full((8, 3), 100, np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", compression="zlib", rowsperstrip=2)
    assert_counts(tmp_path / "x.tif", values[..., np.newaxis])
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as tiff:
        tiff.pages.first.tags[tag].overwrite(tiff.pages.first.tags[tag].value[:2])
    with pytest.raises(ValueError, match=r"x.tif must say where its 4 strips or tiles are, got 2 places"):
        fastbn.stream(tmp_path / "x.tif")


# PNM.


def pnm(magic: str, values: Array, top: int | None, comment: str = "") -> bytes:
    height, width = values.shape[:2]
    head = f"{magic}\n{comment}{width} {height}\n" + ("" if top is None else f"{top}\n")
    if magic in ("P1", "P2", "P3"):
        return (head + " ".join(map(str, values.reshape(-1).tolist())) + "\n").encode()
    data = np.packbits(values, axis=1) if magic == "P4" else values.astype(">u2" if top and top > 255 else "u1")
    return head.encode() + data.tobytes()


@pytest.mark.parametrize("top", [1, 15, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("magic", ["P2", "P3", "P5", "P6"])
def test_pnm_of_all_depths(tmp_path: Path, rng: np.random.Generator, magic: str, top: int) -> None:
    shape = (6, 7, 3) if magic in ("P3", "P6") else (6, 7, 1)
    values = rng.integers(0, top + 1, shape).astype(np.uint16 if top > 255 else np.uint8)
    path = tmp_path / ("x.ppm" if len(shape) == 3 and shape[2] == 3 else "x.pgm")
    path.write_bytes(pnm(magic, values, top, "# made here\n"))
    assert_counts(path, values)


def test_pnm_of_bits_and_of_floats(tmp_path: Path, rng: np.random.Generator) -> None:
    bits = rng.integers(0, 2, (6, 11)).astype(np.uint8)
    for magic in ("P1", "P4"):
        (tmp_path / "x.pbm").write_bytes(pnm(magic, bits, None))
        assert_counts(tmp_path / "x.pbm", ((1 - bits) * 255)[..., None])
    for magic, channels in (("Pf", 1), ("PF", 3)):
        values = rng.normal(size=(4, 5, channels)).astype(np.float32)
        for order, sign in (("<", "-1.0"), (">", "1.0")):
            head = f"{magic}\n5 4\n{sign}\n".encode()
            (tmp_path / "x.pfm").write_bytes(head + values[::-1].astype(f"{order}f4").tobytes())
            assert_counts(tmp_path / "x.pfm", values)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"P7\n1 1\n255\n\0", "must be a PNM image"),
        (b"P5\n2 2\n70000\n\0\0\0\0", "must have a largest value of 1 to 65535, got 70000"),
        (b"Pf\n2 -2\n5\n\0\0\0\7P", "must have a width and a height of 0 or more, got 2 and -2"),
        (b"P5\n4 4\n255\n\0\0", "x.pgm"),
        (b"P2\n4 4\n255\n1 2 3\n", "must hold 16 values, got 3: it is cut short"),
    ],
)
def test_pnm_that_is_none(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "x.pgm").write_bytes(data)
    with pytest.raises(ValueError, match=said):
        fastbn.stream(tmp_path / "x.pgm")


# Other codecs.


@pytest.mark.parametrize(("name", "encode"), [("x.jp2", "jpeg2k"), ("x.jxl", "jpegxl")])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deep_images_of_other_codecs(
    tmp_path: Path, rng: np.random.Generator, name: str, encode: str, channels: int
) -> None:
    values = rng.integers(0, 65536, (24, 25, channels)).astype(np.uint16)
    lossless = {"lossless": True} if encode == "jpegxl" else {"level": 0, "reversible": True}
    data = getattr(imagecodecs, f"{encode}_encode")(values[..., 0] if channels == 1 else values, **lossless)
    (tmp_path / name).write_bytes(data)
    assert_counts(tmp_path / name, values[..., : 1 if channels == 1 else 3])


def test_depths_do_not_mix(tmp_path: Path) -> None:
    for number, dtype in enumerate((np.uint8, np.uint16)):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.zeros((4, 4), dtype))
    with pytest.raises(ValueError, match=r"1.tif must be of mode L as those before it, got I;16"):
        fastbn.stream(tmp_path)
    with tifffile.TiffWriter(tmp_path / "0.tif") as tiff:
        for dtype in (np.uint8, np.uint16):
            tiff.write(np.zeros((4, 4), dtype), metadata=None)
    with pytest.raises(ValueError, match=r"0.tif must hold images of one mode, got several"):
        fastbn.stream(tmp_path)


# Very large images.


def test_large_images_are_an_option(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((64, 64), np.uint8))
    for name in ("x.png", "x.tif"):
        with pytest.raises(ValueError, match=rf"{name} must have at most 4095 pixels, got 4096"):
            fastbn.stream(tmp_path / name, max_pixels=4095)
        assert fastbn.stream(tmp_path / name, max_pixels=4096).count == 4096


def test_more_pixels_than_pillow_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="exceeds limit of 2000 pixels"):
        fastbn.stream(tmp_path / "x.png")
    assert fastbn.stream(tmp_path / "x.png", max_pixels=10**9).count == 4096
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_jpegs_that_pillow_does_not_know(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 4096, (16, 24)).astype(np.uint16)
    (tmp_path / "x.jpg").write_bytes(imagecodecs.ljpeg_encode(values))  # without loss
    assert_counts(tmp_path / "x.jpg", values[..., None])
    data = imagecodecs.jpeg_encode(values, bitspersample=12, level=95)
    (tmp_path / "x.jpg").write_bytes(data)
    found = assert_counts(tmp_path / "x.jpg", imagecodecs.jpeg_decode(data)[..., None])
    assert found.max is not None
    assert found.max[0] > 255
    inks = rng.integers(0, 4096, (16, 24, 4)).astype(np.uint16)
    (tmp_path / "x.jpg").write_bytes(
        imagecodecs.jpeg_encode(inks, bitspersample=12, colorspace="CMYK", outcolorspace="CMYK")
    )
    with pytest.raises(ValueError, match=r"x\.jpg must be grey or RGB, got 4 channels;uint16"):
        fastbn.stream(tmp_path / "x.jpg")


# What is larger than any image is expected to be.


def png_of(width: int, height: int) -> bytes:
    """Return the beginning of a PNG file, which says how large it is."""
    head = b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    pieces = [head, b"IDAT" + zlib.compress(b""), b"IEND"]
    framed = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in pieces)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize("mode", [None, "L"])
@pytest.mark.parametrize(("width", "height"), [(13_378, 13_378), (20_000, 20_000), (65_000, 65_000)])
@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "webp"])
def test_what_is_too_large_is_said_with_what_allows_it(
    tmp_path: Path, width: int, height: int, mode: str | None, suffix: str
) -> None:
    if suffix == "png":
        data = png_of(width, height)
    elif suffix == "gif":
        size = struct.pack("<2H", width, height)
        data = b"GIF89a" + size + b"\x80\0\0" + b"\0" * 6 + b"," + b"\0" * 4 + size + b"\0\x02\x02\x44\x01\0;"
    elif suffix == "bmp":
        pixels = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        data = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + pixels
    else:
        width, height = min(width, 16_383), min(height, 16_383)  # no more fits
        begin = b"\x9d\x01\x2a" + struct.pack("<2H", width, height)
        frame = struct.pack("<I", 1 << 4 | 1 << 5)[:3] + begin + b"\0" * 20
        data = b"RIFF" + struct.pack("<I", len(frame) + 12) + b"WEBPVP8 " + struct.pack("<I", len(frame)) + frame
    (tmp_path / f"x.{suffix}").write_bytes(data)
    said = r"must have at most 178956970 pixels, got .*\d{9}.* \(max_pixels=, --max-pixels, allows more\)"
    with pytest.raises(ValueError, match=rf"x.{suffix} {said}"):
        fastbn.stream(tmp_path / f"x.{suffix}", mode=mode)
    with warnings.catch_warnings():  # which a program may not make errors of
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=rf"x.{suffix} {said}"):
            fastbn.stream(tmp_path / f"x.{suffix}", mode=mode)


@pytest.mark.parametrize(("suffix", "codec"), [("jp2", "jpeg2k"), ("avif", "avif"), ("png", "png")])
def test_what_is_too_large_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, codec: str
) -> None:
    pixels = np.zeros((40, 50, 3), np.uint8 if codec == "avif" else np.uint16)
    (tmp_path / f"x.{suffix}").write_bytes(getattr(imagecodecs, f"{codec}_encode")(pixels))
    assert fastbn.stream(tmp_path / f"x.{suffix}", max_pixels=2000).count == 2000
    monkeypatch.setattr(imagecodecs, f"{codec}_decode", pytest.fail)
    with pytest.raises(ValueError, match=rf"x.{suffix} must have at most 1999 pixels, got 2000 \(max_pixels="):
        fastbn.stream(tmp_path / f"x.{suffix}", max_pixels=1999)
