"""pytest-benchmark tests of fastbn alone, for the developer's loop: a few shapes, every operation."""

from __future__ import annotations

from typing import Any

import pytest

import reference
from cases import CASES, OPS, Case, Op, Output
from data import Data, make_data
from variants import Variant

pytest.importorskip("pytest_benchmark")
fastbn_ = pytest.importorskip("peers.fastbn_")

NAMES = (
    "nchw-32x256x28x28",
    "nchw-32x2048x7x7",
    "nhwc-32x28x28x256",
    "table-8192x512",
    "small-32x64",
    "awkward-transposed",
    "awkward-sliced",
)
CHOSEN = [case for case in CASES if case.name in NAMES]


@pytest.fixture(scope="module", params=CHOSEN, ids=lambda case: case.name)
def data(request: pytest.FixtureRequest) -> Data:
    """Return the inputs of one case, made once for all its operations."""
    case: Case = request.param
    return make_data(case, Variant())


@pytest.mark.parametrize("output", ["given", "fresh"])
@pytest.mark.parametrize("op", OPS)
def test_speed(benchmark: Any, data: Data, op: Op, output: Output) -> None:
    """Time one call, then check what it returned."""
    if op == "moments" and output == "given":
        pytest.skip("moments writes no array")
    benchmark.group = f"{data.case.name} {op}"
    contestant = fastbn_.Fastbn(2).prepare(op, output, data)
    result = benchmark(contestant.call)
    want = reference.expected(op, data, *reference.statistics(data))
    assert reference.mismatch(contestant.arrays(result), want, data) is None
