"""Promise: threads may share arrays, a layer in evaluation mode, Moments, the pool and the settings without a lock.

Under a Python without a global lock, and under ThreadSanitizer (`make tsan`), these are the tests that matter.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pytest

import fastbn
import fastbn._moments.moments
from support.bits import bits_of_everything, differing
from support.interpreters import run_python

T = TypeVar("T")

THREADS = 8


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Where there is a global lock, it goes from thread to thread as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(work: Callable[[int], T]) -> list[T]:
    """Return what `work(i)` gives in eight threads that begin together."""
    barrier = threading.Barrier(THREADS)

    def begin(i: int) -> T:
        barrier.wait(timeout=60)
        return work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


def batches(rows: int) -> np.ndarray:
    """Return a batch of 16 features for each thread."""
    return np.random.default_rng(61).standard_normal((THREADS, rows, 16), dtype=np.float32)


def trained_layer(**options: Any) -> fastbn.BatchNorm:
    layer = fastbn.BatchNorm(16, **options)
    layer(batches(64)[0] * 3 + 5)
    return layer.eval()


# A layer.


@pytest.mark.parametrize("rows", [40, 20_000], ids=["lock kept", "lock released"])
def test_a_layer_in_evaluation_mode(rows: int) -> None:
    layer, xs = trained_layer(), batches(rows)
    wanted = [layer(x).tobytes() for x in xs]
    state = {key: value.tobytes() for key, value in layer.state_dict().items()}

    def work(i: int) -> list[int]:
        return [turn for turn in range(20) if layer(xs[i]).tobytes() != wanted[i]]

    assert at_once(work) == [[]] * THREADS
    assert {key: value.tobytes() for key, value in layer.state_dict().items()} == state


class Interrupted(fastbn.BatchNorm):
    """Calls itself on what is waiting, a batch at a time, where it looks at its activation, as another thread may."""

    waiting: tuple[np.ndarray | None, ...] = ()

    @property  # type: ignore[override]
    def activation(self) -> str | None:
        if self.waiting:
            batch, *self.waiting = self.waiting
            if batch is not None:
                self(batch)
        return None

    @activation.setter
    def activation(self, value: str | None) -> None:
        assert value is None


@pytest.mark.parametrize("looks", [1, 2])
def test_backward_belongs_to_one_call(looks: int) -> None:
    """Not to the mean of one and the x of another."""
    layer, (x, other, dy) = Interrupted(16), batches(40)[:3]
    layer(x)
    wanted = layer.backward(dy).tobytes()
    layer.waiting = (*[None] * (looks - 1), other)
    layer(x)
    assert not layer.waiting
    assert layer.backward(dy).tobytes() == wanted


def test_a_layer_is_trained_under_a_lock() -> None:
    layer, xs, lock = fastbn.BatchNorm(16, momentum=None, correction=0), batches(20_000), threading.Lock()

    def work(i: int) -> None:
        for _ in range(3):
            with lock:
                layer(xs[i])
                layer.backward(xs[i])

    at_once(work)
    assert layer.num_batches_tracked == 3 * THREADS
    # The plain average over batches of one size, in whichever order: that of all values.
    np.testing.assert_allclose(layer.running_mean, xs.astype(np.float64).mean((0, 1)), rtol=1e-12, atol=1e-15)


# Moments. Of -1 and 1, every state has mean 0 and an m2 that is the count, exactly.


def test_moments_lose_nothing_and_show_one_state() -> None:
    moments, part = fastbn.Moments(), np.tile([[-1.0], [1.0]], (4, 3))
    done = threading.Event()

    def read() -> list[tuple[Any, ...]]:
        wrong = []
        while not done.is_set():
            count, mean, m2 = moments
            if count and ((mean != 0).any() or (m2 != count).any() or (moments.var() != 1).any()):
                wrong.append((count, mean, m2))
            copy = moments.to_dict()
            if copy["count"] and (copy["m2"] != copy["count"]).any():
                wrong.append((copy["count"], copy["m2"]))
        return wrong

    def work(i: int) -> None:
        for turn in range(40):
            if (i + turn) % 2:
                moments.update(part)
            else:
                moments.merge(fastbn.moments(part))

    with ThreadPoolExecutor(1) as reader:
        found = reader.submit(read)
        try:
            at_once(work)
        finally:
            done.set()
        assert found.result() == []
    assert moments.count == THREADS * 40 * len(part)
    np.testing.assert_array_equal(moments.m2, np.full(3, float(moments.count)))


def test_what_another_thread_takes_in_meanwhile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    moments, part = fastbn.Moments(2, [0.0], [2.0]), fastbn.Moments(4, [0.0], [4.0])
    module = fastbn._moments.moments
    merged, others = module.merged_with_extremes, [fastbn.Moments(8, [0.0], [8.0])]

    def interrupted(*args: Any) -> Any:
        result = merged(*args)
        if others:
            moments.merge(others.pop())
        return result

    monkeypatch.setattr(module, "merged_with_extremes", interrupted)
    moments.merge(part)
    assert (moments.count, moments.m2.item()) == (14, 14.0)


def test_population_statistics_of_threads_that_share_a_layer() -> None:
    layer = fastbn.BatchNorm(3, correction=0)
    x = np.tile([[-1.0], [1.0]], (20, 3))

    with fastbn.population_statistics(layer):
        at_once(lambda i: [layer(x * (i % 2 + 1)) for _ in range(10)])
    np.testing.assert_array_equal(layer.running_mean, np.zeros(3))
    np.testing.assert_allclose(layer.running_var, np.full(3, 2.5), rtol=1e-15)  # of as many batches of 1 as of 4


# The pool and the settings.


def test_results_go_from_thread_to_thread() -> None:
    """Blocks are taken by one thread and given back by another, while others change the pool."""
    xs, limit = batches(20_000), fastbn.pool_info().limit
    wanted = [fastbn.batch_norm_train(x).y.tobytes() for x in xs]
    shelf: dict[int, np.ndarray] = {}

    def work(i: int) -> list[str]:
        wrong = []
        for turn in range(12):
            shelf[i] = fastbn.batch_norm_train(xs[i]).y
            other = (i + turn) % THREADS
            taken = shelf.pop(other, None)
            if taken is not None and taken.tobytes() != wanted[other]:
                wrong.append(f"result of {other}")
            info = fastbn.pool_info()
            if not 0 <= info.held <= limit or (info.held > 0) != (info.blocks > 0):
                wrong.append(f"{info}")
            if i == 0:
                fastbn.clear_pool()
            if i == 1:
                fastbn.set_pool_limit(limit >> turn % 3)
        return wrong

    try:
        assert at_once(work) == [[]] * THREADS
    finally:
        fastbn.set_pool_limit(limit)
        fastbn.clear_pool()


def test_threads_that_share_arrays_have_teams_of_their_own(threads: Callable[[int | None], None]) -> None:
    x, dy = batches(20_000)[:2]
    kept = np.arange(len(x))[:, None] % 3 > 0
    calls: list[tuple[np.ndarray, np.ndarray, int, dict[str, Any]]] = [
        (x, dy, 1, {}),
        (np.asfortranarray(x), dy, 1, {}),
        (x.T, dy.T, 0, {}),
        (x, dy, 1, {"where": kept}),
        (x, dy, 1, {"residual": dy, "activation": "relu"}),
    ]

    def found(k: int) -> dict[str, bytes]:
        x, dy, axis, options = calls[k]
        return bits_of_everything(x, dy, None, None, axis, **options)

    threads(1)
    wanted = [found(k) for k in range(len(calls))]

    def work(i: int) -> list[str]:
        threads(1 + i % 3)
        return differing(found(i % len(calls)), wanted[i % len(calls)])

    assert at_once(work) == [[]] * THREADS


RACE = """
import threading
import numpy as np, fastbn
fastbn.set_num_threads(1)
x = np.zeros((20_000, 16), np.float32)
out, barrier = np.empty_like(x), threading.Barrier(2)
def work():
    barrier.wait(timeout=60)
    for _ in range(20):
        fastbn.batch_norm_train(x, out=out)
pair = [threading.Thread(target=work) for _ in range(2)]
for thread in pair:
    thread.start()
for thread in pair:
    thread.join()
"""


@pytest.mark.skipif("libtsan" not in os.environ.get("LD_PRELOAD", ""), reason="for ThreadSanitizer")
def test_the_sanitizer_sees_a_race() -> None:
    """The measuring device of all the others: two threads that write to the same `out` are reported."""
    done = run_python(RACE)
    assert done.returncode == 66
    assert "data race" in done.stderr


# What is found at the first use, in a fresh interpreter.
FIRST_USE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import ml_dtypes, numpy as np, fastbn
sys.setswitchinterval(1e-6)
x = np.arange(48.0).reshape(12, 4).astype(ml_dtypes.bfloat16)
barrier = threading.Barrier(8)
def work(i):
    barrier.wait(timeout=60)
    return fastbn.batch_norm_train(x).y.tobytes()
with ThreadPoolExecutor(8) as pool:
    assert len(set(pool.map(work, range(8)))) == 1
"""


def test_first_use_by_all_threads() -> None:
    done = run_python(FIRST_USE)
    assert done.returncode == 0, done.stderr


GIL = """
import sys
import fastbn
print(getattr(sys, "_is_gil_enabled", lambda: None)())
"""


@pytest.mark.skipif("free-threading" not in sys.version, reason="this Python has a global lock")
def test_the_global_lock_stays_off() -> None:
    done = run_python(GIL)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["False"], "")
