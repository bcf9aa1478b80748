"""The copy y = a*x of a case's bytes, the unit of every report, and the traffic bound of each operation."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial

import numpy as np

import native
from cases import Case, Op
from data import LINE, Array, aligned_empty
from variants import Variant

COPY = "copy"
PLUS_ONE = "x + 1"

_SERIAL_BELOW = 4 << 20  # bytes up to which one thread may beat several at copying
_PLUS_ONE_BELOW = 64 << 10  # bytes up to which NumPy's own x + 1 is the more telling unit


class Yardstick:
    """The copy, compiled for this processor.

    Parameters
    ----------
    threads : int
        How many threads the copy may use.
    """

    def __init__(self, threads: int) -> None:
        library = native.load("yardstick.cpp")
        self.threads = threads
        self._stores = (0, 1) if library.copy_has_streaming() else (0,)
        self._functions = {4: library.copy_f32, 8: library.copy_f64}
        for function in self._functions.values():
            function.restype = None
            function.argtypes = [
                ctypes.c_void_p,
                ctypes.c_void_p,
                ctypes.c_size_t,
                ctypes.c_double,
                ctypes.c_int,
                ctypes.c_int,
            ]

    def contestants(self, x: Array) -> dict[str, Callable[[], object]]:
        """Return the calls that copy the bytes of ``x``; the fastest of them is the yardstick.

        Each is checked to copy before it is returned. A strided ``x`` is replaced by a dense array of its size.
        """
        source, target = _flat(x), aligned_empty((x.size,), x.dtype)
        calls: dict[str, Callable[[], object]] = {}
        for threads in sorted({self.threads, 1} if x.nbytes <= _SERIAL_BELOW else {self.threads}):
            for streaming in self._stores:
                call = self._copy(source, target, streaming, threads)
                _check(call, source, target)
                calls[f"{COPY} {'streaming' if streaming else 'plain'} x{threads}"] = call
        if x.nbytes <= _PLUS_ONE_BELOW:
            calls[PLUS_ONE] = partial(np.add, x, 1)
        return calls

    def _copy(self, source: Array, target: Array, streaming: int, threads: int) -> Callable[[], object]:
        function = self._functions[source.itemsize]
        arguments = (source.ctypes.data, target.ctypes.data, source.size, 1.5, streaming, threads)

        def call(keep: tuple[Array, Array] = (source, target)) -> None:
            function(*arguments)

        return call


def _flat(x: Array) -> Array:
    """Return the elements of ``x`` as one run of memory: its own where it is dense, else a copy."""
    flat = x.ravel(order="K")
    if np.may_share_memory(flat, x):
        return flat
    dense = aligned_empty(flat.shape, flat.dtype)
    dense[...] = flat
    return dense


def _check(call: Callable[[], object], source: Array, target: Array) -> None:
    target[...] = 0
    call()
    if not np.array_equal(target, source * source.dtype.type(1.5)):
        raise native.BuildError("the copy does not copy")


def traffic(case: Case, op: Op, variant: Variant, l2_bytes: int) -> float:
    """Return the bytes that ``op`` must move.

    Moments reads x, inference reads x and writes y. Training reads x once to reduce it and once more to transform it,
    and writes y; backward does so with x and dy and writes dx. What the reduction leaves in the level 2 cache need not
    be read again: of a slab (one channel of x; of x and dy in the backward pass) only the part beyond that cache is.
    Where channels lie side by side, a slab is a cache line wide. A mask of elements, a byte each, is read once. A
    residual is read once in the forward pass; backward, where its sum's sign matters to the ReLU, reads it as it reads
    x, and writes its gradient.
    """
    x, y = variant.itemsizes
    mask = 1 if variant.mask == "element" else 0
    residual = y if variant.residual else 0
    if op == "moments":
        return case.size * (x + mask)
    if op == "eval":
        return case.size * (x + residual + y)
    twice, once, written = (x, residual, y) if op == "train" else (x + y + residual, 0, y + residual)
    outer, inner = case.outer_inner
    slab = outer * max(inner * x, min(LINE, inner * case.channels * x)) / x
    again = max(0.0, 1.0 - l2_bytes / (twice * slab))
    return case.size * (twice * (1.0 + again) + once + mask + written)


def bound(case: Case, op: Op, variant: Variant, l2_bytes: int, copied: int) -> float:
    """Return the least time of ``op`` in copies of ``copied`` bytes, were nothing but bytes to cost time."""
    return traffic(case, op, variant, l2_bytes) / (2 * copied)
