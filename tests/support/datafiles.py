"""Arrays and images written to files of every kind, by the libraries known for them, and checks of what is read."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from PIL import Image

import fastbn
from support import oracle
from support.assertions import assert_mean_and_var
from support.tolerances import VAR_RTOL

Array = npt.NDArray[Any]
Save = Callable[[Path, Array], str]

LEAST = 1 << 18  # the smallest memory: blocks of 64 KiB


def save_npy(folder: Path, x: Array) -> str:
    np.save(folder / "x.npy", x)
    return str(folder / "x.npy")


def save_fortran(folder: Path, x: Array) -> str:
    np.save(folder / "f.npy", np.asfortranarray(x))
    return str(folder / "f.npy")


def save_npz(folder: Path, x: Array) -> str:
    np.savez(folder / "x.npz", x=x)
    return str(folder / "x.npz")


def save_compressed(folder: Path, x: Array) -> str:
    np.savez_compressed(folder / "c.npz", other=x[:1], x=x)
    return str(folder / "c.npz:x")


def save_hdf5(folder: Path, x: Array) -> str:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("data", data=x)
    return str(folder / "x.h5")


def chunked(x: Array) -> tuple[int, ...]:
    """Return the shape of chunks that divide no axis evenly, and are small beside a block."""
    sizes = [max(1, (size + 2) // 3) for size in x.shape]
    most = 1500 // max(1, int(np.prod(sizes[1:])))
    return (max(1, min(sizes[0], most)), *(min(size, 1500) for size in sizes[1:]))


def save_chunked(folder: Path, x: Array) -> str:
    chunks = chunked(x)
    with h5py.File(folder / "c.hdf5", "w") as file:
        file.create_dataset("group/data", data=x, chunks=chunks, maxshape=(None,) * x.ndim, compression="gzip")
        file.create_dataset("other", data=x[:1])
    return str(folder / "c.hdf5:/group/data")


def save_zarr(folder: Path, x: Array) -> str:
    chunks = chunked(x)
    array = zarr.open_array(str(folder / "x.zarr"), mode="w", shape=x.shape, chunks=chunks, dtype=x.dtype)
    array[...] = x
    return str(folder / "x.zarr")


def save_parquet(folder: Path, x: Array) -> str:
    table = pa.table({f"c{i}": np.ascontiguousarray(column) for i, column in enumerate(x.T)})
    pq.write_table(table, folder / "x.parquet", row_group_size=max(1, len(x) // 3))
    return str(folder / "x.parquet")


def save_csv(folder: Path, x: Array) -> str:
    with open(folder / "x.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([f"c{i}" for i in range(x.shape[1])])
        rows.writerows([repr(value) for value in row] for row in x.tolist())
    return str(folder / "x.csv")


# Each way of finding a part of an array in a file.
LAYOUTS = [save_npy, save_fortran, save_compressed, save_zarr]
ARRAYS = [save_npy, save_fortran, save_npz, save_compressed, save_hdf5, save_chunked, save_zarr]
TABLES = [save_parquet, save_csv]


def save_images(folder: Path, images: list[Array], suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04}.{suffix}")
    return folder


def random_images(rng: np.random.Generator, count: int, size: tuple[int, int] | None = None) -> list[Array]:
    """Return RGB images, of sizes that differ unless one is given."""
    sizes = [size or tuple(rng.integers(3, 40, 2)) for _ in range(count)]
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def pixels(images: list[Array]) -> Array:
    return np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])


def assert_streamed(found: fastbn.Moments, x: Array, axis: Any = 1) -> None:
    """Assert that statistics are those of x by the oracle, extremes exactly."""
    wanted = oracle.moments(x, axis)
    assert np.all(np.asarray(found.count) == wanted.count)
    shape = oracle.feature_shape(x.shape, axis)
    kind = x.dtype if x.dtype in VAR_RTOL else np.dtype(np.float64)
    mean, var = (np.asarray(part).reshape(shape) for part in (wanted.mean, wanted.m2 / wanted.count))
    assert_mean_and_var(found.mean, found.var(), mean, var, VAR_RTOL[kind])
    if found.min is not None and found.max is not None:
        columns = oracle.columns(x, axis)
        np.testing.assert_array_equal(found.min, columns.min(0).reshape(shape))
        np.testing.assert_array_equal(found.max, columns.max(0).reshape(shape))


def same_bits(one: fastbn.Moments, other: fastbn.Moments) -> bool:
    """Whether two are the same to the last bit, the low parts that merging keeps included."""
    described = ("names", "scale", "axis", "mode")  # which are no statistics
    kept = [{key: value for key, value in each.to_dict().items() if key not in described} for each in (one, other)]
    return fastbn.Moments.from_dict(kept[0]).to_bytes() == fastbn.Moments.from_dict(kept[1]).to_bytes()
