"""Random calls of the engine, for as long as is asked: the same bits everywhere, and the oracle's numbers.

    PYTHONPATH=tests:bench python tests/fuzz/calls.py --minutes 10 --seed 1

Each call of `bench/random_calls.py` is made with the generic kernels on one thread, and again on every other
instruction set and with two threads: results, or the error, must be the same to the bit. Where data and parameters are
such that the oracle's tolerances hold, what the first of them returned is compared with long double. `make fuzz` runs
it under the sanitizers. A finding is printed with the seed and number that make it again:
--seed S --first N --calls 1. Two machines that give the same bits write the same --digests.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import fastbn
import fastbn._core
from random_calls import RandomCall, Results
from support import oracle
from support.assertions import assert_gradients, assert_mean_and_var, assert_normalized, assert_train, off_the_kink
from support.bits import bits
from support.isas import using_isa
from support.oracle import Array
from support.tolerances import VAR_RTOL

# Of fewer values the spread may by chance be far below the mean's rounding.
FEW = 8


class Checked:
    """fastbn, for the operations that the oracle knows: what they return is compared with it."""

    BatchNorm, Moments, batch_norm = fastbn.BatchNorm, fastbn.Moments, staticmethod(fastbn.batch_norm)

    def __init__(self) -> None:
        self.compared = 0

    def moments(self, x: Array, **options: Any) -> Any:
        """Measure x."""
        found = fastbn.moments(x, **options)
        wanted = oracle.moments(x, options["axis"], p=_weights(x, options))
        if _usual(found.count) and x.dtype in VAR_RTOL:
            assert_mean_and_var(found.mean, found.var(), wanted.mean, wanted.m2 / wanted.count, VAR_RTOL[x.dtype])
            self.compared += 1
        return found

    def batch_norm_train(self, x: Array, weight: Any, bias: Any, *, eps: float, **options: Any) -> Any:
        """Normalize x by its own statistics."""
        axis, out, dtype = options["axis"], options.pop("out"), options.get("dtype")
        kept = x.copy()
        residual = _copy(options.get("residual"))
        result = fastbn.batch_norm_train(x, weight, bias, eps=eps, out=out, **options)
        if _usual(result.count) and kept.dtype in VAR_RTOL and _moderate(weight, bias) and eps and out is None:
            fused = _fused(options) | {"residual": residual}
            assert_train(kept, result, weight, bias, eps, axis, dtype=dtype, p=_weights(kept, options), **fused)
            self.compared += 1
        return result

    def normalize(self, x: Array, mean: Any, var: Any, weight: Any, bias: Any, **options: Any) -> Any:
        """Normalize x by statistics that are given."""
        kept, residual = x.copy(), _copy(options.get("residual"))
        y = fastbn.normalize(x, mean, var, weight, bias, **options)
        if _moderate(mean, var, weight, bias) and options["out"] is None and options["eps"]:
            fused = _fused(options) | {"residual": residual}
            assert_normalized(kept, y, mean, var, weight, bias, options["eps"], options["axis"], **fused)
            self.compared += 1
        return y

    def batch_norm_backward(self, dy: Array, x: Array, weight: Any, bias: Any, **options: Any) -> Any:
        """Return gradients."""
        saved = {name: options[name] for name in ("mean", "invstd", "axis")}
        residual = options.get("residual")
        gradients = fastbn.batch_norm_backward(dy, x, weight, bias, **options)
        usual = _moderate(weight, bias, saved["mean"], saved["invstd"]) and "out" not in options
        if usual and _usual(x.size // max(1, np.size(saved["mean"]))):
            compared = gradients
            if options.get("activation") is not None:
                dy = off_the_kink(dy, x, weight, bias, residual=residual, **saved)
                compared = fastbn.batch_norm_backward(dy, x, weight, bias, **options)
            more = _fused(options) | {"residual": residual, "training": options["training"]}
            assert_gradients(compared, dy, x, weight, bias, p=_weights(x, options), **saved, **more)
            self.compared += 1
        return gradients


def _weights(x: Array, options: dict[str, Any]) -> Array | None:
    chosen = {name: options[name] for name in ("where", "weights") if options.get(name) is not None}
    return oracle.element_weights(x.shape, **chosen) if chosen else None


def _fused(options: dict[str, Any]) -> dict[str, Any]:
    return {"activation": options.get("activation"), "slope": options.get("negative_slope", 0.01)}


def _copy(array: Array | None) -> Array | None:
    return None if array is None else array.copy()


def _usual(count: Any) -> bool:
    """Whether every feature has values enough for the tolerances, which the weights' sum may be of."""
    return bool(np.size(count) and np.min(count) >= FEW)


def _moderate(*arrays: Any) -> bool:
    """Whether parameters are numbers near 1, or 0, so that no product leaves the types."""
    given = [np.abs(np.asarray(array, np.float64)) for array in arrays if array is not None]
    return all(bool(((array == 0) | ((array > 1e-10) & (array < 1e10))).all()) for array in given)


def answer(call: RandomCall, isa: str, threads: int, library: Any = fastbn) -> Results | str:
    """Return what a call gives there, or the error that it raises."""
    fastbn.set_num_threads(threads)
    try:
        with using_isa(isa), np.errstate(all="ignore"):
            return call.run(library)
    except AssertionError:
        raise
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def differing(one: Results | str, other: Results | str) -> list[str]:
    """Return the names of the results that differ; of an error, both."""
    if isinstance(one, str) or isinstance(other, str):
        said = [each if isinstance(each, str) else "no error" for each in (one, other)]
        return [] if said[0] == said[1] else said
    return [name for name in one.keys() | other.keys() if bits(one[name]) != bits(other[name])]


def digest(found: Results | str) -> str:
    """Return a few digits that say what a call gave."""
    held = [found.encode()] if isinstance(found, str) else [bits(array) for array in found.values()]
    return hashlib.sha256(b"".join(held)).hexdigest()[:16]


def check(call: RandomCall, checked: Checked) -> Results | str:
    """Assert all that is promised of one call, and return what it gave."""
    ordinary = call.kind.data not in ("huge or tiny", "NaN or infinity")
    first = answer(call, "generic", 1, checked if ordinary else fastbn)
    for isa in fastbn._core.isas():
        for threads in (1, 2):
            if (isa, threads) != ("generic", 1):
                found = differing(first, answer(call, isa, threads))
                assert not found, f"{isa}, {threads} thread(s): {found}"
    return first


def main() -> int:
    """Make calls until the time is over, and return how many had findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first", type=int, default=0, help="the number of the first call")
    parser.add_argument("--calls", type=int, default=sys.maxsize, help="the most calls to make")
    parser.add_argument("--digests", type=Path, help="where a line for each call goes, with a digest of what it gave")
    options = parser.parse_args()
    end, kinds, findings, checked = time.monotonic() + 60 * options.minutes, Counter[str](), 0, Checked()
    digests = None if options.digests is None else options.digests.open("w", encoding="utf-8")
    for number in range(options.first, options.first + options.calls):
        if time.monotonic() > end:
            break
        call = RandomCall(options.seed, number, ("generic",), (1,))
        kinds[call.kind.op] += 1
        print(f"\r{number}", end="", file=sys.stderr, flush=True)  # the sanitizers end the process: this was the call
        try:
            found = check(call, checked)
            if digests is not None:
                print(digest(found), number, call.text, file=digests, flush=True)
        except Exception:
            findings += 1
            print(f"\nseed {options.seed}, call {number}: {call.text}\n{traceback.format_exc(limit=-3)}", flush=True)
    done = sum(kinds.values())
    places = 2 * len(fastbn._core.isas())
    print(
        f"\nseed {options.seed}: {done} calls in {places} places each, {checked.compared} compared with the oracle, ",
        end="",
    )
    print(f"{findings} with findings; {dict(kinds.most_common())}")
    return findings


if __name__ == "__main__":
    sys.exit(min(main(), 1))
