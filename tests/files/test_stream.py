"""Data larger than a block have the statistics of the whole, whatever holds them and however they are cut."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbn
from fastbn.io.arrays import Grid, contiguous, extent
from support import datafiles
from support.datafiles import ARRAYS, LAYOUTS, LEAST, TABLES, Array, Save, assert_streamed, same_bits


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    """Return values of six blocks or more, no two features alike."""
    return rng.normal([3.0, -1e4, 0.0, 1e-3, 7.0], [1.0, 2.0, 1e3, 1e-5, 1e2], (10_009, 5))


@pytest.mark.parametrize("save", ARRAYS + TABLES, ids=lambda save: save.__name__)
def test_every_kind_of_file(tmp_path: Path, x: Array, save: Save) -> None:
    blocks: list[int] = []
    source = save(tmp_path, x)
    found = fastbn.stream(source, memory=LEAST, progress=lambda done, total: blocks.append(done))
    assert len(set(blocks)) > 4
    assert_streamed(found, x)
    assert_streamed(fastbn.stream(source, memory=LEAST, columns=[4, 0]), x[:, [4, 0]])
    assert_streamed(fastbn.stream(source, memory=LEAST, columns=[-1]), x[:, [-1]])
    assert fastbn.stream(source, extremes=False).min is None


@pytest.mark.parametrize("save", TABLES, ids=lambda save: save.__name__)
def test_columns_by_name(tmp_path: Path, x: Array, save: Save) -> None:
    assert_streamed(fastbn.stream(save(tmp_path, x), columns=["c3", 0, "c1"], memory=LEAST), x[:, [3, 0, 1]])
    assert_streamed(fastbn.stream(save(tmp_path, x), columns=["3"], memory=LEAST), x[:, [3]])


AXES: list[Any] = [0, 1, -1, (1, 3), (0, 2), (0, 1, 2, 3), ()]


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("save", LAYOUTS, ids=lambda save: save.__name__)
def test_feature_axes(tmp_path: Path, rng: np.random.Generator, save: Save, axis: Any) -> None:
    y = rng.normal(5.0, 2.0, (9, 13, 21, 7))
    source = save(tmp_path, y)
    assert_streamed(fastbn.stream(source, axis=axis, memory=LEAST), y, axis)
    if isinstance(axis, int):
        chosen = [2, 0, 6, 5]
        expected = np.take(y, chosen, axis)
        assert_streamed(fastbn.stream(source, axis=axis, columns=chosen, memory=LEAST), expected, axis)


@pytest.mark.parametrize("columns", [None, [10_000, 3, 9_999, 17_000]], ids=str)
@pytest.mark.parametrize("save", [datafiles.save_npy, datafiles.save_fortran, datafiles.save_zarr], ids=str)
def test_rows_longer_than_a_block(tmp_path: Path, rng: np.random.Generator, save: Save, columns: Any) -> None:
    y = rng.normal(size=(5, 20_000))
    found = fastbn.stream(save(tmp_path, y), columns=columns, memory=LEAST)
    assert_streamed(found, y if columns is None else y[:, columns])


def test_an_array_of_one_dimension_in_a_file_is_a_column(tmp_path: Path, x: Array) -> None:
    for save in ARRAYS:
        assert_streamed(fastbn.stream(save(tmp_path, x[:, 0]), memory=LEAST), x[:, :1])


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?", ">f4", ">i8", "g"]
)
def test_types(tmp_path: Path, rng: np.random.Generator, dtype: str) -> None:
    kind = np.dtype(dtype)
    y = rng.integers(0, 2 if dtype == "?" else 100, (3_000, 3)).astype(kind)
    exact = y.astype(np.float64)  # small numbers are themselves in every type
    assert_streamed(fastbn.stream(datafiles.save_npy(tmp_path, y), memory=LEAST), exact)
    if dtype not in ("g", "?"):
        assert_streamed(fastbn.stream(datafiles.save_hdf5(tmp_path, y), memory=LEAST), exact)
    found = fastbn.stream(datafiles.save_npy(tmp_path, y), dtype=np.float32, memory=LEAST)
    assert_streamed(found, y.astype(np.float32))


def test_blocks_and_threads_do_not_matter(tmp_path: Path, x: Array, threads: Any) -> None:
    source = datafiles.save_npy(tmp_path, x)
    found = fastbn.stream(source, memory=LEAST)
    for number in (1, 2, 5):
        threads(number)
        assert same_bits(fastbn.stream(source, memory=LEAST), found)
    for memory in (LEAST + 12_345, 3 * LEAST, 64 * LEAST):
        other = fastbn.stream(source, memory=memory)
        # Merging keeps what rounding leaves over; what is left is the sums within blocks, promised to 1.2e-13.
        np.testing.assert_allclose(other.mean, found.mean, rtol=1e-15, atol=1e-15)
        np.testing.assert_allclose(other.m2, found.m2, rtol=1.2e-13)
        np.testing.assert_array_equal(other.min, found.min)


# What is in memory.


def batches(x: Array, size: int) -> Iterator[Array]:
    """Yield parts of x in one array, which is filled anew for each."""
    buffer = np.empty((size, *x.shape[1:]), x.dtype)
    for start in range(0, len(x), size):
        part = x[start : start + size]
        buffer[: len(part)] = part
        yield buffer[: len(part)]


def test_arrays_that_come_one_by_one(x: Array) -> None:
    calls: list[tuple[int, int | None]] = []
    found = fastbn.stream(batches(x, 1000), progress=lambda *call: calls.append(call))
    assert_streamed(found, x)
    assert calls[-1] == (x.nbytes, None)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_arrays_and_what_is_like_them(tmp_path: Path, x: Array) -> None:
    for array in (x, x.T.copy().T, x[:, ::-1][:, ::-1], pd.DataFrame(x), pl.DataFrame(x), [x[:100], x[100:]]):
        assert_streamed(fastbn.stream(array, memory=LEAST), x)
    assert_streamed(fastbn.stream((x[:7], x[7:])), x)
    interface = type("Held", (), {"__array_interface__": x.__array_interface__})
    for array in (memoryview(x), interface(), pa.Tensor.from_numpy(x)):
        assert_streamed(fastbn.stream(array), x)
    with h5py.File(datafiles.save_chunked(tmp_path, x).partition(":")[0]) as file:
        assert_streamed(fastbn.stream(file["group/data"], memory=LEAST), x)
    assert_streamed(fastbn.stream(zarr.open(datafiles.save_zarr(tmp_path, x), mode="r"), memory=LEAST), x)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_mapped_files(tmp_path: Path, x: Array, mode: Any) -> None:
    mapped = np.load(datafiles.save_npy(tmp_path, x), mmap_mode=mode)
    expected = x.copy()
    if mode == "c":  # pages that were changed are this process's alone: they must not be let go
        mapped[:, 1] = expected[:, 1] = 5.0
    assert_streamed(fastbn.stream(mapped, memory=LEAST), expected)
    assert_streamed(fastbn.stream(mapped[1::2, ::-1], memory=LEAST), expected[1::2, ::-1])
    assert_streamed(fastbn.stream(np.asarray(mapped).view(np.memmap), memory=LEAST), expected)  # knows no mode
    np.testing.assert_array_equal(mapped, expected)


def test_several_sources_are_one(tmp_path: Path, x: Array) -> None:
    parts = np.array_split(x, 4)
    sources: list[Any] = []
    for save, part in zip([*TABLES, datafiles.save_npy, datafiles.save_zarr], parts, strict=True):
        sources.append(save(tmp_path, part))
    sources.append(x[:3])
    found = fastbn.stream(sources, memory=LEAST)
    assert_streamed(found, np.concatenate([x, x[:3]]))
    assert_streamed(fastbn.stream(iter(sources), memory=LEAST), np.concatenate([x, x[:3]]))
    merged = sum((fastbn.stream(source, memory=LEAST) for source in sources), start=fastbn.Moments())
    assert found == merged


def test_a_folder_of_files_is_read_by_name(tmp_path: Path, x: Array) -> None:
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    datafiles.save_npy(tmp_path, x[:500])
    datafiles.save_zarr(tmp_path / "sub", x[500:700])
    datafiles.save_csv(tmp_path / "sub", x[700:])
    (tmp_path / "README.txt").write_text("not data")
    (tmp_path / ".hidden.npy").write_text("not data")
    (tmp_path / "sub" / ".hidden" / "y.npy").write_text("not data")
    assert_streamed(fastbn.stream(tmp_path, memory=LEAST), x)


# Masks and NaN.


def spoiled(x: Array) -> Array:
    y = x.copy()
    y[5, 0] = y[-1, 0] = np.nan
    y[7, 1], y[9, 1] = np.inf, -np.inf
    y[11, 3], y[8_000, 3] = np.nan, np.inf
    y[:, 4] = np.nan
    return y


@pytest.mark.parametrize("save", LAYOUTS + TABLES, ids=lambda save: save.__name__)
def test_what_is_not_finite(tmp_path: Path, x: Array, save: Save) -> None:
    y = spoiled(x)
    source = save(tmp_path, y)
    plain = fastbn.stream(source, memory=LEAST)
    assert plain.count == len(y)
    assert np.isnan(plain.mean).tolist() == [True, True, False, True, True]
    assert_streamed(fastbn.stream(source, memory=LEAST, columns=[2]), y[:, [2]])

    finite = fastbn.stream(source, memory=LEAST, where_finite=True)
    assert finite.count.tolist() == np.isfinite(y).sum(0).tolist()
    for i in range(4):
        column = y[np.isfinite(y[:, i]), i, np.newaxis]
        assert_streamed(fastbn.stream(source, columns=[i], memory=LEAST, where_finite=True), column)
        # Both sum 1e4 values, which may cancel to a hundredth of what they are; NumPy in pairs, 20 roundings deep.
        np.testing.assert_allclose(finite.mean[i], column.mean(), rtol=20 * 100 * 2.0**-53)
    assert np.isnan([finite.mean[4], finite.min[4], finite.max[4]]).all()

    numbers = fastbn.stream(source, memory=LEAST, nan="omit")
    assert numbers.count.tolist() == (~np.isnan(y)).sum(0).tolist()
    assert numbers.min[1] == -np.inf
    assert numbers.max[3] == np.inf


def test_scale_changes_the_unit(tmp_path: Path, x: Array) -> None:
    source = datafiles.save_npy(tmp_path, x)
    whole, scaled = fastbn.stream(source), fastbn.stream(source, scale=255)
    for name, power in (("mean", 1), ("m2", 2), ("min", 1), ("max", 1)):
        # Two divisions, of what was rounded once, against one.
        np.testing.assert_allclose(getattr(scaled, name), getattr(whole, name) / 255.0**power, rtol=4 * 2.0**-53)
    assert scaled.count == whole.count


@pytest.mark.parametrize("scale", [2.0**-600, 2.0**600])
def test_scales_whose_square_is_no_float64(tmp_path: Path, x: Array, scale: float) -> None:
    values = x * np.sqrt(scale)  # powers of two, so all that is rounded is what is rounded for x
    whole, scaled = fastbn.stream(x), fastbn.stream(values, scale=scale)
    for name, power in (("mean", 1), ("m2", 2), ("min", 1), ("max", 1)):
        np.testing.assert_array_equal(getattr(scaled, name) * np.sqrt(scale) ** power, getattr(whole, name))
    fastbn.standardize(values, scaled, tmp_path / "y.npy", scale=scale)
    fastbn.standardize(x, whole, tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.load(tmp_path / "x.npy"))
    far = fastbn.stream(x, scale=scale**1.5)  # squares are infinite or 0, which merging takes
    assert np.isfinite(far.mean).all()
    assert (far.m2 == (np.inf if scale < 1 else 0)).all()
    assert not np.isnan((far + far).mean).any()


# Pieces of memory.


@settings(max_examples=60)
@given(data=st.data(), shape=st.lists(st.integers(0, 7), min_size=1, max_size=4))
def test_tiles_cover_an_array_once_and_in_order(data: st.DataObject, shape: list[int]) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    chunks = tuple(data.draw(st.integers(1, 3)) for _ in shape)
    grid = Grid(tuple(shape), order, chunks, data.draw(st.integers(1, 40)))
    assert len(grid) == 1 or 0 not in shape
    seen = np.zeros(shape, int)
    numbers = np.arange(seen.size).reshape([shape[a] for a in order]).transpose(np.argsort(order))
    last = -1
    for number in range(len(grid)):
        region = grid.region(number)
        seen[region] += 1
        if set(chunks) == {1} and seen.size:
            part = np.sort(numbers[region], axis=None)
            assert part[0] == last + 1
            assert (np.diff(part) == 1).all()
            last = int(part[-1])
    assert (seen == 1).all()


@settings(max_examples=60)
@given(data=st.data(), shape=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_runs_are_the_memory_of_a_region(data: st.DataObject, shape: list[int]) -> None:
    bounds = [sorted((data.draw(st.integers(0, size)), data.draw(st.integers(0, size)))) for size in shape]
    region = tuple(slice(*bound) for bound in bounds)
    numbers = np.arange(np.prod(shape)).reshape(shape)
    found = [first + i for first, count in contiguous(tuple(shape), region) for i in range(count)]
    assert found == numbers[region].ravel().tolist()
    assert extent(region) == numbers[region].shape


def test_files_are_closed(tmp_path: Path, x: Array) -> None:
    opened = set(Path("/proc/self/fd").iterdir())
    for save in itertools.chain(ARRAYS, TABLES):
        source = save(tmp_path, x[:100])
        fastbn.stream(source)
        with pytest.raises(ValueError, match="columns must"):
            fastbn.stream(source, columns=[77])
    gc.collect()
    assert len(set(Path("/proc/self/fd").iterdir())) <= len(opened)


def test_masked_arrays_are_refused_by_the_name_of_the_argument() -> None:
    masked = np.ma.masked_array(np.ones((3, 2)), np.eye(3, 2))
    with pytest.raises(TypeError, match=r"^source must not be a masked array \(.* where=~x.mask\), got MaskedArray$"):
        fastbn.stream(masked)
    with pytest.raises(
        TypeError, match=r"^source\[1\] must not be a masked array \(.* where=~x.mask\), got MaskedArray$"
    ):
        fastbn.stream([np.ones((3, 2)), masked])


def test_numbers_of_more_than_64_bits_are_not_rounded_without_a_word(tmp_path: Path) -> None:
    x = np.array([[1.0, 2.0], [3.0, np.nan], [np.inf, 5.0]], np.longdouble)
    np.save(tmp_path / "x.npy", x)
    assert fastbn.stream(tmp_path / "x.npy", columns=[1], nan="omit").mean == [3.5]
    x[1, 0] = np.longdouble(1) / 3
    np.save(tmp_path / "x.npy", x)
    moments = fastbn.stream(tmp_path / "x.npy", dtype="float64", where_finite=True)
    assert moments.mean.tolist() == [float((1 + x[1, 0]) / 2), 3.5]
    for source in (tmp_path / "x.npy", x):
        with pytest.raises(
            ValueError, match=r"must hold numbers that float64 holds, got 0\.333333.* of float128: dtype=fl"
        ):
            fastbn.stream(source)
        with pytest.raises(ValueError, match="must hold numbers that float64 holds"):
            fastbn.standardize(source, moments, tmp_path / "y.npy", overwrite=True)
        fastbn.standardize(source, moments, tmp_path / "y.npy", dtype="float64", overwrite=True)
    assert fastbn.stream(tmp_path / "x.npy", columns=[1], nan="omit").mean == [3.5]


def test_systems_that_take_no_advice_on_files(tmp_path: Path, x: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    assert_streamed(fastbn.stream(datafiles.save_npy(tmp_path, x)), x)
