"""oneDNN through a few lines of C++ (onednn.cpp), compiled against libdnnl-dev where that is installed."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

import native
from cases import Case, Op, Output
from data import EPS, Array, Data
from peers.base import Contestant, Peer, UnavailableError

_OPERATIONS: dict[Op, int] = {"train": 0, "eval": 1, "backward": 2}


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "c", "h", "w")),
        *((name, ctypes.c_int32) for name in ("channels_last", "block", "operation", "relu")),
        ("eps", ctypes.c_float),
        ("threads", ctypes.c_int32),
    )


_ARRAYS = ("x", "dy", "out", "weight", "bias", "mean", "var", "dweight", "dbias")


class _Arrays(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in _ARRAYS)


def _sizes(case: Case) -> tuple[tuple[int, int, int, int], bool] | None:
    """Return (n, c, h, w) and whether channels come last in memory; None where oneDNN has no word for the layout."""
    outer, inner = case.outer_inner
    if case.view == "sliced" or (outer > 1 and inner > 1 and case.axis != 1):
        return None
    if inner == 1:
        height, width = case.shape[1:3] if len(case.shape) == 4 and case.axis == 3 else (1, 1)
        return (outer // (height * width), case.channels, height, width), True
    height, width = case.shape[2:] if len(case.shape) == 4 else (inner, 1)
    return (outer, case.channels, height, width), False


class OneDnn:
    """One layout of oneDNN.

    Parameters
    ----------
    library : ctypes.CDLL
        The compiled ``onednn.cpp``.
    threads : int
        Threads of a run.
    block : int
        Hold the data in blocks of so many channels (nChw16c, nChw8c), the layout oneDNN likes best, in which no NumPy
        array is: the way there and back is not timed. 0: in the case's own layout.
    """

    def __init__(self, library: ctypes.CDLL, threads: int, block: int = 0) -> None:
        self._library, self._threads, self._block = library, threads, block
        self.name = f"oneDNN nChw{block}c" if block else "oneDNN"
        number = library.onednn_version()
        self.version = f"{number // 10000}.{number // 100 % 100}.{number % 100}"

    def prepare(self, op: Op, output: Output, data: Data) -> Contestant | None:
        """See :meth:`peers.base.Peer.prepare`; float32 only, and oneDNN always writes into given memory.

        It can fuse the activation but neither knows a mask nor, on the CPU, a residual.
        """
        variant, sizes = data.variant, _sizes(data.case)
        if op == "moments" or output == "fresh" or data.dtype != np.float32 or sizes is None:
            return None
        if variant.mask is not None or variant.residual:
            return None
        shape, channels_last = sizes
        if self._block and (channels_last or shape[1] % self._block):
            return None
        problem = _Problem(*shape, channels_last, self._block, _OPERATIONS[op], variant.relu, EPS, self._threads)
        arrays = _bind(op, data)
        pointers = _Arrays(*(arrays[name].ctypes.data if name in arrays else None for name in _ARRAYS))
        handle = self._library.onednn_create(ctypes.byref(problem), ctypes.byref(pointers))
        if not handle:
            raise UnavailableError(f"oneDNN cannot do it: {self._library.onednn_error().decode()}")
        return self._contestant(ctypes.c_void_p(handle), op, arrays)

    def _contestant(self, handle: ctypes.c_void_p, op: Op, arrays: dict[str, Array]) -> Contestant:
        run, library = self._library.onednn_run, self._library

        def call(keep: dict[str, Array] = arrays) -> None:
            if run(handle):
                raise RuntimeError(library.onednn_error().decode())

        def results(_: Any) -> dict[str, Array]:
            library.onednn_fetch(handle)
            names = {"train": ("mean", "var"), "eval": (), "backward": ("dweight", "dbias"), "moments": ()}[op]
            return {"dx" if op == "backward" else "y": arrays["out"]} | {name: arrays[name] for name in names}

        weakref.finalize(call, library.onednn_destroy, handle)
        return Contestant(call, results)


def _bind(op: Op, data: Data) -> dict[str, Array]:
    """Return the arrays of the operation by oneDNN's names; the contestant keeps them alive."""
    channels = data.case.channels
    arrays = {"x": data.x, "out": data.result(), "weight": data.weight, "bias": data.bias}
    if op == "eval":
        arrays |= {"mean": data.running_mean, "var": data.running_var}
    elif op == "train":
        arrays |= {"mean": np.empty(channels, np.float32), "var": np.empty(channels, np.float32)}
    else:
        x = data.x.astype(np.float64)
        arrays |= {"mean": x.mean(data.reduced).astype(np.float32), "var": x.var(data.reduced).astype(np.float32)}
        arrays |= {"dy": data.dy, "dweight": np.empty(channels, np.float32), "dbias": np.empty(channels, np.float32)}
    return arrays


def load(threads: int) -> list[Peer]:
    """Return the peer twice: in the case's own layout, and for the channels-first cases in this processor's blocks."""
    try:
        library = native.load("peers/onednn.cpp", "dnnl")
    except (native.BuildError, OSError) as error:
        raise UnavailableError(f"{error} (Debian: apt-get install libdnnl-dev)") from error
    library.onednn_create.restype = ctypes.c_void_p
    library.onednn_error.restype = ctypes.c_char_p
    block = 16 if "avx512" in native.processor_flags() else 8
    return [OneDnn(library, threads), OneDnn(library, threads, block)]
