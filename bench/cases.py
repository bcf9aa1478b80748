"""What is measured: named array shapes with their feature axis; knows no library, no arrays and no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

Op = Literal["train", "eval", "backward", "moments"]
Output = Literal["given", "fresh"]
View = Literal["contiguous", "transposed", "sliced"]

OPS: tuple[Op, ...] = get_args(Op)
OUTPUTS: tuple[Output, ...] = get_args(Output)


@dataclass(frozen=True)
class Case:
    """One array to normalise.

    Parameters
    ----------
    name : str
        What ``--cases`` selects by, and the row's title in every report.
    group : str
        Cases that are reported, plotted and averaged together.
    shape : tuple of int
        Shape of ``x``.
    axis : int
        The feature axis.
    view : {"contiguous", "transposed", "sliced"}
        ``transposed``: the memory order of the axes is reversed. ``sliced``: every second element of the last axis.
    ops : tuple of str
        The operations this case is measured for.
    """

    name: str
    group: str
    shape: tuple[int, ...]
    axis: int
    view: View = "contiguous"
    ops: tuple[Op, ...] = OPS

    @property
    def channels(self) -> int:
        """Length of the feature axis."""
        return self.shape[self.axis]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """Values per channel."""
        return self.size // self.channels

    @property
    def outer_inner(self) -> tuple[int, int]:
        """The array as (outer, channels, inner) in memory order: the two lengths around the channels."""
        before, after = self.shape[: self.axis], self.shape[self.axis + 1 :]
        if self.view == "transposed":
            before, after = after, before
        return math.prod(before), math.prod(after)


def _text(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _nchw(n: int, c: int, side: int, group: str = "resnet-nchw") -> Case:
    shape = (n, c, side, side)
    return Case(f"nchw-{_text(shape)}", group, shape, 1)


def _nhwc(n: int, c: int, side: int, group: str = "resnet-nhwc") -> Case:
    shape = (n, side, side, c)
    return Case(f"nhwc-{_text(shape)}", group, shape, 3)


def _table(n: int, c: int, group: str = "table") -> Case:
    ops: tuple[Op, ...] = OPS if n > 1 else ("eval",)  # one value per channel has no variance to train with
    return Case(f"{group}-{_text((n, c))}", group, (n, c), 1, ops=ops)


# The batch-norm inputs of ResNet-50 (stride in the 3x3 convolutions, as torchvision has it): (channels, side).
RESNET50 = (
    (64, 112),
    (64, 56),
    (256, 56),
    (128, 56),
    (128, 28),
    (512, 28),
    (256, 28),
    (256, 14),
    (1024, 14),
    (512, 14),
    (512, 7),
    (2048, 7),
)

_AWKWARD = (
    Case("awkward-nchw-c1", "awkward", (32, 1, 224, 224), 1),
    Case("awkward-nchw-c3", "awkward", (32, 3, 224, 224), 1),
    Case("awkward-nhwc-c3", "awkward", (32, 224, 224, 3), 3),
    Case("awkward-nchw-c17", "awkward", (32, 17, 56, 56), 1),
    Case("awkward-table-c17", "awkward", (100_000, 17), 1),
    Case("awkward-nchw-c251", "awkward", (32, 251, 28, 28), 1),
    Case("awkward-table-c251", "awkward", (25_000, 251), 1),
    Case("awkward-inner-1", "awkward", (16_384, 256, 1), 1),
    Case("awkward-inner-2", "awkward", (8192, 256, 2), 1),
    Case("awkward-inner-7x7", "awkward", (512, 192, 7, 7), 1),
    Case("awkward-inner-13", "awkward", (1024, 256, 13), 1),
    Case("awkward-one-sample", "awkward", (1, 256, 112, 112), 1),
    # Each pixel of a few images is a feature, and each of many measurements.
    Case("awkward-few-rows", "awkward", (16, 150_528), 1),
    Case("awkward-two-rows", "awkward", (2, 1_000_000), 1),
    Case("awkward-transposed", "awkward", (65_536, 64), 1, "transposed"),
    Case("awkward-sliced", "awkward", (32, 64, 56, 28), 1, "sliced"),
)

# Many channels of few values, or rows of few values in each: a single image's late feature maps, short series, small
# batches of many features.
_SHORT = tuple(
    Case(f"short-{_text(shape)}", "short", shape, 1)
    for shape in (
        (1, 1280, 7, 7),
        (4, 960, 7, 7),
        (1, 64, 1000),
        (2, 20_000, 50),
        (100, 7, 33),
        (1000, 5, 100),
        (10_000, 3, 17),
        (4, 4096),
        (8, 10_000),
        (2, 100_000),
    )
)

# Channels-last widths that are no power of two: networks' own (Inception, DenseNet, EfficientNet) and odd ones.
_WIDTHS = (24, 37, 48, 80, 96, 144, 192, 250, 384, 1000, 1500)

CASES: tuple[Case, ...] = (
    *(_nchw(32, c, side) for c, side in RESNET50),
    *(_nhwc(32, c, side) for c, side in RESNET50),
    *(_table(n, c) for n, c in ((8192, 512), (65_536, 256), (1_000_000, 32), (256, 1024))),
    *(_table(n, c, "small") for n, c in ((1, 16), (32, 64), (64, 128))),
    *_AWKWARD,
    *_SHORT,
    *(_table(16_000_000 // c, c, "width") for c in _WIDTHS),
)

QUICK: tuple[str, ...] = (
    "nchw-32x256x56x56",
    "nchw-32x1024x14x14",
    "nchw-32x2048x7x7",
    "nhwc-32x56x56x256",
    "nhwc-32x14x14x1024",
    "table-65536x256",
    "small-32x64",
    "small-64x128",
    "awkward-nchw-c3",
)

KIB = 1024
MIB = 1024 * KIB
SIZE_SWEEPS = ("sweep-size-first", "sweep-size-last")
CHANNEL_SWEEPS = ("sweep-channels-first", "sweep-channels-last")


def size_sweep(max_bytes: int, itemsize: int = 4) -> list[Case]:
    """Training on arrays from 1 KiB up in steps of four, ``max_bytes`` included, in both layouts.

    Channels-first keeps 16 samples of 16 channels and grows their inner size; channels-last is a table of
    64 columns that grows in rows.
    """
    sizes = [size for k in range(20) if (size := KIB * 4**k) < max_bytes] + [max_bytes]
    cases = []
    for size in sizes:
        elements = size // itemsize
        first, last = (16, 16, elements // 256), (elements // 64, 64)
        cases.append(Case(f"size-first-{size // KIB}K", SIZE_SWEEPS[0], first, 1, ops=("train",)))
        cases.append(Case(f"size-last-{size // KIB}K", SIZE_SWEEPS[1], last, 1, ops=("train",)))
    return cases


def channel_sweep(nbytes: int = 16 * MIB, itemsize: int = 4) -> list[Case]:
    """Training on arrays of ``nbytes`` whose number of channels goes from 1 to 65,536, in both layouts."""
    elements = nbytes // itemsize
    cases = []
    for channels in (4**k for k in range(9)):
        per_channel = elements // channels
        first, last = (8, channels, per_channel // 8), (per_channel, channels)
        cases.append(Case(f"channels-first-{channels}", CHANNEL_SWEEPS[0], first, 1, ops=("train",)))
        cases.append(Case(f"channels-last-{channels}", CHANNEL_SWEEPS[1], last, 1, ops=("train",)))
    return cases


def select(cases: Iterable[Case], patterns: Sequence[str]) -> list[Case]:
    """Return the cases whose name or group matches one of the shell patterns, in their own order.

    Raises
    ------
    ValueError
        If a pattern matches nothing.
    """
    pool = list(cases)
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) or fnmatchcase(case.group, pattern) for case in pool):
            groups = ", ".join(dict.fromkeys(case.group for case in pool))
            raise ValueError(f"cases must match a name or one of the groups {groups}, got {pattern!r}")
    return [c for c in pool if any(fnmatchcase(c.name, p) or fnmatchcase(c.group, p) for p in patterns)]
