"""Promise: what other processes and other parallel regions do changes no result, and no call waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastbn
from fastbn import _core
from support.bits import bits_of_everything, differing
from support.interpreters import run_python
from support.layouts import LARGE
from support.random_arrays import parameters

pytestmark = pytest.mark.untraced


@pytest.fixture
def busy() -> Iterator[None]:
    """Let as many processes compute as there are processors."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(_core.processors())]
    yield
    for other in others:
        other.kill()
        other.wait()


def problem(number: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(61)
    layout = LARGE[number]
    x = layout.fill(rng, np.float32, 2, 3)
    return (x, layout.fill(rng, np.float32), *parameters(rng, layout.features), layout.axis)


def test_same_bits_beside_busy_processes(busy: None) -> None:
    """Calls go on taking more and fewer threads, as they learn; one thread says what is right."""
    given = problem(0)
    fastbn.set_num_threads(1)
    one = bits_of_everything(*given)
    fastbn.set_num_threads(None)
    for _ in range(20):
        assert differing(bits_of_everything(*given), one) == []


def test_eight_python_threads_beside_busy_processes(busy: None) -> None:
    given = [problem(i) for i in range(4)]
    expected = [bits_of_everything(*one) for one in given]

    def work(start: int) -> list[str]:
        turns = [(start + turn) % 4 for turn in range(8)]
        return [name for i in turns for name in differing(bits_of_everything(*given[i]), expected[i])]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[]] * 8


@pytest.mark.parametrize("policy", ["active", "passive"])
@pytest.mark.parametrize("dynamic", ["false", "true"])
def test_settings_of_openmp(policy: str, dynamic: str) -> None:
    """How OpenMP's threads wait, and that it may grant fewer than it is asked for, changes no bit."""
    program = """
import hashlib, numpy as np, fastbn
from fastbn import _core
x = np.random.default_rng(67).standard_normal((64, 32, 1024), dtype=np.float32)
_core.set_full_teams(True)
print(*(hashlib.sha256(fastbn.batch_norm_train(x).y).hexdigest() for _ in range(5)))
"""
    environment = {"OMP_WAIT_POLICY": policy, "OMP_DYNAMIC": dynamic}
    found = [run_python(program, OMP_NUM_THREADS=str(n), **environment).stdout.split() for n in (1, 4)]
    assert len(found[0]) == 5
    assert set(found[0]) == set(found[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_takes_one_thread() -> None:
    program = """
import os, numpy as np, fastbn
from fastbn import _core
fastbn.moments(np.ones((65536, 64), np.float32))
child = os.fork()
if child == 0:
    os._exit(_core.team_size(1 << 30))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = run_python(program, OMP_NUM_THREADS="4")
    assert done.stdout.split() == ["1"], done.stderr
