"""Promise: MPI ranks of any size, empty ones too, see the same statistics to the bit, or all the same error."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpi4py
import numpy as np
import pytest

import fastbn.mpi
from fastbn import Moments
from support import oracle
from support.assertions import assert_count, assert_mean_and_var, assert_statistics
from support.interpreters import run_python, run_ranks
from support.tolerances import VAR_RTOL

Array = np.ndarray[Any, np.dtype[Any]]

# What rank r has of the data: rows bounds[r] to bounds[r + 1].
BOUNDS = {
    "unequal": (0, 1, 60, 200),
    "first empty": (0, 0, 150, 200),
    "middle empty": (0, 3, 3, 200),
    "last empty": (0, 199, 200, 200),
    "one has all": (0, 0, 200, 200),
}

# Runs on every rank; rank 0 prints what all of them found. {case: [one result per rank]}
PROGRAM = """
import json, sys
from mpi4py import MPI
import numpy as np
from fastbn import Moments
import fastbn.mpi

sys.path[:0] = [FOLDER]
from test_mpi import BOUNDS, data, features, shown

world = MPI.COMM_WORLD
rank, found = world.rank, {}

def attempt(case, moments, comm=None):
    before = moments.to_bytes() if type(moments) is Moments else None
    try:
        result = shown(fastbn.mpi.allreduce(moments, comm))
    except Exception as error:
        result = [type(error).__name__, str(error)]
    assert before is None or moments.to_bytes() == before
    found[case] = world.gather(result)

class Unsent(Moments):
    def __reduce__(self):
        raise RuntimeError("of which nothing can be sent")

class Broken(Moments):
    def __init__(self):
        pass

x, options = data()
for case, bounds in BOUNDS.items():
    rows = slice(*bounds[rank : rank + 2])
    attempt(case, Moments().update(x[rows]))
    attempt(case + ", nothing seen", Moments() if bounds[rank] == bounds[rank + 1] else Moments().update(x[rows]))
rows = slice(*BOUNDS["unequal"][rank : rank + 2])
part = {name: value[rows] for name, value in options.items()}
attempt("weighted", Moments(nan="omit", extremes=True).update(x[rows], **part), world)
attempt("nothing at all", Moments())
attempt("other features", Moments().update(features(rank + 3)))
attempt("two of three", Moments().update(features(3 + rank // 2)) if rank else Moments())
attempt("no moments", [None, Moments(), 1.5][rank])
attempt("no subclass", Moments(nan="omit").update(x[rows]))
attempt("a subclass", (Unsent if rank == 1 else Moments)(nan="omit").update(x[rows]))
attempt("a broken subclass", Broken() if rank == 2 else Moments().update(x[rows]))
attempt("too many", Moments(1e308, [1.0], [2.0]))
attempt("a part of the ranks", Moments().update(x[rows]), world.Split(rank == 1))
attempt("unequal, again", Moments().update(x[rows]))
if rank == 0:
    print(json.dumps(found))
"""


def data() -> tuple[Array, dict[str, Array]]:
    rng = np.random.default_rng(0)
    x = rng.normal(1e6, 1.0, (200, 5)).astype(np.float32)
    return x, {"where": rng.random((200, 5)) < 0.8, "weights": rng.random((200, 1))}


def features(n: int) -> Array:
    return np.arange(4.0 * n).reshape(4, n)


def shown(moments: Moments) -> dict[str, Any]:
    """Return what can be printed, every float64 in all its bits."""
    return {
        "options": [moments.nan, moments.extremes],
        "count": np.asarray(moments.count).tolist(),
        **{
            name: [float(value).hex() for value in array.ravel()]
            for name, array in moments.to_dict().items()
            if isinstance(array, np.ndarray) and name != "count"
        },
    }


def numbers(hexes: list[str]) -> Array:
    return np.array([float.fromhex(value) for value in hexes])


@pytest.fixture(scope="module", params=["tree", "gathered"])
def found(request: pytest.FixtureRequest) -> dict[str, list[Any]]:
    """Run the program on three ranks, with each of the two ways in which mpi4py can reduce objects."""
    program = PROGRAM.replace("FOLDER", repr(str(Path(__file__).parent)))
    result = json.loads(run_ranks(program, MPI4PY_RC_FAST_REDUCE="1" if request.param == "tree" else "0"))
    assert isinstance(result, dict)
    return result


def test_all_ranks_see_the_same_bits(found: dict[str, list[Any]]) -> None:
    for case, results in found.items():
        assert len(results) == 3
        if case != "a part of the ranks":
            assert results[0] == results[1] == results[2], case


@pytest.mark.parametrize("nothing", ["", ", nothing seen"], ids=["zero rows", "nothing seen"])
@pytest.mark.parametrize("case", BOUNDS)
def test_the_whole_is_what_the_ranks_have_seen(found: dict[str, list[Any]], case: str, nothing: str) -> None:
    got, x = found[case + nothing][0], data()[0]
    assert got["count"] == len(x)
    assert_statistics(x, numbers(got["mean"]), numbers(got["m2"]) / len(x), 1)


def test_counts_that_differ_and_extremes(found: dict[str, list[Any]]) -> None:
    got, (x, options) = found["weighted"][0], data()
    expected = oracle.moments(x, p=options["where"] * options["weights"])
    mean, m2, count = numbers(got["mean"]), numbers(got["m2"]), np.array(got["count"])
    assert_count(count, expected.count)
    of_x = expected.m2 / expected.count
    assert_mean_and_var(mean, m2 / count, expected.mean, of_x, VAR_RTOL[x.dtype])
    kept = np.where(options["where"], x.astype(np.float64), np.nan)
    np.testing.assert_array_equal(numbers(got["min"]), np.nanmin(kept, axis=0))
    np.testing.assert_array_equal(numbers(got["max"]), np.nanmax(kept, axis=0))
    assert got["options"] == ["omit", True]


def test_ranks_that_have_seen_nothing_see_nothing(found: dict[str, list[Any]]) -> None:
    assert found["nothing at all"][0] == {"options": ["propagate", False], "count": 0}


def test_what_one_rank_gets_wrong_all_ranks_hear_of(found: dict[str, list[Any]]) -> None:
    rule = "moments must have the same features on every rank, got shapes"
    assert found["other features"] == [["ValueError", f"{rule} (3,) and (4,)"]] * 3
    assert found["two of three"] == [["ValueError", f"{rule} (3,) and (4,)"]] * 3
    assert found["no moments"] == [["TypeError", "moments must be fastbn.Moments, got NoneType on rank 0"]] * 3
    broken = "moments must be whole fastbn.Moments, got Broken on rank 2, which raises AttributeError"
    assert found["a broken subclass"] == [["TypeError", broken]] * 3
    assert found["too many"] == [["ValueError", "moments must merge: count must be finite and >= 0, got inf"]] * 3
    assert found["unequal, again"] == found["unequal"]  # nothing of it is left in the way


def test_what_a_subclass_holds_does_not_travel(found: dict[str, list[Any]]) -> None:
    assert found["no subclass"][0]["count"] == 200
    assert found["a subclass"] == found["no subclass"]


def test_a_communicator_of_some_ranks(found: dict[str, list[Any]]) -> None:
    results = found["a part of the ranks"]
    assert [result["count"] for result in results] == [141, 59, 141]
    assert results[0] == results[2]


# In this process, without MPI.


class Ranks:
    """A communicator as rank 0 sees it: merges with what the other ranks would have given."""

    def __init__(self, *others: Any) -> None:
        self.others = others

    def Get_rank(self) -> int:  # noqa: N802  # mpi4py's name
        return 0

    def allreduce(self, mine: Any, op: Callable[[Any, Any], Any]) -> Any:
        return functools.reduce(op, self.others, mine)


def test_merges_in_order_and_leaves_its_argument_alone() -> None:
    parts = [Moments().update(x) for x in np.split(data()[0], [7, 7, 90])]
    before = parts[0].to_bytes()
    assert fastbn.mpi.allreduce(parts[0], Ranks(*parts[1:])) == sum(parts, start=Moments())
    assert parts[0].to_bytes() == before


def test_the_first_refusal_is_the_one_that_is_raised() -> None:
    three, four = Moments().update(features(3)), Moments().update(features(4))
    with pytest.raises(ValueError, match=r"got shapes \(3,\) and \(4,\)$"):
        fastbn.mpi.allreduce(three, Ranks(four, three, four))
    with pytest.raises(TypeError, match=r"moments must be fastbn\.Moments, got float on rank 0"):
        fastbn.mpi.allreduce(1.5, Ranks(three, four))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"whole fastbn\.Moments, got Moments on rank 0, which raises Attribute"):
        fastbn.mpi.allreduce(Moments.__new__(Moments), Ranks(three))
    many = Moments(1e308, [1.0], [2.0])
    with pytest.raises(ValueError, match=r"moments must merge: count must be finite and >= 0, got inf"):
        fastbn.mpi.allreduce(many, Ranks(many, three))


def test_all_ranks_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    three = Moments().update(features(3))
    fake = types.SimpleNamespace(COMM_WORLD=Ranks(three))
    monkeypatch.setattr(mpi4py, "MPI", fake, raising=False)
    assert fastbn.mpi.allreduce(three).count == 8


def test_importing_does_not_start_mpi() -> None:
    done = run_python("import sys, fastbn.mpi; print('mpi4py.MPI' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr


def test_without_mpi4py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    spec = importlib.util.find_spec("fastbn.mpi")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r'fastbn\.mpi needs mpi4py: pip install "fastbn\[mpi\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
