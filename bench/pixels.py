"""Images to what networks take, and moments of integers, beside PyTorch, OpenCV and NumKong where they are installed.

    python bench/pixels.py [--quick] [--only images,moments] [--threads 2]

Prints two tables and writes them to build/bench/pixels.md. Knows neither the other benchmarks' cases nor their peers.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastbn
import native
import records
import timing
from data import NUMPY_OFFSET, Array, aligned_empty
from report import row, time

SPIN_COUNT = "20000"  # as in run.py: threads must be asleep before others are timed
OURS = "fastbn"
PEERS = {"torch": "PyTorch", "cv2": "OpenCV", "numkong": "NumKong"}
Calls = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """Images in NHWC of one type, to be normalized and written in NCHW in another; `aim`: times as fast as PyTorch."""

    shape: tuple[int, int, int, int]
    x: str
    y: str
    aim: float = 1.0

    @property
    def name(self) -> str:
        """The row's title."""
        return f"{'x'.join(map(str, self.shape))} {self.x} to {self.y}"


CASES = (
    Case((1, 1024, 1024, 3), "uint8", "float32", aim=2.0),
    Case((1, 224, 224, 3), "uint8", "float32"),
    Case((32, 224, 224, 3), "uint8", "float32"),
    Case((1, 1024, 1024, 4), "uint8", "float32"),
    Case((1, 1024, 1024, 1), "uint8", "float32"),
    Case((1, 1024, 1024, 3), "uint8", "float16"),
    Case((1, 1024, 1024, 3), "float32", "float32"),
    Case((8, 256, 256, 16), "uint8", "float32"),
    Case((8, 56, 56, 256), "float32", "float32"),
    Case((32, 7, 7, 300), "float32", "float32"),
)

# Values of each type, and what part of float32's time they are meant to take: that of their bytes, and a little.
VALUES = 4_000_000
INTEGER_AIMS = {"uint8": 0.3, "int8": 0.3, "uint16": 0.6, "int16": 0.6, "bool": 0.3}
MOMENTS_SHAPES = ((VALUES // 32, 32), (1, VALUES))


def available() -> dict[str, Any]:
    """Return the peers that are installed."""
    found = {}
    for module in PEERS:
        try:
            found[module] = importlib.import_module(module)
        except ImportError:
            print(f"{PEERS[module]} left out: it is not installed", flush=True)
    return found


def filled(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Return an array of pixels' values, where NumPy's own large arrays begin."""
    x = aligned_empty(shape, dtype, offset=NUMPY_OFFSET)
    x[...] = rng.integers(0, 2 if dtype == "bool" else 128, shape)
    return x


def image_calls(case: Case, peers: dict[str, Any]) -> Calls:
    """Return the calls by name; what no peer can do exactly is left out."""
    rng = np.random.default_rng(0)
    channels = case.shape[-1]
    x = filled(rng, case.shape, case.x)
    mean, std = rng.uniform(50, 70, channels).astype(np.float32), rng.uniform(30, 40, channels).astype(np.float32)
    if channels == 3:
        std[:] = std[0]  # OpenCV has one factor for all colours
    var = std.astype(np.float64) ** 2
    given: dict[str, Any] = {"eps": 0.0, "axis": -1, "dtype": case.y}
    calls: Calls = {
        OURS: lambda: fastbn.normalize(x, mean, var, **given, out_axis=1),
        f"{OURS}, NHWC": lambda: fastbn.normalize(x, mean, var, **given),
    }
    if "torch" in peers:
        torch = peers["torch"]
        tensor, wanted = torch.from_numpy(x), getattr(torch, case.y)
        m, s = (torch.from_numpy(values)[:, None, None] for values in (mean, std))
        moved, dense = tensor.permute(0, 3, 1, 2), torch.contiguous_format
        calls |= {
            "PyTorch": lambda: moved.contiguous().to(torch.float32, copy=True).sub_(m).div_(s).to(wanted),
            "PyTorch, at once": lambda: (
                moved.to(torch.float32, memory_format=dense, copy=True).sub_(m).div_(s).to(wanted)
            ),
            "PyTorch, moved last": lambda: moved.sub(m).div_(s).to(wanted).contiguous(),
        }
    if "cv2" in peers and channels == 3 and (case.x, case.y) == ("uint8", "float32"):
        blob, images = peers["cv2"].dnn.blobFromImages, list(x)
        size = (case.shape[2], case.shape[1])
        factor, means = float(1 / std[0]), tuple(map(float, mean))
        calls["OpenCV"] = lambda: blob(images, factor, size, means, False, False)
    check_images(calls, case)
    return calls


def check_images(calls: Calls, case: Case) -> None:
    """Refuse to time results that differ by more than their types' rounding."""
    wanted = np.moveaxis(np.asarray(calls[f"{OURS}, NHWC"]()), -1, 1).astype(np.float32)
    for name, call in calls.items():
        got = np.asarray(call()).astype(np.float32)
        if not name.endswith("NHWC") and not np.allclose(
            got, wanted, rtol=1e-2 if case.y == "float16" else 1e-5, atol=1e-3
        ):
            raise ValueError(f"{name}'s result must be y, got other numbers for {case.name}")


def image_rows(effort: timing.Effort, peers: dict[str, Any]) -> Iterator[list[str]]:
    """Measure, and yield the rows of the table on images."""
    for case in CASES:
        found = timing.measure(image_calls(case, peers), effort)
        shown = [time(found[name].median) if name in found else "-" for name in (OURS, f"{OURS}, NHWC", "OpenCV")]
        torch = [timed.median for name, timed in found.items() if name.startswith("PyTorch")]
        ratio = min(torch) / found[OURS].median if torch else None
        met = "-" if ratio is None else f"{case.aim:g}: {'met' if ratio >= case.aim else '**missed**'}"
        yield [case.name, *shown, time(min(torch)) if torch else "-", "-" if ratio is None else f"{ratio:.2f}", met]


def moments_calls(shape: tuple[int, int], peers: dict[str, Any]) -> Calls:
    """Return the calls by type and name."""
    rng = np.random.default_rng(0)
    calls: Calls = {}
    for dtype in ("float32", *INTEGER_AIMS):
        x = filled(rng, shape, dtype)
        calls[dtype] = partial(fastbn.moments, x, axis=int(shape[0] > 1))
        if "numkong" in peers and shape[0] == 1 and dtype in ("float32", "uint8", "int8"):
            calls[f"{dtype}, NumKong"] = partial(peers["numkong"].moments, x[0])
    return calls


def moments_rows(effort: timing.Effort, peers: dict[str, Any]) -> Iterator[list[str]]:
    """Measure, and yield the rows of the table on moments."""
    for shape in MOMENTS_SHAPES:
        found = timing.measure(moments_calls(shape, peers), effort)
        unit = found["float32"].median
        for dtype, aim in {"float32": 1.0, **INTEGER_AIMS}.items():
            ratio = found[dtype].median / unit
            peer = found.get(f"{dtype}, NumKong")
            met = f"{aim:g}: {'met' if ratio <= aim else '**missed**'}"
            others = "-" if peer is None else time(peer.median)
            yield ["x".join(map(str, shape)), dtype, time(found[dtype].median), f"{ratio:.2f}", met, others]


def report(options: argparse.Namespace) -> str:
    """Measure, and return the tables."""
    effort = timing.QUICK_EFFORT if options.quick else timing.Effort(budget=3.0)
    fastbn.set_num_threads(options.threads)
    peers = available()
    for module, setting in (("torch", "set_num_threads"), ("cv2", "setNumThreads")):
        if module in peers:
            getattr(peers[module], setting)(options.threads)
    versions = {OURS: fastbn.__version__} | {PEERS[name]: peer.__version__ for name, peer in peers.items()}
    where = records.environment(options.threads, versions)
    said = ", ".join(f"{name} {version}" for name, version in where["peers"].items())
    lines = [
        "# Pixels and integers",
        "",
        f"{where['cpu']}, {where['cores']} cores; {where['threads']} thread(s); Python {where['python']}, NumPy "
        f"{where['numpy']}, {said}; {where['date']}, commit {where['commit']}, load {where['load_at_start']} at the "
        "start.",
    ]
    tables = {
        "images": (["images", f"{OURS}, to NCHW", "to NHWC", "OpenCV", "PyTorch", "times as fast", "aim"], image_rows),
        "moments": (["moments of", "", OURS, "in float32's time", "aim", "NumKong"], moments_rows),
    }
    for name, (columns, rows) in tables.items():
        if name not in options.only:
            continue
        lines += ["", row(columns), row(["---"] * len(columns))]
        for cells in rows(effort, peers):
            lines.append(row(cells))
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the time for each figure")
    parser.add_argument("--only", type=lambda text: text.split(","), default=["images", "moments"], help="which tables")
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--markdown", type=Path, default=native.BUILD / "pixels.md", help="where the tables go")
    options = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    text = report(options)
    options.markdown.parent.mkdir(parents=True, exist_ok=True)
    options.markdown.write_text(text, encoding="utf-8")
    print("\n" + text, flush=True)


if __name__ == "__main__":
    main()
