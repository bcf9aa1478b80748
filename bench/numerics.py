"""Prints, as Markdown, how far fastbn, NumPy and PyTorch are from exact results; the oracle shares no code with any."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import fastbn

Array: TypeAlias = NDArray[Any]

EPS = 1e-5
SHAPE = (32, 16, 28, 28)
WRONG = 0.01


@dataclass(frozen=True)
class Problem:
    """One set of inputs, in one layout; ``axis`` is that of the features."""

    x: Array
    dy: Array
    weight: Array
    bias: Array
    running_mean: Array
    running_var: Array
    axis: int

    def spread(self, values: Array) -> Array:
        """View ``(C,)`` values so that they broadcast against ``x``."""
        return values.reshape([-1 if a == self.axis else 1 for a in range(self.x.ndim)])

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes that are averaged over."""
        return tuple(a for a in range(self.x.ndim) if a != self.axis)

    def as_table(self) -> Problem:
        """Return the same values as ``(N, C)``."""
        x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, -1).reshape(-1, a.shape[1])) for a in (self.x, self.dy))
        return Problem(x, dy, self.weight, self.bias, self.running_mean, self.running_var, 1)


@dataclass(frozen=True)
class Answer:
    """What an implementation makes of a problem: training's ``var`` and ``y``, inference's ``y``, and ``dx``."""

    var: Array
    y: Array
    y_eval: Array
    dx: Array


Solver = Callable[[Problem], Answer]


def exact(p: Problem) -> Answer:
    """Return the answer in long double (64 bits of mantissa here), two passes with Chan's correction."""
    wide = np.longdouble
    x, dy, weight, bias = (a.astype(wide) for a in (p.x, p.dy, p.spread(p.weight), p.spread(p.bias)))
    n = x.size // p.weight.size

    def mean_of(values: Array) -> Array:
        total: Array = values.sum(p.reduced, keepdims=True, dtype=wide)
        return total / n

    centred = x - mean_of(x)
    centred -= mean_of(centred)
    var = mean_of(centred * centred)
    invstd = 1 / np.sqrt(var + wide(EPS))
    xhat = centred * invstd
    known = p.spread(p.running_mean).astype(wide), p.spread(p.running_var).astype(wide)
    y_eval = weight * ((x - known[0]) / np.sqrt(known[1] + wide(EPS))) + bias
    dx = weight * invstd * (dy - mean_of(dy) - xhat * mean_of(dy * xhat))
    return Answer(var.ravel(), weight * xhat + bias, y_eval, dx)


def _fastbn(p: Problem) -> Answer:
    saved = fastbn.batch_norm_train(p.x, p.weight, p.bias, eps=EPS, axis=p.axis)
    y_eval = fastbn.normalize(p.x, p.running_mean, p.running_var, p.weight, p.bias, eps=EPS, axis=p.axis)
    gradients = fastbn.batch_norm_backward(p.dy, p.x, p.weight, mean=saved.mean, invstd=saved.invstd, axis=p.axis)
    return Answer(saved.var, saved.y, y_eval, gradients.dx)


def _numpy(p: Problem) -> Answer:
    """Solve it with the lines everyone writes."""
    eps, n = p.x.dtype.type(EPS), p.x.dtype.type(p.x.size // p.weight.size)
    weight, bias = p.spread(p.weight), p.spread(p.bias)
    mean, var = p.x.mean(p.reduced, keepdims=True), p.x.var(p.reduced, keepdims=True)
    invstd = 1 / np.sqrt(var + eps)
    xhat = (p.x - mean) * invstd
    y_eval = (p.x - p.spread(p.running_mean)) / np.sqrt(p.spread(p.running_var) + eps) * weight + bias
    dbias, dweight = p.dy.sum(p.reduced, keepdims=True), (p.dy * xhat).sum(p.reduced, keepdims=True)
    dx = weight * invstd * (p.dy - dbias / n - xhat * (dweight / n))
    return Answer(var.ravel(), weight * xhat + bias, y_eval, dx)


def _pytorch(torch: Any) -> Solver:
    def solve(p: Problem) -> Answer:
        x, dy, weight, bias, mean, var = (
            torch.from_numpy(a) for a in (p.x, p.dy, p.weight, p.bias, p.running_mean, p.running_var)
        )
        y, saved_mean, invstd = torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, EPS)
        y_eval = torch.nn.functional.batch_norm(x, mean, var, weight, bias, False, 0.1, EPS)
        dx, _, _ = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, None, None, saved_mean, invstd, True, EPS, [True, True, True]
        )
        return Answer(invstd.numpy().astype(np.float64) ** -2 - EPS, y.numpy(), y_eval.numpy(), dx.numpy())

    return solve


def solvers() -> dict[str, Solver]:
    """Return what can be compared here, by name."""
    found: dict[str, Solver] = {"fastbn": _fastbn, "NumPy": _numpy}
    try:
        found["PyTorch"] = _pytorch(importlib.import_module("torch"))
    except ImportError as error:
        print(f"PyTorch left out: {error}", file=sys.stderr)
    return found


def problem(dtype: str, mean: float, std: float, seed: int = 0) -> Problem:
    """Return normal data of every channel's own mean, near ``mean``, rounded to ``dtype``."""
    rng, channels = np.random.default_rng(seed), SHAPE[1]
    means = mean * rng.uniform(0.9, 1.1, channels)
    x = (rng.standard_normal(SHAPE) * std + means[:, None, None]).astype(dtype)
    with np.errstate(over="ignore"):
        known = np.minimum(rng.uniform(0.9, 1.1, channels) * std**2, np.finfo(dtype).max / 2)
        return Problem(
            x=x,
            dy=rng.standard_normal(SHAPE).astype(dtype),
            weight=rng.uniform(0.5, 1.5, channels).astype(dtype),
            bias=rng.uniform(-1, 1, channels).astype(dtype),
            running_mean=means.astype(dtype),
            running_var=known.astype(dtype),
            axis=1,
        )


def _relative(got: Array, truth: Array) -> float:
    """Return the largest error of a value, relative to itself; 0 where both are 0."""
    with np.errstate(all="ignore"):
        wide = got.astype(np.longdouble)
        errors = np.where(wide == truth, 0, np.abs(wide - truth) / np.abs(truth))
    return _largest(errors)


def _of_scale(got: Array, truth: Array) -> float:
    """Return the largest error relative to the largest value."""
    scale = max(float(np.abs(truth).max()), np.finfo(np.float64).tiny)
    return _largest(np.abs(got.astype(np.longdouble) - truth)) / scale


def _ulps(got: Array, truth: Array, bias: Array) -> float:
    """Return the largest error in units of the last place of the larger of ``|y|`` and ``|bias|``."""
    size = np.maximum(np.abs(truth), np.abs(bias)).astype(got.dtype)
    return _largest(np.abs(got.astype(np.longdouble) - truth) / np.spacing(size))


def _largest(errors: Array) -> float:
    worst = float(errors.max())
    return worst if not math.isnan(worst) else math.inf


def _text(error: float, wrong_from: float) -> str:
    if error == 0:
        text = "0"
    elif math.isinf(error):
        text = "inf or NaN"
    elif 0.1 <= error < 1000:
        text = f"{error:.2g}" if error < 100 else f"{error:.0f}"
    else:
        digits, _, power = f"{error:.0e}".partition("e")
        text = f"{digits}e{int(power)}"
    return f"**{text}**" if error >= wrong_from else text


def _errors(p: Problem, truth: Answer, answer: Answer) -> dict[str, str]:
    ulps_wrong = WRONG / np.finfo(p.x.dtype).eps
    bias = p.spread(p.bias)
    return {
        "variance": _text(_relative(answer.var, truth.var), WRONG),
        "y, training, ulp": _text(_ulps(answer.y, truth.y, bias), ulps_wrong),
        "y, inference, ulp": _text(_ulps(answer.y_eval, truth.y_eval, bias), ulps_wrong),
        "dx, of its scale": _text(_of_scale(answer.dx, truth.dx), WRONG),
    }


def _constant(solve: Solver, p: Problem) -> str:
    """Say how far a constant channel is from variance 0 and y = bias."""
    x = np.empty_like(p.x)
    x[...] = p.spread(np.linspace(1, 1e6, p.weight.size).astype(x.dtype) / x.dtype.type(3))
    answer = solve(Problem(x, p.dy, p.weight, p.bias, p.running_mean, p.running_var, p.axis))
    off = _largest(np.abs(answer.y - p.spread(p.bias)))
    return f"{_text(abs(_largest(np.abs(answer.var))), WRONG)}; {_text(off, WRONG)}"


CASES: tuple[tuple[str, float, float], ...] = (
    *(("float32", mean, 1.0) for mean in (0.0, 100.0, 1e4, 1e6)),
    ("float32", 0.0, 1e30),
    *(("float64", mean, 1.0) for mean in (0.0, 1e4, 1e8)),
)


def _columns(found: dict[str, Solver]) -> list[tuple[str, bool, Solver]]:
    """Return title, whether the data come as a table, and the solver, of every column."""
    return [(f"{name} {'(N, C)' if flat else 'NCHW'}", flat, s) for name, s in found.items() for flat in (False, True)]


def rows(columns: list[tuple[str, bool, Solver]]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield quantity, data and one cell per column."""
    for dtype, mean, std in CASES:
        first = problem(dtype, mean, std)
        pairs = {flat: (p, exact(p)) for flat, p in ((False, first), (True, first.as_table()))}
        cells = [_errors(*pairs[flat], solve(pairs[flat][0])) for _, flat, solve in columns]
        for quantity in cells[0]:
            yield (
                quantity,
                f"{dtype}, mean {mean:g}, std {std:g}".replace("+0", "").replace("+", ""),
                [c[quantity] for c in cells],
            )
    for dtype in ("float32", "float64"):
        p = problem(dtype, 0.0, 1.0)
        layouts = {False: p, True: p.as_table()}
        cells_constant = [_constant(solve, layouts[flat]) for _, flat, solve in columns]
        yield "variance; largest abs(y - bias)", f"{dtype}, constant channels", cells_constant


def main() -> int:
    """Print the table, grouped by quantity."""
    found = solvers()
    columns = _columns(found)
    with np.errstate(all="ignore"):
        table = list(rows(columns))
    shape = " x ".join(map(str, SHAPE))
    table_rows = SHAPE[0] * SHAPE[2] * SHAPE[3]
    print(
        f"Largest error over {shape} values (in (N, C) the same values as a table of {table_rows:,} rows); "
        "**bold**: off by 1 % or more.\n"
        "Each channel has a mean of its own, between 0.9 and 1.1 times the one named. "
        "How far NumPy and PyTorch are off depends on it and\non the number of rows.\n"
    )
    print("| error of | data | " + " | ".join(title for title, _, _ in columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for quantity in dict.fromkeys(row[0] for row in table):
        for _, data, cells in (row for row in table if row[0] == quantity):
            print(f"| {quantity} | {data} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
