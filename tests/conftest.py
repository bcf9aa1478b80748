"""Fixtures every test file may ask for (instruction set, threads, random numbers); how coverage and hypothesis run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import fastbn
import fastbn._core
from support.isas import using_isa


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Run what is marked `untraced` without the tracer of coverage, which would take a third of the time."""
    tracer = sys.gettrace()
    coverage = type(tracer).__module__.startswith("coverage")  # a debugger traces too
    if coverage and item.get_closest_marker("untraced"):
        sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


# Programs, which hold no tests: the search for doctests would import them.
collect_ignore = ["fuzz/calls.py", "fuzz/files.py", "samples/make.py"]

# How long an example takes says something of the machine, which may be busy or emulated.
settings.register_profile(
    "fastbn", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150, print_blob=True
)
settings.load_profile("fastbn")


@pytest.fixture(params=fastbn._core.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on every instruction set this machine has."""
    with using_isa(request.param):
        yield request.param


@pytest.fixture
def threads() -> Iterator[Callable[[int | None], None]]:
    """Return `set_num_threads`; until the test ends, so many threads do run, whatever processors there are."""
    fastbn._core.set_full_teams(True)
    yield fastbn.set_num_threads
    fastbn.set_num_threads(None)
    fastbn._core.set_full_teams(False)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return the same random numbers for every test."""
    return np.random.default_rng(20150211)
