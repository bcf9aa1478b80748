"""Promise: a call takes no more threads than there are processors for it: affinity, container's quota, other calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastbn import _core
from support.interpreters import run_python

LARGE = 1 << 30
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="control groups and affinity are Linux's")
# Calls that would take several threads, and how many threads the process has after them.
COUNT = """
import os, numpy as np, fastbn
from fastbn import _core
{setting}
before = len(os.listdir("/proc/self/task"))
x = np.ones((64, 32, 4096), np.float32)
for _ in range(3):
    fastbn.batch_norm_train(x)
print(_core.processors(), len(os.listdir("/proc/self/task")) - before)
"""


@pytest.fixture
def seen() -> Iterator[int]:
    """Return the processors of this process, without a quota; its own quota comes back after the test."""
    _core.read_quota("/nowhere")
    yield _core.processors()
    _core.read_quota("")


def system(root: Path, groups: str, files: dict[str, str]) -> str:
    """Make what Linux shows of control groups below `root`, and return that."""
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


V2, V1 = "0::/pods/one\n", "12:pids:/pods\n5:cpu,cpuacct:/pods/one\n0::/pods/one\n"


@LINUX
@pytest.mark.parametrize(
    ("groups", "files"),
    [
        (V2, {"pods/one/cpu.max": "100000 100000\n"}),
        (V2, {"pods/one/cpu.max": "max 100000\n", "pods/cpu.max": "50000 50000\n"}),
        (V2, {"pods/one/cpu.max": "300000 100000\n", "cpu.max": "150000 100000\n"}),  # one and a half
        (V2, {"cpu.max": "20000 100000\n"}),  # the path is the one outside of the container; a fifth
        (V1, {"cpu,cpuacct/pods/one/cpu.cfs_quota_us": "99999\n", "cpu,cpuacct/pods/one/cpu.cfs_period_us": "50000\n"}),
        (V1, {"cpu/pods/cpu.cfs_quota_us": "100000\n", "cpu/pods/cpu.cfs_period_us": "100000\n"}),
        (V1, {"cpu/cpu.cfs_quota_us": "1000\n", "cpu/cpu.cfs_period_us": "100000\n"}),
    ],
)
def test_a_quota_of_one_processor(groups: str, files: dict[str, str], seen: int, tmp_path: Path) -> None:
    _core.read_quota(system(tmp_path, groups, files))
    assert _core.processors() == 1
    assert _core.team_size(LARGE) == 1


@LINUX
@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("", {}),
        ("no line of a control group\n", {"cpu.max": "100000 100000\n"}),
        (V2, {"pods/one/cpu.max": "max 100000\n", "cpu.max": "max 100000\n"}),
        (V2, {"pods/one/cpu.max": "", "pods/cpu.max": "something else\n", "cpu.max": "1 0\n"}),
        (V2, {"elsewhere/cpu.max": "100000 100000\n"}),
        (V1, {"cpu/pods/one/cpu.cfs_quota_us": "-1\n", "cpu/pods/one/cpu.cfs_period_us": "100000\n"}),
        (V1, {"pids/pods/cpu.cfs_quota_us": "100000\n", "pids/pods/cpu.cfs_period_us": "100000\n"}),
        (V2, {"cpu.max": f"{1 << 60} 100000\n"}),
    ],
)
def test_no_quota(groups: str, files: dict[str, str], seen: int, tmp_path: Path) -> None:
    _core.read_quota(system(tmp_path, groups, files))
    assert _core.processors() == seen


@LINUX
def test_a_quota_larger_than_one(seen: int, tmp_path: Path) -> None:
    _core.read_quota(system(tmp_path, V2, {"pods/one/cpu.max": "299999 100000\n"}))
    assert _core.processors() == min(seen, 2)


@LINUX
def test_no_thread_is_started_beyond_the_quota(tmp_path: Path) -> None:
    root = system(tmp_path, V2, {"cpu.max": "100000 100000\n"})
    done = run_python(COUNT.format(setting=f"_core.read_quota({root!r})"), OMP_NUM_THREADS="4")
    assert done.stdout.split() == ["1", "0"], done.stderr


@LINUX
def test_no_thread_is_started_beyond_the_affinity() -> None:
    """Asked at every call: the one processor is chosen after fastbn is imported."""
    setting = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    done = run_python(COUNT.format(setting=setting), OMP_NUM_THREADS="4")
    assert done.stdout.split() == ["1", "0"], done.stderr


@LINUX
def test_threads_are_started_where_there_are_processors() -> None:
    """The measuring device of the tests above; where fastbn is asked for more than there are, it takes those."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor here")
    done = run_python(COUNT.format(setting="_core.read_quota('/nowhere')"), OMP_NUM_THREADS="64")
    found, started = map(int, done.stdout.split())
    assert 1 <= started < found, done.stderr


def test_threadpoolctl_bounds_the_team() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(1):
        assert _core.team_size(LARGE) == 1
