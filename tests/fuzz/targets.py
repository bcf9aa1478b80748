"""What is done with a file that nobody wrote: each target reads or loads it, and checks what it was told.

A file is refused by ValueError, TypeError or OSError. What is loaded must be the same once saved and loaded again.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import fastbn
import fastbn.io.arrays
import fastbn.io.checkpoints
import fastbn.io.images
import fastbn.io.statsfiles
import fastbn.io.tables

REFUSED = (ValueError, TypeError, OSError)
FOLDER = Path(tempfile.mkdtemp(prefix="fastbn-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
MEMBERS = (
    *("config", "count", "mean", "m2", "mean_lo", "m2_lo", "min", "max", "names"),
    *("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "x"),
)
TYPES = ("<f8", "<f4", "<f2", ">f8", "<i8", "<u1", "?", "<U3", "O", "<c16", "<M8[s]")


def written(data: bytes, name: str) -> str:
    """Write a file and return its name."""
    path = FOLDER / name
    path.write_bytes(data)
    return str(path)


def same(one: fastbn.Moments, other: fastbn.Moments) -> None:
    """Assert that what was saved is what is loaded."""
    assert one == other, (one, other)


# Loaders of what fastbn saves.


def moments(data: bytes) -> None:
    """Load statistics; what is loaded is saved, and loaded again."""
    found = fastbn.Moments.from_bytes(data)
    same(fastbn.Moments.from_bytes(found.to_bytes()), found)


def layer(data: bytes) -> None:
    """Load a layer; what is loaded is saved, and loaded again."""
    found = fastbn.BatchNorm.load(written(data, "layer.npz"))
    found.save(FOLDER / "again.npz")
    again = fastbn.BatchNorm.load(FOLDER / "again.npz")
    for name, value in found.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], value)


def stats(data: bytes) -> None:
    """Load the command's statistics as JSON."""
    name = written(data, "stats.json")
    found = fastbn.io.statsfiles.load_stats(name)
    fastbn.io.statsfiles.save_stats(found, FOLDER / "again.json")
    same(fastbn.io.statsfiles.load_stats(FOLDER / "again.json"), found)


def dictionary(data: bytes) -> None:
    """Make statistics of whatever JSON can hold."""
    found = fastbn.Moments.from_dict(json.loads(data))
    same(fastbn.Moments.from_dict(found.to_dict()), found)


def state(data: bytes) -> None:
    """Load a layer's state of whatever JSON can hold; a state that is refused changes nothing."""
    loaded = fastbn.BatchNorm(3)
    before = {name: value.copy() for name, value in loaded.state_dict().items()}
    held = json.loads(data)
    try:
        loaded.load_state_dict(held)
    except REFUSED:
        np.testing.assert_equal(loaded.state_dict(), before)
        raise


def checkpoint(data: bytes) -> None:
    """Read a checkpoint, whose digest is put right, for a mutation would not find it."""
    held = json.loads(data)
    if isinstance(held, dict) and "digest" in held:
        held.pop("digest")
        held["digest"] = fastbn.io.checkpoints._digest(held)
        identity = held.get("identity", {})
        data = json.dumps(held).encode()
    else:
        identity = {}
    found = fastbn.io.checkpoints.Checkpoint(written(data, "checkpoint"), identity, 5.0).load()
    assert found is not None


def archive(data: bytes) -> None:
    """Load an archive whose checksums are right, of members that are made of the data."""
    written(_archive(data), "layer.npz")
    held = (FOLDER / "layer.npz").read_bytes()
    for load in (moments, layer, lambda _: fastbn.io.statsfiles.load_stats(FOLDER / "layer.npz")):
        with suppress(*REFUSED):
            load(held)
    fastbn.stream(str(FOLDER / "layer.npz"))


def _archive(data: bytes) -> bytes:
    provider, file = _Bytes(data), io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        for _ in range(provider.number(8)):
            name = MEMBERS[provider.number(len(MEMBERS))]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of two members of one name
                members.writestr(f"{name}.npy", _member(name, provider))
    return file.getvalue()


def _member(name: str, provider: _Bytes) -> bytes:
    """Return options, an array of some type, or bytes that are neither."""
    if not provider.number(4):
        return provider.some(200)
    if name == "config":
        return _saved(np.array(provider.rest().decode("utf-8", "replace")))
    dtype = np.dtype(TYPES[provider.number(len(TYPES))])
    shape = tuple(provider.number(4) for _ in range(provider.number(3)))
    if dtype.hasobject:
        return _saved(np.empty(shape, dtype))
    nbytes = math.prod(shape) * dtype.itemsize
    return _saved(np.frombuffer(provider.some(nbytes).ljust(nbytes, b"\0"), dtype).reshape(shape))


class _Bytes:
    """Hands out what decisions are made of."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def some(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, below: int) -> int:
        return int.from_bytes(self.some(1), "little") % below

    def rest(self) -> bytes:
        return self.some(max(0, len(self._data) - self._at))


def _saved(array: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


# Readers of data.


def reader(suffix: str, **options: Any) -> Callable[[bytes], None]:
    """Return what reads a file of this suffix."""

    def read(data: bytes) -> None:
        name = written(data, f"x{suffix}")
        found = fastbn.stream(name, **options)
        assert found.shape is None or found.mean.shape == found.shape

    return read


def store(data: bytes) -> None:
    """Read a Zarr store: its description and one chunk, with a line of zeros between them."""
    description, _, chunk = data.partition(b"\0\0\0\0")
    folder = FOLDER / "x.zarr"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "c" / "0").mkdir(parents=True)
    (folder / "zarr.json").write_bytes(description)
    (folder / "c" / "0" / "0").write_bytes(chunk)
    fastbn.stream(str(folder))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "moments": moments,
    "layer": layer,
    "archive": archive,
    "stats": stats,
    "dictionary": dictionary,
    "state": state,
    "checkpoint": checkpoint,
    "npy": reader(".npy"),
    "npz": reader(".npz"),
    "csv": reader(".csv", header=False),
    "named": reader(".csv", header=True),
    "pnm": reader(".pnm"),
    "png": reader(".png"),
    "tiff": reader(".tif"),
    "zarr": store,
}


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Yield a target, a name and content for each file that a fuzzer begins with: a few hundred bytes, and valid."""
    x = np.arange(12.0).reshape(6, 2)
    found = fastbn.Moments(nan="omit", extremes=True).update(x)
    yield "moments", "moments", found.to_bytes()
    small = fastbn.BatchNorm(2, activation="relu")
    small(x)
    small.save(FOLDER / "layer.npz")
    yield "layer", "layer", (FOLDER / "layer.npz").read_bytes()
    fastbn.io.statsfiles.save_stats(fastbn.io.statsfiles.remembering(found, names=("a", "b")), FOLDER / "stats.json")
    yield "stats", "stats", (FOLDER / "stats.json").read_bytes()
    plain = {key: np.asarray(value).tolist() for key, value in found.to_dict().items()}
    yield "dictionary", "dictionary", json.dumps(plain).encode()
    three = fastbn.BatchNorm(3).state_dict()
    yield "state", "state", json.dumps({key: value.tolist() for key, value in three.items()}).encode()
    begun = fastbn.io.checkpoints.Checkpoint(str(FOLDER / "checkpoint"), {"options": {}, "sources": []}, 0.0)
    begun.save(fastbn.io.checkpoints.Progress(total=found, notes=["a note"]))
    yield "checkpoint", "checkpoint", (FOLDER / "checkpoint").read_bytes()
    yield "archive", "archive", bytes(range(120)) * 2
    for order, array in {"c": x, "fortran": x.T.copy().T, "half": x.astype("<f2"), "big": x.astype(">i4")}.items():
        yield "npy", order, _saved(array)
    with io.BytesIO() as file:
        np.savez_compressed(file, x=x)
        yield "npz", "compressed", file.getvalue()
    yield "csv", "numbers", b"1.5,2\n-3e5,nan\n,4\n"
    yield "csv", "quoted", b'"1",2\r\n"3",4\r\n'
    yield "named", "names", b"a,b\n1,2\n3,4\n5,6\n"
    heads = (("grey", b"P5 2 2 255\n", 4), ("deep", b"P5\n# c\n2 2 1000\n", 8), ("rgb", b"P6 2 2 255\n", 12))
    for name, head, depth in heads:
        yield "pnm", name, head + bytes(range(depth))
    yield "pnm", "text", b"P2 2 2 9\n1 2 3 9\n"
    yield "pnm", "floats", b"Pf\n2 2\n-1.0\n" + np.arange(4, dtype="<f4").tobytes()
    from PIL import Image

    for name, pixels in (("grey", x.astype("u1")), ("rgb", np.zeros((2, 2, 3), "u1")), ("deep", x.astype("<u2"))):
        for target, kind in (("png", "PNG"), ("tiff", "TIFF")):
            with io.BytesIO() as file:
                Image.fromarray(pixels).save(file, kind)
                yield target, name, file.getvalue()
    import zarr

    zarr.save_array(FOLDER / "seed.zarr", x)
    chunk = FOLDER / "seed.zarr" / "c" / "0" / "0"
    yield "zarr", "array", (FOLDER / "seed.zarr" / "zarr.json").read_bytes() + b"\0\0\0\0" + chunk.read_bytes()


def read(target: str, data: bytes) -> None:
    """Do with one file what its target says; what is raised is a finding."""
    with warnings.catch_warnings(), suppress(*REFUSED):
        warnings.simplefilter("ignore")
        TARGETS[target](data)


def clear() -> None:
    """Remove what was written."""
    shutil.rmtree(FOLDER, ignore_errors=True)
