"""Promise: the same bits for any number of threads and of Python threads; the GIL is released from 64 KiB on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
from support.bits import bits_of_everything, differing
from support.dtypes import FLOATS
from support.interpreters import run_python
from support.layouts import LARGE, LAYOUTS, Layout, layout_id
from support.random_arrays import parameters

pytestmark = pytest.mark.untraced

SetThreads = Callable[[int | None], None]


def problem(layout: Layout, dtype: Any) -> tuple[Any, ...]:
    rng = np.random.default_rng(43)
    x = layout.fill(rng, dtype, 2, 3)
    dy = layout.fill(rng, dtype)
    return (x, dy, *parameters(rng, layout.features), layout.axis)


@pytest.mark.parametrize("layout", LARGE, ids=layout_id)
@pytest.mark.parametrize("dtype", FLOATS)
def test_same_bits(layout: Layout, dtype: Any, threads: SetThreads) -> None:
    given = problem(layout, dtype)
    found = {}
    for n in (1, 2, 3, 7):
        threads(n)
        found[n] = bits_of_everything(*given)
    for n in (2, 3, 7):
        assert differing(found[n], found[1]) == [], n


@pytest.mark.parametrize("dtype", FLOATS)
def test_same_bits_of_small_arrays(dtype: Any, threads: SetThreads) -> None:
    for layout in LAYOUTS:
        given = problem(layout, dtype)
        threads(1)
        one = bits_of_everything(*given)
        for n in (2, 3, 7):
            threads(n)
            assert differing(bits_of_everything(*given), one) == [], (layout.name, n)


def test_same_bits_beyond_the_caches(threads: SetThreads, rng: np.random.Generator) -> None:
    """40 MB, so that everything that turns on the size of an array is on."""
    whole = rng.standard_normal(10_000_000, dtype=np.float32)
    shapes = ((8, 50, 25_000), (100_000, 100), (400, 500, 50), (2_000_000, 5), (20_000, 100, 5))
    for shape, axis in ((shape, 1) for shape in shapes):
        x = whole.reshape(shape)
        found = []
        for n in (1, 2, 3):
            threads(n)
            y, mean, var, invstd, _ = fastbn.batch_norm_train(x, axis=axis)
            got = fastbn.batch_norm_backward(y, x, mean=mean, invstd=invstd, axis=axis)
            found.append((y, mean, var, invstd, *got))
        for other in found[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_eight_python_threads_at_once() -> None:
    """Each works on another problem, again and again, and keeps what it got: nothing is shared and nothing reused."""
    chosen = [*LARGE[:4], *LARGE[6:8], *LAYOUTS[:2]]
    problems = [problem(layout, FLOATS[i % 2]) for i, layout in enumerate(chosen)]
    expected = [bits_of_everything(*given) for given in problems]
    outputs = [fastbn.batch_norm_train(x, w, b, axis=axis).y.copy() for x, _, w, b, axis in problems]
    barrier = threading.Barrier(8)

    def work(start: int) -> list[str]:
        barrier.wait(timeout=60)
        wrong, kept = [], []
        for turn in range(8):
            i = (start + turn) % 8
            x, _, w, b, axis = problems[i]
            kept.append((i, fastbn.batch_norm_train(x, w, b, axis=axis).y))
            wrong += [f"{chosen[i].name}: {name}" for name in differing(bits_of_everything(*problems[i]), expected[i])]
        return wrong + [f"{chosen[i].name}: y changed" for i, y in kept if not np.array_equal(y, outputs[i])]

    with ThreadPoolExecutor(8) as pool:
        assert [wrong for wrong in pool.map(work, range(8)) if wrong] == []


def test_all_python_threads_on_the_same_arrays() -> None:
    given = problem(LARGE[0], np.float32)
    expected = bits_of_everything(*given)
    barrier = threading.Barrier(8)

    def work(_: int) -> list[str]:
        barrier.wait(timeout=60)
        return differing(bits_of_everything(*given), expected)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[]] * 8


def test_threads_changed_while_others_compute(threads: SetThreads) -> None:
    given = problem(LARGE[1], np.float32)
    expected = bits_of_everything(*given)
    done = threading.Event()

    def change() -> None:
        n = 0
        while not done.is_set():
            n = n % 7 + 1
            threads(n)
            time.sleep(0)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(5):
            assert differing(bits_of_everything(*given), expected) == []
    finally:
        done.set()
        changer.join()


# The GIL. The interpreter is told never to take it from a thread that does not give it up; then another thread's
# counter can only advance during a call if the call gave it up.


def gil_calls() -> dict[str, Callable[[], object]]:
    x = np.random.default_rng(47).standard_normal((64, 32, 4096), dtype=np.float32)  # 32 MiB
    out = np.empty_like(x)
    mean, var = np.zeros(32), np.ones(32)
    return {
        "batch_norm": lambda: fastbn.batch_norm(x, mean, var, training=True, out=out),
        "batch_norm_eval": lambda: fastbn.batch_norm(x, mean, var, out=out),
        "batch_norm_train": lambda: fastbn.batch_norm_train(x, out=out),
        "batch_norm_backward": lambda: fastbn.batch_norm_backward(x, x, mean=mean, invstd=var, out=out),
        "moments": lambda: fastbn.moments(x),
        "normalize": lambda: fastbn.normalize(x, mean, var, out=out),
    }


@pytest.fixture
def counter() -> Any:
    """Return a function that returns the steps that another thread has made; the GIL goes only where it is given up."""
    before = sys.getswitchinterval()
    count, stop = 0, False

    def work() -> None:
        nonlocal count
        while not stop:
            count += 1
            time.sleep(0)  # gives the GIL back

    worker = threading.Thread(target=work, daemon=True)
    sys.setswitchinterval(1000)
    worker.start()
    yield lambda: count
    stop = True
    sys.setswitchinterval(before)
    worker.join(timeout=60)


def advances(counter: Callable[[], int], call: Callable[[], object]) -> bool:
    for _ in range(50):
        before = counter()
        call()
        if counter() > before:
            return True
        time.sleep(0)
    return False


@pytest.mark.parametrize("name", gil_calls())
def test_gil_is_released(name: str, counter: Callable[[], int], threads: SetThreads) -> None:
    threads(1)
    call = gil_calls()[name]
    assert advances(counter, call)


@pytest.mark.skipif("not getattr(sys, '_is_gil_enabled', lambda: True)()", reason="this Python has no such lock")
def test_the_counter_stands_still_while_the_gil_is_held(counter: Callable[[], int]) -> None:
    """The measuring device of the test above: pure Python, which holds the GIL, is seen to hold it."""
    assert not advances(counter, lambda: sum(range(100_000)))


# How many.


def test_number_of_threads(threads: SetThreads) -> None:
    default = fastbn.get_num_threads()
    assert default >= 1
    for n in (1, 2, 7, np.int64(3)):
        threads(n)
        assert fastbn.get_num_threads() == n
        assert type(fastbn.get_num_threads()) is int
        assert fastbn.show_config("dicts")["num_threads"] == n
    threads(None)
    assert fastbn.get_num_threads() == default


ASK = "import fastbn; print(fastbn.get_num_threads())"


@pytest.mark.parametrize("n", [1, 3, 5])
def test_environment_decides_where_nothing_else_does(n: int) -> None:
    done = run_python(ASK, OMP_NUM_THREADS=str(n))
    assert done.stdout.split() == [str(n)], done.stderr
    done = run_python(
        f"import fastbn; fastbn.set_num_threads({n + 1}); print(fastbn.get_num_threads())", OMP_NUM_THREADS=str(n)
    )
    assert done.stdout.split() == [str(n + 1)], done.stderr


LIMIT = """
import ctypes, sys, numpy as np, fastbn
openmp = ctypes.CDLL(sys.argv[1]) if len(sys.argv) > 1 else ctypes.CDLL({path!r})
x = np.random.default_rng(53).standard_normal((64, 32, 4096))
before = fastbn.batch_norm_train(x).y
for n in (1, 4, 2):
    openmp.omp_set_num_threads(n)  # what threadpoolctl calls
    assert np.array_equal(fastbn.batch_norm_train(x).y, before)
    print(fastbn.get_num_threads())
fastbn.set_num_threads(3)
print(fastbn.get_num_threads())
fastbn.set_num_threads(None)
print(fastbn.get_num_threads(), openmp.omp_get_max_threads())
"""


def test_openmp_decides_at_every_call() -> None:
    """As through threadpoolctl: the number of the OpenMP runtime that fastbn has loaded is asked at every call."""
    done = run_python("import fastbn; print(open('/proc/self/maps').read())")
    loaded = sorted(set(re.findall(r"\S*/libgomp\S*", done.stdout)))
    if not loaded:
        pytest.skip("fastbn has loaded no libgomp here")
    assert Path(loaded[0]).exists()
    done = run_python(LIMIT.format(path=loaded[0]), OMP_NUM_THREADS="3")
    # fastbn never sets the runtime's number: it is still 2 at the end.
    assert done.stdout.split() == ["1", "4", "2", "3", "2", "2"], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
@pytest.mark.skipif("san.so" in os.environ.get("LD_PRELOAD", ""), reason="sanitizers reserve terabytes of it")
def test_more_threads_than_the_system_can_start() -> None:
    """However many are asked for, no more are started than there are processors."""
    program = """
import resource, numpy as np, fastbn
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
fastbn.set_num_threads(2**31 - 1)
x = np.broadcast_to(np.arange(1 << 16, dtype=np.float32), (1 << 12, 1 << 16))
assert fastbn.moments(x, axis=0).count == 1 << 16
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.parametrize(
    "call",
    [
        "fastbn.batch_norm_train(x, out=out)",
        "fastbn.normalize(x[:4, :3], seen)",
        "fastbn.normalize(Converted(), np.zeros(3), np.ones(3))",
    ],
)
def test_the_process_ends_while_threads_compute(call: str) -> None:
    """Daemon threads that want the interpreter back after its end are no reason to abort."""
    program = f"""
import threading, time, numpy as np, fastbn
x = np.zeros((2000, 1000), np.float32)
seen = fastbn.moments(x[:4, :3])
class Converted:
    def __array__(self, dtype=None, copy=None):
        return np.array(sum(([i, i, i] for i in range(9)), [])).reshape(9, 3)
def work(out):
    while True:
        {call}
for _ in range(4):
    threading.Thread(target=work, args=(np.empty_like(x),), daemon=True).start()
time.sleep(0.3)
"""
    for _ in range(3):
        done = run_python(program)
        assert (done.returncode, done.stderr) == (0, "")
