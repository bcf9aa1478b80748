"""Large results live on recycled memory, and nobody can tell but by the clock."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastbn
from support import peak_memory

MIB = 1 << 20


@pytest.fixture(autouse=True)
def empty_pool() -> Iterator[None]:
    limit = fastbn.pool_info().limit
    fastbn.clear_pool()
    yield
    fastbn.set_pool_limit(limit)
    fastbn.clear_pool()


def recycles() -> bool:
    """Builds for AddressSanitizer never recycle."""
    x = large()
    fastbn.batch_norm_train(x)
    return fastbn.pool_info().held > 0


def large(fill: float = 0.0, mebibytes: int = 3) -> np.ndarray:
    x = np.full((mebibytes * MIB // 4 // 64, 64), fill, np.float32)
    x[::2] += 1
    return x


def test_kept_results_are_never_overwritten() -> None:
    kept, wanted = [], []
    for i in range(12):
        y = fastbn.batch_norm(large(i), bias=np.full(64, float(i)), training=True)
        if i % 3 == 0:
            kept.append(y)
        elif i % 3 == 1:
            kept.append(y[5:7, ::3].T)  # a view keeps the block as well
        else:
            continue
        wanted.append(kept[-1].copy())
        del y
    for y, want in zip(kept, wanted, strict=True):
        np.testing.assert_array_equal(y, want)


def test_memory_comes_back_and_is_taken_again() -> None:
    if not recycles():
        pytest.skip("this build does not recycle")
    fastbn.clear_pool()
    x = large()
    before = fastbn.pool_info().reused
    y = fastbn.batch_norm_train(x).y
    address = y.ctypes.data
    assert address % 64 == 0
    assert fastbn.pool_info().held == 0
    del y
    gc.collect()
    assert fastbn.pool_info().held >= x.nbytes
    assert fastbn.pool_info().blocks == 1
    y = fastbn.batch_norm_train(x).y
    assert y.ctypes.data == address
    assert fastbn.pool_info().reused == before + 1
    assert fastbn.pool_info().held == 0


def test_the_limit_holds() -> None:
    fastbn.set_pool_limit(8 * MIB)
    ys = [fastbn.batch_norm_train(large(mebibytes=m)).y for m in (1, 2, 3, 4, 5, 20)]
    while ys:
        ys.pop()
        assert fastbn.pool_info().held <= 8 * MIB
    fastbn.set_pool_limit(0)
    assert fastbn.pool_info() == (0, 0, 0, fastbn.pool_info().reused)
    del ys
    fastbn.batch_norm_train(large())
    assert fastbn.pool_info().held == 0


@pytest.mark.parametrize(("nbytes", "kind"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError), (None, TypeError)])
def test_a_limit_that_is_none(nbytes: object, kind: type[Exception]) -> None:
    before = fastbn.pool_info().limit
    with pytest.raises(kind, match="nbytes must"):
        fastbn.set_pool_limit(nbytes)  # type: ignore[arg-type]
    assert fastbn.pool_info().limit == before


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2), (1, 0, 3, 2)])
def test_memory_order_is_kept(order: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal((20, 30, 25, 22)).transpose(order)
    for view in (x, x[:, :, ::2], x[:, ::-1]):
        y = fastbn.batch_norm_train(view).y
        assert y.strides == np.empty_like(view).strides
        assert y.flags.writeable


def test_several_threads() -> None:
    xs = [large(i) + np.arange(64, dtype=np.float32) * i for i in range(6)]
    wanted = [fastbn.batch_norm_train(x).y.copy() for x in xs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(fastbn.batch_norm_train(xs[i]).y, wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork_while_other_threads_use_the_pool() -> None:
    x = large()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            fastbn.batch_norm_train(x)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                fastbn.batch_norm_train(x)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell peaks")
@pytest.mark.parametrize("op", peak_memory.OPS)
@pytest.mark.parametrize("shape", [(16, 16, 112, 112), (100_000, 32), (4096, 1024), (99, 40_000)], ids=str)
def test_a_call_needs_little_memory_of_its_own(shape: tuple[int, ...], op: str) -> None:
    """One MiB and 160 bytes per channel: results of 24 to 32, six sums of 8 in two spans, and coefficients."""
    if "san.so" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("a sanitized build has memory of its own")
    assert peak_memory.kibibytes(shape, 1, op, threads=2) * 1024 < MIB + 160 * shape[1]
