"""Promise: fastbn works in a forked child, whatever its parent was doing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
from support.bits import bits_of_everything, differing
from support.layouts import LARGE
from support.random_arrays import parameters

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 warns of forking with threads about; that it goes well is what is tested.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

SECONDS = 60


def problem() -> tuple[Any, ...]:
    rng = np.random.default_rng(59)
    x = LARGE[0].fill(rng, np.float32, 2, 3)
    return (x, LARGE[0].fill(rng, np.float32), *parameters(rng, LARGE[0].features), 1)


def in_child(work: Callable[[], bool]) -> int:
    """Fork, run `work` in the child under an alarm, and return the child's id; it exits with 0 if `work` is true."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = 2
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        code = 0 if work() else 1
    finally:
        os._exit(code)


def outcome(child: int) -> str:
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return "hung" if name == "SIGALRM" else name
    return {0: "right", 1: "wrong", 2: "raised"}[os.WEXITSTATUS(status)]


@pytest.mark.parametrize("n", [None, 1, 3])
def test_fork_after_use(n: int | None, threads: Callable[[int | None], None]) -> None:
    threads(n)
    given = problem()
    expected = bits_of_everything(*given)
    assert outcome(in_child(lambda: differing(bits_of_everything(*given), expected) == [])) == "right"
    # The parent is as it was.
    assert differing(bits_of_everything(*given), expected) == []


def test_child_may_ask_for_threads(threads: Callable[[int | None], None]) -> None:
    threads(2)
    given = problem()
    expected = bits_of_everything(*given)

    def work() -> bool:
        fastbn.set_num_threads(4)
        return differing(bits_of_everything(*given), expected) == [] and fastbn.get_num_threads() == 1

    assert outcome(in_child(work)) == "right"
    assert fastbn.get_num_threads() == 2


def test_grandchild() -> None:
    given = problem()
    expected = bits_of_everything(*given)

    def work() -> bool:
        right = differing(bits_of_everything(*given), expected) == []
        return right and outcome(in_child(lambda: differing(bits_of_everything(*given), expected) == [])) == "right"

    assert outcome(in_child(work)) == "right"


def test_fork_while_other_threads_compute() -> None:
    """Whatever lock another thread holds at that moment, the child does not wait for it."""
    given = problem()
    expected = bits_of_everything(*given)
    x = given[0]
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            found = fastbn.batch_norm_train(x)
            fastbn.batch_norm_backward(x, x, mean=found.mean, invstd=found.invstd)

    workers = [threading.Thread(target=busy) for _ in range(3)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(12):
            assert outcome(in_child(lambda: differing(bits_of_everything(*given), expected) == [])) == "right"
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_fork_while_other_threads_load(tmp_path: Path) -> None:
    """Files are read by one thread at a time: the child does not wait for one that it does not have."""
    fastbn.moments(np.arange(12.0).reshape(4, 3)).save(tmp_path / "s.npz")
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            fastbn.Moments.load(tmp_path / "s.npz")

    workers = [threading.Thread(target=busy) for _ in range(3)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(12):
            assert outcome(in_child(lambda: fastbn.Moments.load(tmp_path / "s.npz").count == 4)) == "right"
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_results_survive_the_fork() -> None:
    """Memory that a result owns is the child's too, to read, write and give back."""
    x = problem()[0]
    y = fastbn.batch_norm_train(x).y
    before = y.copy()

    def work() -> bool:
        nonlocal y
        right = np.array_equal(y, before)
        y += 1
        del y
        again = fastbn.batch_norm_train(x).y
        return right and np.array_equal(again, before)

    assert outcome(in_child(work)) == "right"
    np.testing.assert_array_equal(y, before)


def _train(x: np.ndarray) -> bytes:
    signal.alarm(SECONDS)
    return fastbn.batch_norm_train(x).y.tobytes()


def test_multiprocessing_by_fork() -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    x = problem()[0]
    expected = fastbn.batch_norm_train(x).y.tobytes()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts = pool.map_async(_train, [x] * 4).get(timeout=2 * SECONDS)
    assert parts == [expected] * 4
