"""The `fastbn` command on files larger than the memory it may use: rate, peak of memory, and going on after kill -9.

    python bench/files.py [--quick] [--bytes 4G] [--images 2000] [--rows 1000000] [--kills 50] [--memory 64M]
                          [--rounds 3] [--folder build/bench/files] [--parts arrays tables images kills]

Makes the files, runs each command in a process of its own beside plain reading, copying, decoding, and pyarrow with
NumPy, kills commands at random moments, prints tables, writes them to build/bench/files.md and removes the files. Knows
nothing of what is in fastbn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import native
import records
from report import row

COLUMNS = 64
SIDE = 256
PIECE = 8 << 20  # what plain reading reads at a time
STATS = "fastbn stats"
STANDARDIZE = "fastbn standardize"

# Runs a command, and prints its code and its peak in KiB. A process that is started counts the memory of the one that
# starts it as its own, up to then, so this stands between: it has hardly any.
LAUNCH = """
import os, sys
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""
# What the images are compared with, as processes of their own.
DECODE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from PIL import Image
def decoded(path):
    with Image.open(path) as image:
        image.load()
with ThreadPoolExecutor(int(sys.argv[2])) as pool:
    for _ in pool.map(decoded, sorted(Path(sys.argv[1]).iterdir())):
        pass
"""
LOOP = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
count, total, squares = 0, 0.0, 0.0
for path in sorted(Path(sys.argv[1]).iterdir()):
    x = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3) / 255.0
    count, total, squares = count + len(x), total + x.sum(0), squares + (x**2).sum(0)
mean = total / count
print(mean, np.sqrt(squares / count - mean**2))
"""


# What tables are compared with: the whole in memory, and NumPy's statistics of each column.
ARROW = """
import sys
import numpy as np
from pyarrow import csv, parquet
path = sys.argv[1]
table = csv.read_csv(path) if path.endswith("csv") else parquet.read_table(path)
for column in table.columns:
    x = column.to_numpy()
    x.mean(dtype=float), x.std(dtype=float), x.min(), x.max()
"""


class Ran(NamedTuple):
    """How long something took, and the largest resident set of the process that did it (0: this one)."""

    seconds: float
    peak: int = 0


def ran(*command: str) -> Ran:
    """Run a command to its end, and return its time and its peak."""
    start = time.perf_counter()
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCH, *command]
    code, peak = map(int, subprocess.run(launcher, stdout=subprocess.PIPE, check=True).stdout.split())
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return Ran(time.perf_counter() - start, peak * 1024)


def fastbn(*arguments: object) -> list[str]:
    """Return the command's words."""
    return [sys.executable, "-m", "fastbn", *map(str, arguments)]


def forget(path: Path) -> None:
    """Have the system write a file out and drop it from memory."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def pieces(path: Path) -> Iterator[memoryview]:
    """Yield a file piece by piece, in one piece of memory."""
    memory = memoryview(bytearray(PIECE))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(memory):
            yield memory[:count]


def read(path: Path) -> Ran:
    """Read a file, and do nothing with it."""
    start = time.perf_counter()
    for _ in pieces(path):
        pass
    return Ran(time.perf_counter() - start)


def copy(path: Path, other: Path) -> Ran:
    """Copy a file to the disk."""
    start = time.perf_counter()
    with open(other, "wb", buffering=0) as file:
        for piece in pieces(path):
            file.write(piece)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    other.unlink()
    return Ran(seconds)


def median(rounds: list[Ran]) -> Ran:
    """Return the median time and the largest peak."""
    return Ran(statistics.median(each.seconds for each in rounds), max(each.peak for each in rounds))


def make_array(path: Path, nbytes: int) -> None:
    """Write a table of float32 of about so many bytes, every part different."""
    rows = nbytes // (4 * COLUMNS)
    part = np.random.default_rng(0).standard_normal((min(rows, 1 << 18), COLUMNS), np.float32)
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, COLUMNS)}
        np.lib.format.write_array_header_1_0(file, header)
        for number, start in enumerate(range(0, rows, len(part))):
            file.write((part[: rows - start] * np.float32(1 + number % 7) + np.float32(100)).data)


def make_images(folder: Path, count: int) -> int:
    """Write photographs of a kind, and return the bytes of their pixels."""
    from PIL import Image

    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number:06}.jpg", quality=90)
    return count * SIDE * SIDE * 3


def interleaved(rounds: int, calls: dict[str, Callable[[], Ran]]) -> dict[str, Ran]:
    """Make all calls in turn, so often, and return the medians."""
    found: dict[str, list[Ran]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    return {name: median(each) for name, each in found.items()}


def table(found: dict[str, Ran], nbytes: int, units: dict[str, str], bare: Ran) -> list[str]:
    """Return a table; ``units`` says in units of which other time each is given."""
    lines = [row(["", "seconds", "MB/s", "in units of", "peak, MiB", "beyond a bare command, MiB"])]
    lines.append(row(["---", *["---:"] * 5]))
    for name, each in found.items():
        times = f"{each.seconds / found[units[name]].seconds:.2f} x {units[name]}" if name in units else ""
        peak = [f"{each.peak / 2**20:.0f}", f"{(each.peak - bare.peak) / 2**20:.0f}"] if each.peak else ["", ""]
        lines.append(row([name, f"{each.seconds:.2f}", f"{nbytes / each.seconds / 1e6:.0f}", times, *peak]))
    return lines


def arrays(folder: Path, options: argparse.Namespace, bare: Ran) -> Iterator[str]:
    """Measure one large array."""
    path, out, stats = folder / "x.npy", folder / "y.npy", folder / "s.npz"
    make_array(path, options.bytes)
    command = fastbn("stats", path, "--memory", options.memory, "--out", stats, "--force")

    def cold(call: Callable[[], Ran]) -> Callable[[], Ran]:
        def run() -> Ran:
            forget(path)
            return call()

        return run

    found = interleaved(
        options.rounds,
        {
            "reading, from disk": cold(lambda: read(path)),
            f"{STATS}, from disk": cold(lambda: ran(*command)),
            "reading, cached": lambda: min(read(path), read(path)),
            f"{STATS}, cached": lambda: ran(*command),
        },
    )
    found["copying"] = copy(path, out)
    found[STANDARDIZE] = ran(*fastbn("standardize", path, "--memory", options.memory, "--stats", stats, "--out", out))
    units = {
        f"{STATS}, from disk": "reading, from disk",
        f"{STATS}, cached": "reading, cached",
        STANDARDIZE: "copying",
    }
    size = path.stat().st_size
    yield f"An .npy file of {size / 2**30:.2f} GiB, float32, {COLUMNS} columns, --memory {options.memory}:\n"
    yield from table(found, size, units, bare)
    out.unlink()
    yield f"\n{resumed(path, folder, options)}\n"
    path.unlink()


def resumed(path: Path, folder: Path, options: argparse.Namespace) -> str:
    """Kill a run halfway, go on, and say whether the result is that of a run in one piece."""
    whole, out = folder / "whole.npz", folder / "resumed.npz"
    command = fastbn("stats", path, "--memory", options.memory, "--every", "0.1", "--out")
    ran(*command, str(whole))
    checkpoint = Path(f"{out}.checkpoint")
    process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL)
    blocks = -(-path.stat().st_size // max(1, nbytes_of(options.memory) // 4))
    place = 0
    while place < blocks / 2 and process.poll() is None:
        time.sleep(0.005)
        place = json.loads(checkpoint.read_text())["position"] if checkpoint.exists() else 0
    process.kill()
    code = process.wait()
    if code == 0:
        return "Not killed: the run was complete before, on so little data."
    place = json.loads(checkpoint.read_text())["position"] if checkpoint.exists() else 0
    again = ran(*command, str(out), "--resume")
    same = "the same" if out.read_bytes() == whole.read_bytes() else "**other**"
    return (
        f"Killed (code {code}) after {place} of about {blocks} blocks, resumed in {again.seconds:.2f} s: {same} "
        "statistics, to the bit, as of a run in one piece."
    )


def images(folder: Path, options: argparse.Namespace, bare: Ran) -> Iterator[str]:
    """Measure a folder of images."""
    path = folder / "images"
    nbytes = make_images(path, options.images)
    threads = str(os.cpu_count() or 1)
    found = interleaved(
        options.rounds,
        {
            f"decoding alone, {threads} threads": lambda: ran(sys.executable, "-c", DECODE, str(path), threads),
            "the loop everyone writes": lambda: ran(sys.executable, "-c", LOOP, str(path)),
            STATS: lambda: ran(*fastbn("stats", path, "--memory", options.memory, "--scale", 255)),
        },
    )
    units = {STATS: f"decoding alone, {threads} threads"}
    yield f"{options.images} JPEG images of {SIDE} x {SIDE}, {nbytes / 2**20:.0f} MiB of pixels:\n"
    yield from table(found, nbytes, units, bare)


def tables(folder: Path, options: argparse.Namespace, bare: Ran) -> Iterator[str]:
    """Measure a Parquet and a .csv file, and one of very many columns."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    x = rng.standard_normal((options.rows, COLUMNS), np.float32)
    tall = pa.table({f"c{i}": column for i, column in enumerate(x.T)})
    wide = pa.table({f"c{i}": column for i, column in enumerate(rng.standard_normal((8000, 100)))})
    pa.parquet.write_table(tall, folder / "x.parquet")
    pa.parquet.write_table(wide, folder / "wide.parquet")
    pa.csv.write_csv(tall.slice(0, options.rows // 5), folder / "x.csv")
    for name in ("x.parquet", "x.csv", "wide.parquet"):
        path = folder / name
        found = interleaved(
            options.rounds,
            {
                "pyarrow and NumPy": partial(ran, sys.executable, "-c", ARROW, str(path)),
                STATS: partial(ran, *fastbn("stats", path, "--memory", options.memory, "--json")),
            },
        )
        yield f"{name}, {path.stat().st_size / 2**20:.0f} MiB:\n"
        yield from table(found, path.stat().st_size, {STATS: "pyarrow and NumPy"}, bare)
        yield ""
        path.unlink()


def kills(folder: Path, options: argparse.Namespace, bare: Ran) -> Iterator[str]:
    """Kill commands at random moments: nothing may be half, counted twice or lost."""
    import h5py

    rng = np.random.default_rng(0)
    x = rng.standard_normal((400_000, 16))
    np.save(folder / "x.npy", x)
    old = folder / "old.h5"
    with h5py.File(old, "w") as file:
        file["x"], file["z"] = x[:100_000], x[:5]
    whole, copied, store = folder / "all.npz", folder / "all.npy", folder / "k.h5"
    ran(*fastbn("stats", folder / "x.npy", "--memory", "1M", "--out", whole))
    ran(*fastbn("standardize", folder / "x.npy", "--memory", "1M", "--stats", whole, "--out", copied))

    def like(path: Path, other: Path) -> bool:
        return not path.exists() or path.read_bytes() == other.read_bytes()

    def stored() -> bool:
        with h5py.File(store) as file:
            z = file["z"][...]
            return bool(np.array_equal(file["x"][...], x[:100_000])) and len(z) in (5, 100_000)

    out, y = folder / "out.npz", folder / "y.npy"
    common = ["--memory", "1M", "--resume"]
    cases: dict[str, tuple[list[str], Callable[[], bool], Path]] = {
        "stats --resume": (
            fastbn("stats", folder / "x.npy", *common, "--every", "0", "--out", out),
            lambda: like(out, whole),
            out,
        ),
        "standardize --resume": (
            fastbn("standardize", folder / "x.npy", *common, "--stats", whole, "--out", y),
            lambda: like(y, copied),
            y,
        ),
        "standardize into a file": (
            fastbn("standardize", f"{store}:x", "--memory", "1M", "--stats", whole, "--out", f"{store}:z", "--force"),
            stored,
            folder / "none",
        ),
    }
    for name, (command, right, result) in cases.items():
        shutil.copy(old, store)
        seconds = ran(*command).seconds
        complete, wrong = 0, 0
        for delay in rng.uniform(0, seconds, options.kills):
            if result.exists():
                result.unlink()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            process.kill()
            complete += process.wait() == 0
            wrong += not right()
        if result.exists():
            result.unlink()
        ran(*command)
        wrong += not right()
        yield f"{name}: killed {options.kills - complete} times at random moments, {complete} complete; {wrong} wrong."


PARTS = {"arrays": arrays, "tables": tables, "images": images, "kills": kills}


def nbytes_of(text: str) -> int:
    """Return a size as 64M or 4G as a number."""
    return int(float(text[:-1]) * 2 ** {"K": 10, "M": 20, "G": 30}[text[-1].upper()])


def surroundings() -> str:
    """Return where and with what this is measured."""
    from fastbn import __version__

    where = records.environment(os.cpu_count() or 1, {})
    return (
        f"{where['cpu']}, {where['cores']} cores; Python {where['python']}, NumPy {where['numpy']}, "
        f"fastbn {__version__}; {where['date']}, commit {where['commit']}, load {where['load_at_start']} at the start."
    )


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the data, one round")
    parser.add_argument("--bytes", type=nbytes_of, default="4G", help="size of the array")
    parser.add_argument("--images", type=int, default=2000, help="number of images")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the tables")
    parser.add_argument("--kills", type=int, default=50, help="how often each command is killed")
    parser.add_argument("--memory", default="64M", help="what the command may use")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed")
    parser.add_argument("--folder", type=Path, default=native.BUILD / "files", help="where the files are made")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    parser.add_argument("--markdown", type=Path, default=native.BUILD / "files.md", help="where the tables go")
    options = parser.parse_args()
    if options.quick:
        options.bytes, options.images = options.bytes // 8, options.images // 8
        options.rows, options.kills, options.rounds = options.rows // 8, options.kills // 8, 1
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    try:
        bare = median([ran(*fastbn("info")) for _ in range(3)])
        lines = ["# Files larger than memory", "", surroundings(), ""]
        lines.append(f"`fastbn info`, a bare command: {bare.seconds:.2f} s, {bare.peak / 2**20:.0f} MiB.\n")
        for part in options.parts:
            for line in PARTS[part](options.folder, options, bare):
                lines.append(line)
                print(line, flush=True)
    finally:
        shutil.rmtree(options.folder)
    options.markdown.parent.mkdir(parents=True, exist_ok=True)
    options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(["", *lines[2:5]]), flush=True)


if __name__ == "__main__":
    main()
