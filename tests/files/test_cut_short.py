"""Promise: an image file of which some is missing is an error, whatever is still there of its pages and frames."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest

import fastbn

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")
Image = pytest.importorskip("PIL.Image")

STACK = np.random.default_rng(5).integers(0, 256, size=(4, 6, 5)).astype(np.uint8)


def tiff(how: str) -> bytes:
    """Return four pages as one of those has written them who write TIFF."""
    file = io.BytesIO()
    if how == "pillow":
        first, *others = map(Image.fromarray, STACK)
        first.save(file, "TIFF", save_all=True, append_images=others)
    elif how == "one by one":
        with tifffile.TiffWriter(file) as writer:
            for page in STACK:
                writer.write(page, photometric="minisblack", metadata=None)
    else:
        options = {"compression": "zlib"} if how == "compressed" else {"metadata": None, "bigtiff": how == "big"}
        tifffile.imwrite(file, STACK, photometric="minisblack", **options)
    return file.getvalue()


def counted(path: Path, mode: str | None = None) -> tuple[int, float] | None:
    """Return the number of pixels and their mean; None where the file is refused."""
    try:
        found = fastbn.stream(path, mode=mode)
    except ValueError:
        return None
    return int(found.count), float(found.mean[0])


@pytest.mark.parametrize("how", ["compressed", "bare", "big", "pillow", "one by one"])
def test_no_page_of_a_tiff_is_left_out(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # tifffile tells of what is missing in its log, where nobody looks
    path, data = tmp_path / "x.tif", tiff(how)
    whole = STACK.size, pytest.approx(STACK.mean(), rel=1e-14)
    path.write_bytes(data)
    assert counted(path) == whole
    assert counted(path, mode="L") == whole
    refused = 0
    for size in range(8, len(data), 7):
        path.write_bytes(data[:size])
        found = counted(path)
        refused += found is None
        assert found in (None, whole), f"cut to {size} of {len(data)} bytes"
    assert refused > len(data) / 28


def test_a_page_that_is_named_must_be_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    path, data = tmp_path / "x.tif", tiff("one by one")
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        first, last = opened.pages[0].offset, opened.pages[-1].offset
    at = last + 2 + 12 * int.from_bytes(data[last : last + 2], "little")  # where the next page would be said to be
    assert data[at : at + 4] == bytes(4)
    path.write_bytes(data[:at] + len(data).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(ValueError, match=r"x.tif must hold page 5, got its end before: it is cut short"):
        fastbn.stream(path)
    path.write_bytes(data[:at] + first.to_bytes(4, "little") + data[at + 4 :])  # a ring
    assert counted(path) == (STACK.size, pytest.approx(STACK.mean(), rel=1e-14))


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("colour", [False, True])
def test_no_frame_of_a_gif_is_left_out(frames: int, colour: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(frames)
    shown = [Image.fromarray(rng.integers(0, 256, size=(5, 4) + (3,) * colour).astype(np.uint8)) for _ in range(frames)]
    path = tmp_path / "x.gif"
    shown[0].save(path, save_all=True, append_images=shown[1:], comment=b"some; text, with! marks")
    data = path.read_bytes()
    assert data.endswith(b";")
    whole = counted(path)
    assert whole is not None
    assert whole[0] == frames * 20
    path.write_bytes(data + b"behind; it")
    assert counted(path) == whole
    for size in range(6, len(data)):
        path.write_bytes(data[:size])
        assert counted(path) is None, f"cut to {size} of {len(data)} bytes"


def test_bytes_between_the_blocks_of_a_gif_are_no_end(tmp_path: Path) -> None:
    """Pillow skips them, and so must what looks for the end."""
    first, *others = map(Image.fromarray, STACK)
    path = tmp_path / "x.gif"
    first.save(path, save_all=True, append_images=others)
    data, whole = path.read_bytes(), counted(path)
    assert whole is not None
    assert whole[0] == STACK.size
    at = data.index(b"!\xf9", data.index(b",") + 1)  # what comes before the second frame
    path.write_bytes(data[:at] + b"\0" + data[at:])
    with Image.open(path) as image:
        assert image.n_frames == len(STACK)
    assert counted(path) == whole
