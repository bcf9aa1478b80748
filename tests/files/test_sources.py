"""Whatever is wrong with a file is said in one line that names it, and by choice the file is left out."""

from __future__ import annotations

import errno
import io
import os
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import xarray
import zarr

import fastbn
from support import datafiles
from support.datafiles import LEAST, Array, assert_streamed


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    return rng.normal(5.0, 2.0, (500, 3))


def raw_npy(path: Path) -> str:
    """Write a header of the version that has names of fields in Unicode."""
    text = b"{'descr': [('\xc3\xa4', '<f4')], 'fortran_order': False, 'shape': (0,)}\n"
    path.write_bytes(b"\x93NUMPY\x03\x00" + struct.pack("<I", len(text)) + text)
    return path.name


def header(shape: str) -> Callable[[Path], str]:
    """Return a file that says of which shape it is, and holds ten values."""

    def make(folder: Path) -> str:
        text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        (folder / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(80))
        return "x.npy"

    return make


def npy(**arrays: Any) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        np.save(folder / "bad.npy", **arrays)
        return "bad.npy"

    return make


def written(name: str, data: bytes | str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return name

    return make


def damaged(save: datafiles.Save, keep: float) -> Callable[[Path], str]:
    """Return a file of which the end is missing."""

    def make(folder: Path) -> str:
        path = Path(save(folder, np.random.default_rng(0).normal(size=(900, 3))))
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
        return path.name

    return make


def flipped(folder: Path) -> str:
    """Return an archive of which a byte is wrong."""
    path = Path(datafiles.save_npz(folder, np.zeros((900, 3))))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.name


def several(folder: Path) -> str:
    np.savez(folder / "two.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    return "two.npz"


def no_member(folder: Path) -> str:
    return several(folder) + ":c"


def empty_npz(folder: Path) -> str:
    with zipfile.ZipFile(folder / "none.npz", "w"):
        return "none.npz"


def hdf5(make: Callable[[h5py.File], object], member: str = "") -> Callable[[Path], str]:
    def save(folder: Path) -> str:
        with h5py.File(folder / "bad.h5", "w") as file:
            make(file)
        return "bad.h5" + member

    return save


def zarr_group(folder: Path) -> str:
    for name in ("a", "b"):
        zarr.open_array(str(folder / "bad.zarr"), path=name, mode="w", shape=(2, 2), dtype="f8")
    return "bad.zarr"


def parquet(columns: dict[str, Any]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        pq.write_table(pa.table(columns), folder / "bad.parquet")
        return "bad.parquet"

    return make


def alike(folder: Path, *names: str) -> str:
    arrays = [pa.array([1.0, 3.0], pa.float64())] * len(names)
    pq.write_table(pa.Table.from_arrays(arrays, names=names), folder / "bad.parquet")
    return "bad.parquet"


def miscounted(which: int) -> Callable[[Path], str]:
    """Return a table of 100 rows whose footer gives -101 as one of its numbers of rows."""

    def make(folder: Path) -> str:
        path = folder / "bad.parquet"
        pq.write_table(pa.table({name: np.zeros(100) for name in "abc"}), path)
        data = bytearray(path.read_bytes())
        places = [found.start() for found in re.finditer(rb"\x16\xc8\x01", data)]  # 100 as an i64 of Thrift's
        assert len(places) == 5  # of the file, the columns and the row group
        data[places[which] + 1] ^= 1
        path.write_bytes(data)
        return path.name

    return make


def broken_link(folder: Path) -> str:
    (folder / "x.png").symlink_to("nosuch.png")
    return "x.png"


def record(folder: Path) -> str:
    np.save(folder / "bad.npy", np.zeros(3, [("a", "f4"), ("b", "f4")]))
    return "bad.npy"


BAD: list[tuple[str, Callable[[Path], str], dict[str, Any], str]] = [
    ("missing", lambda folder: "nosuch.npy", {}, "No such file or directory: '.*nosuch.npy'"),
    ("missing-kind", lambda folder: "nosuch", {}, "No such file or directory: '.*nosuch'"),
    ("missing-hdf5", lambda folder: "nosuch.h5", {}, r"\[Errno 2\] .*: '.*nosuch.h5'"),
    ("missing-parquet", lambda folder: "nosuch.parquet", {}, r"\[Errno 2\] .*: '.*nosuch.parquet'"),
    ("unknown-kind", written("x.foo", "1"), {}, r"source must be .* known format \(.npy, .*, got '.*x.foo'"),
    ("no-npy", written("x.npy", "hello, world"), {}, "x.npy cannot be read: the magic string is not correct"),
    (
        "npy-version",
        lambda folder: raw_npy(folder / "x.npy"),
        {},
        r"must have a header of version 1 or 2, got \(3, 0\)",
    ),
    ("empty-npy", written("x.npy", ""), {}, "x.npy cannot be read: EOF"),
    (
        "cut-npy",
        damaged(datafiles.save_npy, 0.9),
        {},
        r"x.npy must hold 21600 bytes of values, got \d+: it is cut short",
    ),
    ("npy-negative", header("(-5, 3)"), {}, r"x.npy must hold an array, got one of shape \(-5, 3\)"),
    ("npy-rows", header(f"({2**40}, 0)"), {}, rf"x.npy must hold an array, got one of shape \({2**40}, 0\)"),
    ("npy-columns", header(f"(0, {2**40})"), {}, rf"x.npy must hold an array, got one of shape \(0, {2**40}\)"),
    ("npy-large", header(f"({2**70}, 1)"), {}, rf"x.npy must hold {2**73} bytes of values, got 80: it is cut short"),
    ("npy-shape", header("('a', 3)"), {}, "x.npy cannot be read: shape is not valid"),
    ("cut-header", damaged(datafiles.save_npy, 0.003), {}, "x.npy cannot be read: EOF"),
    ("cut-npz", damaged(datafiles.save_npz, 0.9), {}, "x.npz cannot be read: File is not a zip file"),
    ("flipped-npz", flipped, {}, "x.npz cannot be read: Bad CRC-32"),
    ("objects", npy(arr=np.array([[None, 1]]), allow_pickle=True), {}, "must hold real numbers, got dtype object"),
    ("records", record, {}, r"must hold real numbers, got dtype \[\('a'"),
    ("complex", npy(arr=np.zeros((2, 2), complex)), {}, "must hold real numbers, got dtype complex128"),
    ("text", npy(arr=np.array([["a"]])), {}, "must hold real numbers, got dtype <U1"),
    ("dates", npy(arr=np.zeros((2, 2), "M8[s]")), {}, "must hold real numbers, got dtype datetime64"),
    ("scalar", npy(arr=np.array(3.0)), {}, "must have one dimension or more, got a single value"),
    ("axis", npy(arr=np.zeros((2, 2))), {"axis": 2}, "axis must name axes among the 2 of .*bad.npy, got 2"),
    ("axes", npy(arr=np.zeros((2, 2))), {"axis": (1, -1)}, r"axis must name axes among the 2 .*, got \(1, -1\)"),
    ("column", npy(arr=np.zeros((2, 2))), {"columns": [2]}, "columns must be among the 2 of .*bad.npy, got 2"),
    (
        "column-name",
        npy(arr=np.zeros((2, 2))),
        {"columns": ["a"]},
        r"columns must be among those of .* \(2 columns\), got 'a'",
    ),
    ("twice", npy(arr=np.zeros((2, 2))), {"columns": [1, -1]}, r"columns must not name one of .* twice, got \(1, -1\)"),
    (
        "axes-columns",
        npy(arr=np.zeros((2, 2))),
        {"axis": (0, 1), "columns": [1]},
        "columns must come with one feature axis",
    ),
    ("two", several, {}, "two.npz must hold one array, or name one as in FILE:NAME, got a, b"),
    ("no-member", no_member, {}, "two.npz:c must name one of its arrays, got a, b"),
    ("no-array", empty_npz, {}, "none.npz must hold one array, .*, got none"),
    ("no-hdf5", written("x.h5", "hello"), {}, "x.h5 cannot be read: .*file signature not found"),
    ("cut-hdf5", damaged(datafiles.save_hdf5, 0.5), {}, "x.h5 cannot be read: .*truncated file"),
    ("hdf5-none", hdf5(lambda file: file.create_group("g")), {}, "bad.h5 must hold one array, .*, got none"),
    (
        "hdf5-group",
        hdf5(lambda file: file.create_group("g"), ":g"),
        {},
        "bad.h5:g must name one of its arrays, got none",
    ),
    (
        "hdf5-text",
        hdf5(lambda file: file.create_dataset("d", data=["a"])),
        {},
        "must hold real numbers, got dtype object",
    ),
    (
        "hdf5-empty",
        hdf5(lambda file: file.create_dataset("d", dtype="f8", data=h5py.Empty("f8"))),
        {},
        "must hold an array of known shape, got None",
    ),
    ("zarr-two", zarr_group, {}, "bad.zarr must hold one array, .*, got a, b"),
    ("zarr-none", lambda folder: zarr_group(folder) + ":c", {}, "bad.zarr:c must name one of its arrays, got a, b"),
    ("zarr-missing", lambda folder: "nosuch.zarr", {}, "nosuch.zarr"),
    (
        "no-parquet",
        written("x.parquet", "hello, world"),
        {},
        "x.parquet cannot be read: .*Parquet magic bytes not found",
    ),
    ("cut-parquet", damaged(datafiles.save_parquet, 0.9), {}, "x.parquet cannot be read"),
    ("parquet-text", parquet({"name": ["a"]}), {}, r"bad.parquet must have a column of numbers, got name \(string\)"),
    (
        "parquet-asked",
        parquet({"name": ["a"], "a": [1]}),
        {"columns": ["name"]},
        "got 'name' of .*, which holds string",
    ),
    (
        "parquet-alike",
        lambda folder: alike(folder, "a", "b", "a"),
        {},
        "bad.parquet must have columns of different names, got 'a' more than once",
    ),
    ("parquet-rows", miscounted(0), {}, "bad.parquet cannot be read: its row groups must have its -101 rows, got 100"),
    ("parquet-values", miscounted(1), {}, "bad.parquet cannot be read: row group 0 must have 100 rows, got 0"),
    ("parquet-group", miscounted(4), {}, "bad.parquet cannot be read: its row groups must have its 100 rows, got -101"),
    ("csv-quote", written("x.csv", 'a,b\n1,2\n3,"4\n5,6\n'), {}, "x.csv must close the quotes it opens"),
    ("csv-first-quote", written("x.csv", '"a,b\n1,2\n'), {}, "x.csv must begin with a whole row of entries"),
    ("csv-first-line", written("x.csv", "a" * 10_000), {}, "x.csv must have lines of at most 5461 bytes"),
    (
        "csv-far-quote",
        written("x.csv", 'a,b\n1,"2\n' + "3,4\n" * 9_000),
        {},
        "x.csv .* and close the quotes it opens, got",
    ),
    ("csv-empty", written("x.csv", ""), {}, "x.csv must begin with a line of names, got nothing"),
    ("csv-ragged", written("x.csv", "a,b\n1,2\n3\n"), {}, "x.csv cannot be read: .*Expected 2 columns, got 1: 3"),
    (
        "csv-blanks",
        written("x.csv", "a b\n1 2\n"),
        {},
        r"got a b \(string\) \(delimiter=' ', --delimiter, would make mo",
    ),
    ("csv-text", written("x.csv", "a\nx\n"), {}, r"x.csv must have a column of numbers, got a \(string\)"),
    ("csv-asked", written("x.csv", "a,b\nx,1\n"), {"columns": ["a"]}, "got 'a' of .*x.csv, which holds string"),
    ("csv-unknown", written("x.csv", "a,b\n1,2\n"), {"columns": ["c"]}, r"among those of .*x.csv \(a, b\), got 'c'"),
    ("csv-twice", written("x.csv", "a,a\n1,2\n"), {"columns": ["a"]}, "say which of several, got 'a'"),
    ("csv-no-names", written("x.csv", "1.5,2\n3,4\n".replace("2", "2.5")), {}, "must begin with the columns' names"),
    ("csv-axis", written("x.csv", "a\n1\n"), {"axis": 0}, "axis must be 1 for tables, got 0 for .*x.csv"),
    ("csv-late", written("x.csv", "a,b,c\n" + "1,2,3\n" * 8_000 + "1,oops,3\n"), {}, "x.csv .*column 'b'.*'oops'"),
    ("csv-line", written("x.csv", "a\n" + "1" * 10_000 + "\n"), {}, "x.csv must have lines of at most 5461 bytes"),
    ("no-image", written("x.png", "hello"), {}, "x.png cannot be read: cannot identify image file"),
    ("image-link", broken_link, {}, "No such file or directory: '.*x.png'"),
    (
        "image-axis",
        written("x.png", "hello"),
        {"axis": 0},
        "axis must come with arrays, got 0 for the images of .*x.png",
    ),
]


@pytest.mark.parametrize(("make", "options", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_files(
    tmp_path: Path, x: Array, make: Callable[[Path], str], options: dict[str, Any], message: str
) -> None:
    bad = str(tmp_path / make(tmp_path))
    with pytest.raises((ValueError, OSError), match=message) as caught:
        fastbn.stream(bad, memory=LEAST, **options)
    assert "\n" not in str(caught.value)


# What is no kind of file is a mistake of the caller's.
LEFT_OUT = [row for row in BAD if not row[2] and row[0] not in ("missing-kind", "unknown-kind")]


@pytest.mark.parametrize(("make", "message"), [row[1::2] for row in LEFT_OUT], ids=[row[0] for row in LEFT_OUT])
def test_bad_files_are_left_out(tmp_path: Path, x: Array, make: Callable[[Path], str], message: str) -> None:
    (tmp_path / "good").mkdir()
    good, bad = datafiles.save_npy(tmp_path / "good", x), str(tmp_path / make(tmp_path))
    told: list[tuple[str, Exception]] = []
    found = fastbn.stream([good, bad, good], memory=LEAST, on_error=lambda *call: told.append(call))
    assert_streamed(found, np.concatenate([x, x]))
    assert [name for name, _ in told] == [bad]
    assert re.search(message, str(told[0][1]))
    with pytest.warns(RuntimeWarning, match=f"left out: .*{message}") as warned:
        fastbn.stream([bad, good], memory=LEAST, on_error="skip")
    assert warned[0].filename == __file__
    with pytest.raises(ValueError, match="source must hold something that can be read, got 1 that cannot"):
        fastbn.stream(bad, memory=LEAST, on_error=lambda name, error: None)


def test_warnings_are_of_the_line_that_called(tmp_path: Path, x: Array, rng: np.random.Generator) -> None:
    good = datafiles.save_npy(tmp_path, x)
    (tmp_path / "bad.npy").write_text("hello")
    late = tmp_path / "late.csv"
    late.write_text("a,b,c\n" + "1,2,3\n" * 12_000 + "1,2,oops\n")
    folder = datafiles.save_images(tmp_path / "images", datafiles.random_images(rng, 40, (40, 40)))
    moments = fastbn.stream(folder)
    (folder / "0020.png").write_text("hello")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fastbn.stream([tmp_path / "bad.npy", good], on_error="skip")
        fastbn.stream([late, good], on_error="skip", memory=LEAST)
        fastbn.stream(folder, on_error="skip", memory=LEAST)
        fastbn.standardize([good, tmp_path / "bad.npy"], fastbn.stream(x), tmp_path / "y.npy", on_error="skip")
        fastbn.standardize(folder, moments, tmp_path / "z.npy", on_error="skip", memory=LEAST)
    said = [str(warning.message).partition(":")[2].split()[0] for warning in caught]
    assert [Path(name).name for name in said] == ["bad.npy", "late.csv", "0020.png", "bad.npy", "0020.png"]
    first = caught[0].lineno
    assert [(warning.filename, warning.lineno - first) for warning in caught] == [(__file__, i) for i in range(5)]


def test_a_file_that_breaks_off_is_left_out_whole(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,b\n" + "1,2\n" * 12_000 + "1,oops\n")
    (tmp_path / "good.csv").write_text("a,b\n3,4\n5,6\n")
    seen: list[int] = []
    with pytest.warns(RuntimeWarning, match="bad.csv"):
        found = fastbn.stream(tmp_path, memory=LEAST, on_error="skip", progress=lambda done, total: seen.append(done))
    assert len(seen) > 4  # blocks of it were read before that was known
    assert_streamed(found, np.array([[3.0, 4.0], [5.0, 6.0]]))


def test_files_that_may_not_be_read(tmp_path: Path, x: Array) -> None:
    path = Path(datafiles.save_npy(tmp_path, x))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(PermissionError, match=r"x.npy"):
        fastbn.stream(path)


# Features that differ.


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("a,b,c\n1,2,3\n", r"must have the columns of those before it \(a, b\), got c too"),
        ("a\n1\n", r"second.csv \(a\) has no column 'b', which .*first.csv before it has"),
        ("a,b\n1,x\n", "columns must name columns of numbers, got 'b' of .*second.csv"),
    ],
)
def test_tables_with_other_columns(tmp_path: Path, second: str, message: str) -> None:
    (tmp_path / "first.csv").write_text("a,b\n1,2\n")
    (tmp_path / "second.csv").write_text(second)
    with pytest.raises(ValueError, match=message):
        fastbn.stream(tmp_path)


def test_columns_go_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "first.csv").write_text("a,note,b\n1,hello,2\n")
    (tmp_path / "second.csv").write_text("b,note,a\n20,,10\n")
    (tmp_path / "third.csv").write_text("b,a,other\n200,100,text\n")
    pq.write_table(pa.table({"b": [2000], "a": pa.array([True])}), tmp_path / "fourth.parquet")
    found = fastbn.stream([tmp_path / f"{name}" for name in ("first.csv", "second.csv", "third.csv", "fourth.parquet")])
    assert_streamed(found, np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0], [1.0, 2000.0]]))


def test_arrays_with_other_features(tmp_path: Path, x: Array) -> None:
    source = datafiles.save_npy(tmp_path, x)
    with pytest.raises(
        ValueError, match=r"source\[1\] must have the features of those before it, of shape \(3,\), got \(2,\)"
    ):
        fastbn.stream([source, x[:, :2]])
    Path(tmp_path, "t.csv").write_text("a,b,c\n1,2,3\n")
    Path(tmp_path, "u.csv").write_text("a,b,d\n1,2,3\n")
    found = fastbn.stream([source, tmp_path / "t.csv"])  # no names, so their order is all there is
    assert_streamed(found, np.concatenate([x, [[1.0, 2.0, 3.0]]]))
    images = datafiles.save_images(tmp_path / "images", [np.zeros((2, 2, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"must have the features of those before it \(a, b, c\), got R, G, B"):
        fastbn.stream([tmp_path / "t.csv", images])


# Files that change.


def test_a_file_that_is_cut_short_meanwhile(tmp_path: Path, rng: np.random.Generator) -> None:
    source = datafiles.save_npy(tmp_path, rng.normal(size=(50_000, 2)))
    with pytest.raises(ValueError, match=r"x.npy must not change while it is read"):
        fastbn.stream(source, memory=LEAST, progress=lambda done, total: os.truncate(source, 128))


def test_a_file_that_is_written_to_meanwhile(tmp_path: Path, rng: np.random.Generator) -> None:
    source = datafiles.save_npy(tmp_path, rng.normal(size=(50_000, 2)))
    with pytest.raises(ValueError, match=r"x.npy must not change while it is read, but it did"):
        fastbn.stream(source, memory=LEAST, progress=lambda done, total: os.utime(source, ns=(0, 0)))


def test_a_file_that_goes_away_meanwhile(tmp_path: Path, rng: np.random.Generator) -> None:
    source = datafiles.save_npy(tmp_path, rng.normal(size=(50_000, 2)))
    with pytest.raises(ValueError, match=r"x.npy must not change while it is read, but it did"):
        fastbn.stream(source, memory=LEAST, progress=lambda done, total: Path(source).unlink(missing_ok=True))


def test_a_store_that_changes_meanwhile(tmp_path: Path, rng: np.random.Generator) -> None:
    source = datafiles.save_zarr(tmp_path, rng.normal(size=(15_000, 2)))
    chunk = max((path for path in Path(source).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with pytest.raises(ValueError, match=r"x.zarr must not change while it is read, but it did"):
        fastbn.stream(source, memory=LEAST, progress=lambda done, total: os.utime(chunk, ns=(0, 0)))


# Links.


def test_links_to_folders_are_followed(tmp_path: Path, x: Array) -> None:
    for name in ("data", "far/deep"):
        (tmp_path / name).mkdir(parents=True)
    datafiles.save_npy(tmp_path / "data", x[:200])
    datafiles.save_npy(tmp_path / "far" / "deep", x[200:])
    (tmp_path / "data" / "more").symlink_to(tmp_path / "far")
    (tmp_path / "data" / "self").symlink_to(tmp_path / "data")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "data")  # from `data` to `far` and back, without end
    assert_streamed(fastbn.stream(tmp_path / "data"), x)


def test_a_broken_link_in_a_folder_is_named(tmp_path: Path, x: Array, rng: np.random.Generator) -> None:
    images = datafiles.save_images(tmp_path / "images", datafiles.random_images(rng, 3))
    (images / "0001b.png").symlink_to("nosuch.png")
    datafiles.save_npy(tmp_path, x)
    (tmp_path / "y.npy").symlink_to("nosuch.npy")
    with pytest.raises(FileNotFoundError, match=r"images/0001b.png'"):
        fastbn.stream(images)
    with pytest.raises(FileNotFoundError, match=r"y.npy'"):
        fastbn.stream([tmp_path / "x.npy", tmp_path / "y.npy"])
    (images / "0001b.png").rename(images / "-.png")  # the first, which says of which mode they are
    with pytest.raises(FileNotFoundError, match=r"images/-.png'"):
        fastbn.stream(images)


def test_a_link_to_itself_in_a_folder_is_left_out(tmp_path: Path, x: Array) -> None:
    datafiles.save_npy(tmp_path, x)
    (tmp_path / "y.npy").symlink_to("y.npy")
    left_out: list[str] = []
    assert_streamed(fastbn.stream(tmp_path, on_error=lambda name, error: left_out.append(name)), x)
    assert left_out == [str(tmp_path / "y.npy")]


# What is no file.


@pytest.mark.parametrize("name", ["x.npy", "x.csv", "x.csv.gz", "x.parquet", "x.h5", "x.png"])
def test_pipes_are_refused(tmp_path: Path, name: str) -> None:
    """They would be read for ever, or in part."""
    os.mkfifo(tmp_path / name)
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(OSError, match=rf"read more than once, got a pipe or a device: '.*{name}'"):
            fastbn.stream(source)


@pytest.mark.parametrize("suffix", ["npy", "csv", "csv.gz", "parquet", "feather", "orc"])
@pytest.mark.parametrize("name", ["2024-01-01T12:00", "file:x", "s3:x", "-x", "a\nb", "\udcff", "n" * 200], ids=ascii)
def test_names_are_names_of_files(
    tmp_path: Path, x: Array, name: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a library would take them for: an address of another file system, an option, a text in UTF-8."""
    if name == "\udcff" and sys.platform != "linux":
        pytest.skip("names are in UTF-8 here")
    monkeypatch.chdir(tmp_path)
    fastbn.standardize(pa.table({"a": x[:, 0]}), fastbn.Moments(1, [0.0], [1.0]), f"{name}.{suffix}")
    assert os.listdir() == [f"{name}.{suffix}"]
    assert_streamed(fastbn.stream(f"{name}.{suffix}"), x[:, :1])


@pytest.mark.parametrize("path", ["s3://x/x.parquet", "https://x.org/x.zarr", "file:///x.feather", "gs://x/x.csv"])
def test_addresses_are_no_files(path: str) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(path)):
        fastbn.stream(path)


# Files that are unusual, and right.


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (0, 3, 0)], ids=str)
@pytest.mark.parametrize("save", datafiles.ARRAYS, ids=lambda save: save.__name__)
def test_arrays_without_values(tmp_path: Path, save: datafiles.Save, shape: tuple[int, ...]) -> None:
    found = fastbn.stream(save(tmp_path, np.zeros(shape)))
    features = 1 if len(shape) == 1 else shape[1]
    assert (found.count, found.shape) == (shape[0] if features == 0 else 0, (features,))
    assert np.isnan(found.mean).all()


def test_tables_without_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.float64()), "t": pa.array([], pa.string())}), tmp_path / "e.parquet")
    assert fastbn.stream(tmp_path / "e.parquet").count == 0
    Path(tmp_path, "e.csv").write_text("a,b\n")
    assert fastbn.stream(tmp_path / "e.csv").shape == (2,)
    Path(tmp_path, "f.csv").write_text("a,b\n1,2")
    assert_streamed(fastbn.stream([tmp_path / "e.csv", tmp_path / "f.csv"]), np.array([[1.0, 2.0]]))


def test_csv_in_all_its_forms(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    text = '\ufeff"first, of all",b,flag,"with\nline",empty\r\n'
    rows = [f'{i},"a ""quoted""\n, text",{"true" if i % 2 else "false"},{i / 4},\r\n' for i in range(5_000)]
    path.write_bytes((text + "".join(rows)).encode())
    numbers = np.arange(5_000.0)
    expected = np.stack([numbers, numbers % 2, numbers / 4], axis=1)
    found = fastbn.stream(path, columns=["first, of all", "flag", "with\nline"], memory=LEAST)
    assert_streamed(found, expected)
    assert np.isnan(fastbn.stream(path, memory=LEAST).mean).tolist() == [False, False, False, True]

    path.write_text("1.5,2\n3,4\n")
    assert_streamed(fastbn.stream(path, header=False), np.array([[1.5, 2.0], [3.0, 4.0]]))
    path.write_text("2019,2020\n3,4\n5,NA\n")
    assert fastbn.stream(path, columns=["2020"], nan="omit", header=True).mean == [4.0]
    path.write_text("a\n1\n2\n3.5\n")  # whole numbers at first
    assert_streamed(fastbn.stream(path), np.array([[1.0], [2.0], [3.5]]))


def test_quotes_that_are_part_of_a_field(tmp_path: Path) -> None:
    """A quote opens nothing unless a field begins with it: here it is inches."""
    path = tmp_path / "x.csv"
    path.write_text('a,12" disc,note\n1,2,5" disc\n3,4,\n')
    assert_streamed(fastbn.stream(path), np.array([[1.0, 2.0], [3.0, 4.0]]))


def test_columns_of_one_name_that_are_not_asked_for(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1.0, 3.0], ["a", "b"], ["c", "d"]], names=["x", "n", "n"]), tmp_path / "x.parquet")
    assert_streamed(fastbn.stream(tmp_path / "x.parquet"), np.array([[1.0], [3.0]]))


def test_numbers_that_begin_late_in_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "1,\n" * 10_000 + "1,2.5\n" * 3)
    found = fastbn.stream(path, memory=LEAST, where_finite=True)
    assert found.count.tolist() == [10_003.0, 3.0]
    assert found.mean.tolist() == [1.0, 2.5]


def test_parquet_of_all_types(tmp_path: Path) -> None:
    columns = {
        "i": pa.array([1, None, 3], pa.int64()),
        "u": pa.array([1, 2, 3], pa.uint8()),
        "f": pa.array([0.5, 1.5, None], pa.float32()),
        "h": pa.array(np.array([1, 2, 3], np.float16)),
        "b": pa.array([True, None, False]),
        "d": pa.array([1, 2, 3], pa.int8()).cast(pa.decimal128(5, 2)),
        "s": pa.array(["a", "b", "c"]),
        "t": pa.array([0, 1, 2], pa.timestamp("s")),
        "n": pa.nulls(3),
        "l": pa.array([[1.0], [2.0], [3.0]]),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    found = fastbn.stream(tmp_path / "x.parquet", nan="omit")
    assert found.count.tolist() == [2, 3, 2, 3, 2, 3]
    assert found.mean.tolist() == [2.0, 2.0, 1.0, 2.0, 0.5, 2.0]
    assert np.isnan(fastbn.stream(tmp_path / "x.parquet", columns=["n"]).mean)
    single = fastbn.stream(tmp_path / "x.parquet", columns=["h", "f"], nan="omit")
    assert single.mean.tolist() == [2.0, 1.0]


def test_a_zarr_group_of_one_array(tmp_path: Path, x: Array) -> None:
    store, options = str(tmp_path / "g.zarr"), {"shape": x.shape, "dtype": "f4", "chunks": (50, 2)}
    if zarr.__version__ < "3":
        zarr.open_array(store, path="deep/er", mode="w", **options)[...] = x
    else:
        zarr.create_array(store, name="deep/er", shards=(100, 4), **options)[...] = x
    for name in ("", ":deep/er", ":/deep/er"):
        assert_streamed(fastbn.stream(f"{tmp_path}/g.zarr{name}"), x.astype(np.float32))


def test_folders_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PermissionError, match=tmp_path.name):
        fastbn.stream(tmp_path)


def test_names_with_colons_are_names_if_they_are_there(tmp_path: Path, x: Array) -> None:
    np.save(tmp_path / "a:b.npy", x)
    assert_streamed(fastbn.stream(tmp_path / "a:b.npy"), x)


def test_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source must hold images or other files of a known format, got the folder"):
        fastbn.stream(tmp_path)
    with pytest.raises(ValueError, match="source must hold something that can be read, got nothing"):
        fastbn.stream([])
    with pytest.raises(ValueError, match="source must hold something that can be read, got nothing"):
        fastbn.stream(iter([]))


# Arguments.


@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        (3, {}, TypeError, "source must be a path, an array, or an iterable of these, got int"),
        (
            io.StringIO("a\n1\n"),
            {},
            TypeError,
            "source must be a path or an array, got the open file StringIO: give its",
        ),
        ([io.BytesIO(b"x")], {}, TypeError, r"source\[0\] must be a path or an array, got the open file BytesIO"),
        (np.zeros((2, 2)), {"progress": True}, TypeError, r"progress must be a function of \(done, total\), got True"),
        (
            pd.DataFrame({"a": [1.0]}),
            {"weights": "w"},
            ValueError,
            "weights must be a column of source or a file, got 'w'",
        ),
        (b"x", {}, TypeError, "source must be a path, .*, got bytes"),
        ({"a": 1}, {}, TypeError, "source must be a path, .*, got dict"),
        (zarr.group(), {}, TypeError, "source must be a path, .*, got Group"),
        ([[1.0, 2.0]], {}, TypeError, "source must hold paths or arrays, got list at 0"),
        (np.zeros(3), {}, ValueError, r"source must have two dimensions or more \(one feature: x\[:, None\].*, got 1"),
        ([np.zeros((2, 2)), np.zeros(3)], {}, ValueError, r"source\[1\] must have two dimensions or more .*, got 1"),
        (np.zeros((2, 2)), {"memory": 1.5}, TypeError, "memory must be a number of bytes, got 1.5"),
        (np.zeros((2, 2)), {"memory": True}, TypeError, "memory must be a number of bytes, got True"),
        (
            np.zeros((2, 2)),
            {"memory": "64X"},
            ValueError,
            "memory must be a number of bytes such as 64M or 1G, got '64X'",
        ),
        (np.zeros((2, 2)), {"memory": "infG"}, ValueError, "memory must be a number of bytes such as .*, got 'infG'"),
        (np.zeros((2, 2)), {"memory": "1k"}, ValueError, "memory must be 262144 bytes or more, got 1k"),
        (np.zeros((2, 2)), {"memory": 1000}, ValueError, "memory must be 262144 bytes or more, got 1000"),
        (np.zeros((2, 2)), {"columns": "a"}, TypeError, "columns must be a list of names and numbers, got 'a'"),
        (np.zeros((2, 2)), {"columns": [1.0]}, TypeError, r"columns must be a list .*, got \[1.0\]"),
        (np.zeros((2, 2)), {"columns": [True]}, TypeError, r"columns must be a list .*, got \[True\]"),
        (np.zeros((2, 2)), {"mode": "P"}, ValueError, "mode must be one of L, LA, RGB, .*, got 'P'"),
        (np.zeros((2, 2)), {"dtype": "i4"}, TypeError, "dtype must be float32 or float64, got 'i4'"),
        (np.zeros((2, 2)), {"on_error": "ignore"}, ValueError, "on_error must be 'raise', 'skip' or a function"),
        (np.zeros((2, 2)), {"scale": 0}, ValueError, "scale must be above 0, got 0"),
        (np.zeros((2, 2)), {"scale": -1}, ValueError, "scale must be finite and >= 0, got -1"),
        (np.zeros((2, 2)), {"every": -1}, ValueError, "every must be finite and >= 0, got -1"),
        (np.zeros((2, 2)), {"nan": "skip"}, ValueError, "nan must be 'propagate' or 'omit', got 'skip'"),
        (np.zeros((2, 2)), {"where_finite": 1}, TypeError, "where_finite must be True or False, got 1"),
        (np.zeros((2, 2)), {"extremes": 1}, TypeError, "extremes must be True or False, got 1"),
        (np.zeros((2, 2)), {"header": 1}, TypeError, "header must be True or False, got 1"),
        (np.zeros((2, 2)), {"resume": 1}, TypeError, "resume must be True or False, got 1"),
        (np.zeros((2, 2)), {"resume": True}, ValueError, "checkpoint must be given to resume, got None"),
        (np.zeros((2, 2)), {"checkpoint": "c"}, ValueError, "checkpoint must come with files, .*, got arrays"),
        (iter([]), {"checkpoint": "c"}, ValueError, "checkpoint must come with files, .*, got arrays"),
    ],
)
def test_arguments_of_no_meaning(source: Any, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fastbn.stream(source, **options)


def test_chunks_larger_than_memory(tmp_path: Path, rng: np.random.Generator) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=rng.normal(size=(300, 300)), chunks=(300, 300))
    with pytest.raises(
        ValueError, match=r"memory must be 9 MiB or more for .*x.h5, whose chunks are \(300, 300\), got 0.25 MiB"
    ):
        fastbn.stream(tmp_path / "x.h5", memory=LEAST)
    fastbn.stream(tmp_path / "x.h5", memory=36 * LEAST)


@pytest.mark.parametrize("columns", [None, [1, 0]])
def test_the_memory_that_an_error_asks_for_is_enough(tmp_path: Path, columns: list[int] | None) -> None:
    x = np.arange(3_000_000).reshape(-1, 2) % 1013.0  # larger chunks than any block of smaller ones
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(len(x), 1 if columns else 2))
    chosen = x[:, columns or [0, 1]]
    moments = fastbn.moments(chosen)

    def standardize(memory: int) -> None:
        fastbn.standardize(tmp_path / "x.h5", moments, tmp_path / "y.npy", columns=columns, memory=memory)

    asked = [64]
    for what in ["for", "to choose columns of"][: 2 if columns else 1]:
        with pytest.raises(
            ValueError, match=rf"memory must be [0-9]+ MiB or more {what} .*x\.h5, whose chunks"
        ) as error:
            standardize(asked[-1] << 20)
        asked.append(int(str(error.value).split()[3]))
    standardize(asked[-1] << 20)
    expected = (chosen - chosen.mean(0)) / chosen.std(0)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=0, atol=1e-12)
    assert_streamed(fastbn.stream(tmp_path / "x.h5", memory=300 << 20), x)


@pytest.mark.parametrize("pattern", ["*.png", "x?.npy", "[xy].parquet", "*"])
def test_patterns_are_no_files(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file or directory \(a pattern of no file\)"):
        fastbn.stream(tmp_path / pattern)
    for name in ("xa.png", "x1.npy", "y.parquet"):
        (tmp_path / name).touch()
    count = 3 if pattern == "*" else 1
    with pytest.raises(FileNotFoundError, match=rf"\(a pattern of {count} file\(s\): glob\.glob, or a shell where it"):
        fastbn.stream(tmp_path / pattern)


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("h5py", datafiles.save_hdf5),
        ("zarr", datafiles.save_zarr),
        ("pyarrow.csv", datafiles.save_csv),
        ("pyarrow.parquet", datafiles.save_parquet),
    ],
)
def test_packages_that_are_missing(
    tmp_path: Path, x: Array, module: str, make: datafiles.Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path, x)
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    with pytest.raises(ImportError, match=rf'need {package}: pip install "fastbn\[files\]"'):
        fastbn.stream([source], on_error="skip")  # that is no fault of the file's


def test_names_of_arrays_with_colons(tmp_path: Path, x: Array) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a:b"], file["c"] = x, x[:5]
    assert_streamed(fastbn.stream(f"{tmp_path}/x.h5:a:b"), x)


def test_virtual_arrays_of_files_that_are_missing(tmp_path: Path, x: Array) -> None:
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["y"] = x
    layout = h5py.VirtualLayout(x.shape, "f8")
    layout[:] = h5py.VirtualSource("part.h5", "y", x.shape)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_virtual_dataset("v", layout, fillvalue=0.0)
    assert_streamed(fastbn.stream(tmp_path / "x.h5"), x)
    for name, other in (("x.h5", "part.h5"), ("own.h5", ".")):  # of its file there is no such data set
        layout = h5py.VirtualLayout(x.shape, "f8")
        with h5py.File(tmp_path / name, "a") as file:
            layout[:] = h5py.VirtualSource(other, "z", x.shape)
            file.create_virtual_dataset("w", layout, fillvalue=0.0)
        with pytest.raises(ValueError, match=rf"{name}:/w must have all data sets .*, got no 'z' in '{other}'"):
            fastbn.stream(f"{tmp_path}/{name}:w")
    (tmp_path / "part.h5").unlink()
    with pytest.raises(ValueError, match=r"x\.h5:/v must have all files that it is made of, got none of 'part\.h5'"):
        fastbn.stream(f"{tmp_path}/x.h5:v")


def test_groups_of_netcdf_files(tmp_path: Path, x: Array) -> None:
    inner = xarray.Dataset({"t": (("time", "lat"), x), "crs": ((), 0)}, {"lat": np.arange(3.0)})
    xarray.DataTree.from_dict({"/g": inner}).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    assert_streamed(fastbn.stream(tmp_path / "x.nc"), x)  # neither coordinates nor single values
    tree = xarray.DataTree.from_dict({"/": xarray.Dataset({"r": ("a", [1.0, 2.0])}), "/g": inner})
    tree.to_netcdf(tmp_path / "x.nc", engine="h5netcdf", mode="w")
    with pytest.raises(ValueError, match=r"must hold one array, or name one as in FILE:NAME, got g/t, r"):
        fastbn.stream(tmp_path / "x.nc")
    assert_streamed(fastbn.stream(f"{tmp_path}/x.nc:g/t", dim="time"), x)
    assert fastbn.stream(f"{tmp_path}/x.nc:g/lat").count == 3


def test_single_values_are_no_arrays_to_choose_among(tmp_path: Path, x: Array) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["version"], file["nothing"] = x, 3, h5py.Empty("f8")
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w")
    for name, value in (("x", x), ("version", np.array(3.0))):
        group.create_array(name, shape=value.shape, dtype=value.dtype)[...] = value
    np.savez(tmp_path / "x.npz", x=x, version=np.array(3), title="a text")
    for name in ("x.h5", "x.zarr", "x.npz"):
        assert_streamed(fastbn.stream(tmp_path / name), x)
        with pytest.raises(ValueError, match="must have one dimension or more, got a single value"):
            fastbn.stream(f"{tmp_path}/{name}:version")


def test_several_arrays_in_one_npy_file(tmp_path: Path, x: Array) -> None:
    with open(tmp_path / "x.npy", "wb") as file:
        np.save(file, x)
        np.save(file, x + 1)
    with pytest.raises(ValueError, match=r"x\.npy must hold one array, got another behind it"):
        fastbn.stream(tmp_path / "x.npy")
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array(file, x, version=(3, 0))
    with pytest.raises(ValueError, match=r"x\.npy must have a header of version 1 or 2, got \(3, 0\) \(numpy\.load"):
        fastbn.stream(tmp_path / "x.npy")


def test_netcdf_that_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.nc").write_bytes(b"CDF\5" + bytes(100))
    with pytest.raises(ValueError, match=r"x\.nc must be NetCDF 3 or 4, got CDF-5"):
        fastbn.stream(tmp_path / "x.nc")
    variable = type("Variable", (), {"__module__": "netCDF4._netCDF4", "dtype": np.dtype("f8"), "shape": (3, 2)})
    with pytest.raises(ValueError, match="source must be a path or an array, got a masked Variable of netCDF4"):
        fastbn.stream(variable())


@pytest.mark.parametrize("suffix", ["h5", "nc"])
def test_a_filter_of_hdf5_that_is_missing_is_looked_for_and_named(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, blosc = tmp_path / f"x.{suffix}", 32001
    with h5py.File(path, "w") as file:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((2, 3))
        how.set_filter(blosc, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((2, 3))
        data = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, space, how)
        data.write_direct_chunk((0, 0), b"compressed", 0)
    (tmp_path / "hdf5plugin.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hdf5plugin", raising=False)
    with pytest.raises(
        ValueError, match=rf"x\.{suffix} cannot be read: .* \(hdf5plugin, once it is installed, has more"
    ):
        fastbn.stream(path)
    assert "hdf5plugin" in sys.modules


def test_arrays_of_hdf5_that_have_no_dimensions_are_netcdf_without_a_warning(
    tmp_path: Path, x: Array, recwarn: pytest.WarningsRecorder
) -> None:
    with h5py.File(tmp_path / "x.nc", "w") as file:
        file["x"] = x
    assert_streamed(fastbn.stream(tmp_path / "x.nc"), x)
    assert not recwarn.list


def test_arrays_of_dask(x: Array) -> None:
    dask = pytest.importorskip("dask.array")
    array = dask.from_array(x, chunks=(70, 2))
    assert_streamed(fastbn.stream(array), x)
    with pytest.raises(ValueError, match=r"source must hold an array of known shape, got \(nan, 3\)"):
        fastbn.stream(array[array[:, 0] > 0])
    frames = pytest.importorskip("dask.dataframe")
    for frame in (pd.DataFrame(x), pd.DataFrame({"a": x[:, 0], "b": "text"})):
        with pytest.raises(TypeError, match=r"source must be in memory, got a frame of dask \(fastbn\.dask\.moments"):
            fastbn.stream(frames.from_pandas(frame, npartitions=2))


# Integers that float64 does not hold.


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, ">i8"], ids=str)
@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "zarr", "array"])
def test_arrays_of_wide_integers_are_exact(kind: str, dtype: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    small = rng.integers(0, 20, (200, 3))
    x = (2**62 + small).astype(dtype)
    source: Any = x if kind == "array" else tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(source, x)
    elif kind == "npz":
        np.savez(source, x=x)
    elif kind == "h5":
        with h5py.File(source, "w") as file:
            file["x"] = x
    elif kind == "zarr":
        zarr.save(str(source), x)
    found = fastbn.stream(source)
    np.testing.assert_allclose(found.var(), small.var(axis=0), rtol=1e-12)
    fastbn.standardize(source, found, tmp_path / "y.npy")
    y = np.load(tmp_path / "y.npy")
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, (small - small.mean(axis=0)) / small.std(axis=0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["parquet", "feather", "frame", "repeated"])
def test_tables_refuse_integers_that_would_be_rounded(kind: str, tmp_path: Path) -> None:
    values: list[int | None] = [1, None, 2**53 + 1, 2**62]
    column = pa.array(values, pa.int64())
    table = pa.table({"a": [0.5, 1.5, 2.5, 3.5], "b": column.dictionary_encode() if kind == "repeated" else column})
    source: Any = tmp_path / f"x.{'parquet' if kind == 'repeated' else kind}"
    if kind == "frame":
        source = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    elif kind == "feather":
        feather.write_feather(table, source)
    else:
        pq.write_table(table, source)
    with pytest.raises(
        ValueError, match=rf"must hold integers that float64 holds, got {2**53 + 1} in 'b': dtype=float64"
    ):
        fastbn.stream(source)
    rounded = fastbn.stream(source, dtype="float64", nan="omit")
    np.testing.assert_array_equal(rounded.count, [4, 3])
    assert fastbn.stream(source, columns=["a"]).mean == [2.0]


@pytest.mark.parametrize("values", [[2**53, -(2**53)], [2**62, 2**60 + 2**20]], ids=str)
def test_tables_read_large_integers_that_float64_holds(values: list[int], tmp_path: Path) -> None:
    table = pa.table({"b": values})
    pq.write_table(table, tmp_path / "x.parquet")
    assert fastbn.stream(tmp_path / "x.parquet").mean == [sum(values) / 2]


def test_errors_of_the_system_name_the_source() -> None:
    class Unplugged:
        """An array on a disk that is no longer there."""

        shape, dtype, ndim, chunks = (4, 2), np.dtype(np.float32), 2, (4, 2)

        def __getitem__(self, key: Any) -> Any:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output error") as caught:
        fastbn.stream(Unplugged())
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "source")
