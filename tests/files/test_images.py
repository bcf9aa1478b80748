"""A folder of images has the statistics of its pixels, channel by channel, whatever its files' sizes and formats."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastbn
from support.datafiles import LEAST, Array, assert_streamed, pixels, random_images, same_bits, save_images


@pytest.fixture
def images(rng: np.random.Generator) -> list[Array]:
    """Return images of several blocks' worth, one of which is larger than a block."""
    return [*random_images(rng, 100), rng.integers(0, 256, (150, 200, 3), np.uint8), *random_images(rng, 9)]


def test_channels_are_features(tmp_path: Path, images: list[Array]) -> None:
    folder = save_images(tmp_path / "images", images)
    blocks: list[int] = []
    found = fastbn.stream(folder, memory=LEAST, progress=lambda done, total: blocks.append(done))
    assert len(set(blocks)) > 3
    assert blocks[-1] == sum(path.stat().st_size for path in folder.iterdir())
    assert_streamed(found, pixels(images))
    assert_streamed(fastbn.stream(folder, columns=["B", 0]), pixels(images)[:, [2, 0]])
    assert_streamed(fastbn.stream(folder, dtype=np.float32, memory=LEAST), pixels(images).astype(np.float32))
    assert same_bits(fastbn.stream(sorted(folder.iterdir()), memory=LEAST), found)


def test_units_of_0_to_1(tmp_path: Path, images: list[Array]) -> None:
    found = fastbn.stream(save_images(tmp_path / "images", images), scale=255)
    expected = pixels(images) / 255.0
    np.testing.assert_allclose(found.mean, expected.mean(0), rtol=1e-12)  # sums of 1e5 terms, and NumPy's own
    np.testing.assert_allclose(found.std(), expected.std(0), rtol=1e-12)
    assert found.max is not None
    assert found.max.tolist() == [1.0, 1.0, 1.0]


def test_timing_does_not_matter(tmp_path: Path, images: list[Array], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_images(tmp_path / "images", images)
    found = fastbn.stream(folder, memory=LEAST)
    for workers in (1, 2, 7):
        monkeypatch.setattr("fastbn.io.images._WORKERS", workers)
        assert same_bits(fastbn.stream(folder, memory=LEAST), found)


def test_folders_in_folders(tmp_path: Path, images: list[Array]) -> None:
    save_images(tmp_path / "train" / "cats", images[:5])
    save_images(tmp_path / "train" / "dogs", images[5:9], "bmp")
    save_images(tmp_path / "train" / ".trash", images[9:10])
    (tmp_path / "train" / "labels.csv").write_text("name,label\n")
    (tmp_path / "train" / ".DS_Store").write_text("not an image")
    assert_streamed(fastbn.stream(tmp_path / "train"), pixels(images[:9]))
    assert_streamed(fastbn.stream([tmp_path / "train" / "cats", tmp_path / "train" / "dogs"]), pixels(images[:9]))


def modes(rng: np.random.Generator) -> dict[str, tuple[Any, Array, tuple[str, ...]]]:
    """Return for each mode of Pillow an image, its pixels as they count, and the names of its channels."""
    grey = rng.integers(0, 256, (5, 7, 1), np.uint8)
    rgb = rng.integers(0, 256, (5, 7, 3), np.uint8)
    deep = rng.integers(0, 65536, (5, 7, 1)).astype(np.uint16)
    alpha = np.concatenate([rgb, grey], axis=2)
    palette = Image.fromarray(rgb).quantize(5)
    return {
        "L": (Image.fromarray(grey[..., 0]), grey, ("L",)),
        "1": (Image.fromarray(grey[..., 0] > 99), (grey > 99) * np.uint8(255), ("L",)),
        "LA": (Image.merge("LA", [Image.fromarray(grey[..., 0])] * 2), grey, ("L",)),
        "RGB": (Image.fromarray(rgb), rgb, ("R", "G", "B")),
        "RGBA": (Image.fromarray(alpha), rgb, ("R", "G", "B")),
        "P": (palette, np.asarray(palette.convert("RGB")), ("R", "G", "B")),
        "I;16": (Image.fromarray(deep[..., 0]), deep, ("I",)),
        "F": (Image.fromarray(deep[..., 0].astype(np.float32) / 7), deep.astype(np.float32) / 7, ("F",)),
    }


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGB", "RGBA", "P", "I;16", "F"])
def test_modes(tmp_path: Path, rng: np.random.Generator, mode: str) -> None:
    image, expected, names = modes(rng)[mode]
    assert image.mode == mode
    image.save(tmp_path / ("x.tif" if mode == "F" else "x.png"))
    found = fastbn.stream(tmp_path, columns=list(names))
    assert_streamed(found, expected.reshape(-1, len(names)))


def test_modes_that_are_asked_for(tmp_path: Path, rng: np.random.Generator) -> None:
    images = modes(rng)
    for name in ("L", "RGB", "RGBA", "P"):
        images[name][0].save(tmp_path / f"{name}.png")
    for mode in ("L", "RGB", "RGBA", "HSV"):
        expected = [np.asarray(images[name][0].convert(mode)) for name in ("L", "P", "RGB", "RGBA")]
        flat = [array.reshape(5 * 7, -1) for array in expected]
        assert_streamed(fastbn.stream(tmp_path, mode=mode), np.concatenate(flat))
    with pytest.raises(ValueError, match=r"P.png must be of mode L as those before it, got RGB \(or ask for one mode"):
        fastbn.stream(tmp_path)
    images["I;16"][0].save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png must have 8 bits to be of mode L, got mode I;16"):
        fastbn.stream(tmp_path, mode="L")


def test_images_that_cannot_be_read(tmp_path: Path, images: list[Array]) -> None:
    folder = save_images(tmp_path / "images", images[:6])
    (folder / "0000.png").write_text("hello")
    cut = folder / "0003.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"0000.png cannot be read: cannot identify image file"):
        fastbn.stream(folder)
    (folder / "0000.png").unlink()
    with pytest.raises((ValueError, OSError), match=r"0003.png"):
        fastbn.stream(folder)
    (folder / "0000.png").write_text("hello")
    told: list[str] = []
    found = fastbn.stream(folder, on_error=lambda name, error: told.append(Path(name).name))
    assert told == ["0000.png", "0003.png"]
    assert_streamed(found, pixels([images[1], images[2], images[4], images[5]]))
    for path in folder.iterdir():
        path.write_text("hello")
    with pytest.raises(ValueError, match=r"source must hold something that can be read, got 7 that cannot; .*0000.png"):
        fastbn.stream(folder, on_error=lambda name, error: None)


def test_an_error_of_the_one_who_is_told_ends_the_run(tmp_path: Path, images: list[Array]) -> None:
    folder = save_images(tmp_path / "images", images[:3])
    (folder / "0001.png").write_text("hello")
    with pytest.raises(RuntimeWarning, match=r"left out: .*0001.png"):  # as warnings are errors here
        fastbn.stream(folder, on_error="skip")


def test_pillow_that_is_missing(tmp_path: Path, images: list[Array], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_images(tmp_path / "images", images[:1])
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'Images need pillow: pip install "fastbn\[files\]"'):
        fastbn.stream(folder)
