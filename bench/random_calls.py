"""Random calls of fastbn: shapes, axes, memory layouts, types, masks, weights, activations, magnitudes, options.

A call is known by its seed and its number alone, and makes its arguments anew whenever it is made: the same ones, to
the bit, on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from data import Array

OPS = (
    "batch_norm, training",
    "batch_norm, inference",
    "batch_norm_train",
    "batch_norm_backward",
    "batch_norm_backward, frozen",
    "normalize",
    "moments",
    "Moments",
    "BatchNorm",
)
# The operations that masks and weights are arguments of and of influence on.
_WITH_STATISTICS = tuple(op for op in OPS if op not in ("batch_norm, inference", "normalize"))

DATA = ("ordinary", "far from zero", "huge or tiny", "constant channels", "NaN or infinity")

_FLOATS = ("float32", "float64", "float16", "bfloat16")
_INTEGERS = ("uint8", "int8", "uint16", "int16", "int32", "bool")
_LARGE = 1 << 19  # elements: enough for several chunks and threads
_INNER_FOLDED = 16  # channels-first arrays whose inner size is below this take loops of their own

Results = dict[str, Array]


# Of NumPy's own numbers the last bits depend on the machine, where a compiler fuses a product and a sum or a library
# has another logarithm.


def _uniform(rng: np.random.Generator, low: float, high: float, shape: Sequence[int]) -> Array:
    return low + (high - low) * rng.random(shape)


def _normal(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """Return normal numbers, rounded to multiples of 2^-32."""
    return np.rint(rng.standard_normal(shape) * 2.0**32) / 2.0**32


def _powers_of_ten(exponents: Array) -> Array:
    """Return numbers near the powers: between two powers of two, along the straight line."""
    binary = exponents * math.log2(10)
    whole = np.floor(binary)
    return np.ldexp(1 + (binary - whole), whole.astype(np.int64))


@dataclass(frozen=True)
class Kind:
    """What a call belongs to in tables."""

    op: str
    weighted: bool
    inner_folded: bool
    data: str

    @property
    def path(self) -> str:
        """Which statistics it takes, and whether its arrays are of the layout with loops of its own."""
        return f"{'weighted' if self.weighted else 'plain'}{', inner-folded' if self.inner_folded else ''}"


class RandomCall:
    """One call; the same seed and number give the same one.

    Parameters
    ----------
    seed, number : int
        Which call this is.
    isas : sequence of str
        The instruction sets to choose from.
    threads : sequence of int
        The numbers of threads to choose from.
    """

    def __init__(self, seed: int, number: int, isas: Sequence[str], threads: Sequence[int]) -> None:
        self.number, self._seed = number, (seed, number)
        made = _Arguments(self._seed)
        self.kind, self.text = made.kind, made.text
        rng = np.random.default_rng((seed, number, 1))
        self.isa, self.threads = str(rng.choice(isas)), int(rng.choice(threads))

    def run(self, library: Any) -> Results:
        """Make the call, and return all that it returned or wrote, by name; raises what it raises."""
        return _Arguments(self._seed).call(library)


class _Arguments:
    """The arguments of one call."""

    def __init__(self, seed: tuple[int, int]) -> None:
        rng = self._rng = np.random.default_rng(seed)
        self._op = str(rng.choice(OPS))
        self._shape, self._axis = self._random_shape()
        self._kept = [a % len(self._shape) for a in np.atleast_1d(self._axis)]
        self._features = tuple(self._shape[a] for a in sorted(self._kept))
        dtype = str(rng.choice(_FLOATS) if rng.random() < 0.8 else rng.choice(_INTEGERS))
        self._y_dtype = dtype if dtype in _FLOATS else "float64" if dtype == "int64" else "float32"
        self._data = str(rng.choice(DATA, p=(0.5, 0.2, 0.1, 0.1, 0.1))) if dtype in _FLOATS else DATA[0]
        self._layout = ""
        self._x = self._laid_out(self._values(dtype))
        self._options = self._random_options()
        self.kind = Kind(self._op, self._weighted, self._inner_folded, self._data)

    def _random_shape(self) -> tuple[tuple[int, ...], Any]:
        rng = self._rng
        largest = _LARGE if rng.random() < 0.1 else 1 << 14
        channels = int(rng.choice([1, 2, 3, 5, 8, 16, 17, 31, 32, 64, 100, 251]))
        kind = rng.choice(
            ["inner-folded", "channels-first", "channels-last", "table", "axes"], p=(0.2, 0.3, 0.2, 0.2, 0.1)
        )
        if kind == "inner-folded":
            inner = [(2,), (3,), (4,), (5,), (7,), (2, 2), (3, 3), (2, 4), (13,), (15,), (1, 1), (3, 5)][
                rng.integers(12)
            ]
            middle: tuple[int, ...] = (channels, *inner)
        elif kind == "channels-first":
            inner = [(16,), (17,), (4, 5), (7, 7), (10, 10), (14, 14), (3, 5, 7), (64,), (100,), (255,)][
                rng.integers(10)
            ]
            middle = (channels, *inner)
        elif kind == "channels-last":
            middle = (*[(3,), (4, 5), (7, 7), (2, 3, 4)][rng.integers(4)], channels)
        elif kind == "table":
            middle = (channels,)
        else:
            shape = tuple(int(n) for n in rng.integers(1, 9, rng.integers(3, 5)))
            axes = rng.permutation(len(shape))[: rng.integers(1, len(shape))]
            signed = tuple(int(a) - (len(shape) if rng.random() < 0.3 else 0) for a in axes)
            return (int(rng.integers(1, 40)), *shape[1:]), signed if rng.random() < 0.7 else signed[0]
        most = max(2, largest // math.prod(middle))
        samples = int(rng.integers(1, most + 1)) if rng.random() < 0.5 else int(most ** rng.random()) + 1
        return (samples, *middle), -1 if kind == "channels-last" else 1

    @property
    def _inner_folded(self) -> bool:
        """Whether x is a channels-first array of few elements between one channel and the next."""
        after = self._shape[max(self._kept) + 1 :]
        return 1 < math.prod(after) < _INNER_FOLDED

    @property
    def _weighted(self) -> bool:
        return "where" in self._options or "weights" in self._options

    def _per_channel(self, values: Array) -> Array:
        """View an array of the feature shape so that it broadcasts against x."""
        return values.reshape([n if a in self._kept else 1 for a, n in enumerate(self._shape)])

    def _values(self, dtype: str) -> Array:
        """Return x in float64, within what its type holds."""
        rng = self._rng
        if dtype in _INTEGERS:
            low, high = (0, 2) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            x: Array = rng.integers(low, high, self._shape).astype(dtype)
            return x
        x = _normal(rng, self._shape)
        x *= self._per_channel(_uniform(rng, 0.5, 1.5, self._features))
        x += self._per_channel(_uniform(rng, -1, 1, self._features))
        limit = float(ml_dtypes.finfo(dtype).max) / 8
        if self._data == "far from zero":
            distance = _powers_of_ten(_uniform(rng, 1, 8, self._features))
            x += self._per_channel(rng.choice([-1, 1], self._features) * distance)
        elif self._data == "huge or tiny":
            most = math.log10(limit) * (1 if rng.random() < 0.5 else 0.3)
            x *= self._per_channel(_powers_of_ten(_uniform(rng, -most, most, self._features)))
        elif self._data == "constant channels":
            value = rng.choice([0.0, 1.5, 1e5, 1 / 3], self._features)
            x = np.where(self._per_channel(rng.random(self._features) < 0.5), self._per_channel(value), x)
        elif self._data == "NaN or infinity":
            x[rng.random(self._shape) < 10 ** rng.uniform(-4, -1)] = rng.choice([np.nan, np.inf, -np.inf])
        finite = np.isfinite(x)
        x[finite] = np.clip(x[finite], -limit, limit)
        return x.astype(dtype)

    def _laid_out(self, values: Array, simple: bool = False) -> Array:
        """Put values into memory in one of many ways, an ordinary one half the time."""
        rng, ndim = self._rng, values.ndim
        how = (
            "C" if simple or rng.random() < 0.5 else str(rng.choice(["F", "permuted", "sliced", "reversed", "offset"]))
        )
        if how == "F":
            x = np.empty(values.shape, values.dtype, order="F")
        elif how == "permuted":
            order = rng.permutation(ndim)
            x = np.empty([values.shape[a] for a in order], values.dtype).transpose(np.argsort(order))
        elif how == "sliced":
            axis, step = int(rng.integers(ndim)), int(rng.integers(2, 4))
            base = np.zeros([n * step if a == axis else n for a, n in enumerate(values.shape)], values.dtype)
            x = base[(slice(None),) * axis + (slice(None, None, step),)]
        elif how == "reversed":
            axis = int(rng.integers(ndim))
            x = np.empty_like(values)[(slice(None),) * axis + (slice(None, None, -1),)]
        else:
            # By bytes: one element past the usual place, and once in a while where no element may begin.
            start = 0 if how == "C" else 1 if rng.random() < 0.3 else values.itemsize
            raw = np.empty(values.nbytes + 64, np.uint8)
            x = raw[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
        x[...] = values
        self._layout = self._layout or how
        return x

    def _features_array(self, low: float, high: float) -> Array:
        """Return values for every channel, once in a while with some that are 0, very large or small, or not finite."""
        rng = self._rng
        values = _uniform(rng, low, high, self._features)
        if rng.random() < 0.1:
            unusual = rng.choice([0.0, 1e30, 1e-30, 1e38, 1e-38, np.inf, np.nan], self._features)
            values = np.where(rng.random(self._features) < 0.2, unusual, values)
        return values.astype(rng.choice(["float32", "float64"]))

    def _random_options(self) -> dict[str, Any]:
        """Return the keyword arguments that most operations share, and what the others pick from."""
        rng = self._rng
        options: dict[str, Any] = {}
        if self._op in _WITH_STATISTICS:
            kind = rng.choice(["none", "where", "weights", "both"], p=(0.5, 0.2, 0.2, 0.1))
            if kind in ("where", "both"):
                options["where"] = self._random_mask()
            if kind in ("weights", "both"):
                options["weights"] = self._random_weights()
        if self._op not in ("moments", "Moments"):
            activation = rng.choice(["none", "relu", "leaky_relu"], p=(0.5, 0.3, 0.2))
            if activation != "none":
                options["activation"] = str(activation)
            if activation == "leaky_relu":
                options["negative_slope"] = float(rng.choice([0.01, 0.0, 0.25, -0.5]))
            if rng.random() < 0.25:
                values = _normal(rng, self._shape).astype(self._y_dtype)
                options["residual"] = self._laid_out(values)
        return options

    def _broadcastable(self) -> tuple[int, ...]:
        """Return x's shape with 1 on some axes: samples alone, all of it, or any of them."""
        kind, ndim = self._rng.integers(3), len(self._shape)
        if kind == 0:
            return (self._shape[0], *[1] * (ndim - 1))
        return self._shape if kind == 1 else tuple(n if self._rng.random() < 0.5 else 1 for n in self._shape)

    def _random_mask(self) -> Array:
        share = self._rng.choice([0.75, 0.5, 0.1, 0.999, 0.0, 1.0], p=(0.4, 0.2, 0.15, 0.15, 0.05, 0.05))
        mask: Array = self._rng.random(self._broadcastable()) < share
        return self._laid_out(mask)

    def _random_weights(self) -> Array:
        shape, rng = self._broadcastable(), self._rng
        weights: Array = _uniform(rng, 0.5, 1.5, shape)
        kind = rng.choice(["about 1", "some 0", "whole", "wide", "equal"], p=(0.4, 0.2, 0.2, 0.1, 0.1))
        if kind == "some 0":
            weights[rng.random(shape) < 0.3] = 0
        elif kind == "whole":
            weights = rng.integers(0, 5, shape)
        elif kind == "wide":
            weights = _powers_of_ten(_uniform(rng, -6, 6, shape))
        elif kind == "equal":
            weights[...] = 2.5
        return self._laid_out(weights.astype(rng.choice(["float32", "float64"])))

    @property
    def text(self) -> str:
        """The call in words, to be read beside a difference."""
        options = [
            f"{n} {v.shape} {v.dtype}" if isinstance(v, np.ndarray) else f"{n}={v}" for n, v in self._options.items()
        ]
        x = f"x {self._shape} {self._x.dtype} ({self._layout}, {self._data})"
        return ", ".join([self._op, x, f"axis={self._axis}", *options])

    def call(self, library: Any) -> Results:
        """Make the call; what it draws now comes from the same stream for every library."""
        if self._op in ("moments", "Moments"):
            return self._moments(library)
        if self._op == "BatchNorm":
            return self._layer(library)
        if self._op.startswith("batch_norm_backward"):
            return self._backward(library)
        return self._forward(library)

    def _random_affine(self) -> tuple[Array | None, Array | None]:
        weight = self._features_array(-2, 2) if self._rng.random() < 0.8 else None
        bias = self._features_array(-1, 1) if self._rng.random() < 0.8 else None
        return weight, bias

    def _random_eps(self) -> float:
        return float(self._rng.choice([1e-5, 1e-3, 0.0], p=(0.7, 0.2, 0.1)))

    def _random_out(self) -> Array | None:
        """Return None, new memory in some layout, or an argument that may be written over."""
        kind = self._rng.choice(["none", "new", "x", "residual"], p=(0.5, 0.3, 0.1, 0.1))
        if kind == "new":
            return self._laid_out(np.zeros(self._shape, self._y_dtype))
        if kind == "x" and self._x.dtype == self._y_dtype:
            return self._x
        residual: Array | None = self._options.get("residual") if kind == "residual" else None
        return residual

    def _forward(self, library: Any) -> Results:
        rng, (weight, bias), eps, out = self._rng, self._random_affine(), self._random_eps(), self._random_out()
        options = {**self._options, "axis": self._axis, "out": out}
        if out is None and rng.random() < 0.1:
            options["dtype"] = rng.choice(["float32", "float64"]) if "residual" not in options else None
        mean, var = self._features_array(-1, 1), self._features_array(0.1, 2)
        if self._op == "normalize":
            return {"y": library.normalize(self._x, mean, var, weight, bias, eps=eps, **options)}
        if self._op == "batch_norm_train":
            return _named(library.batch_norm_train(self._x, weight, bias, eps=eps, **options))
        training = self._op == "batch_norm, training"
        momentum, correction = float(rng.choice([0.1, 0.0, 1.0, 0.37])), float(rng.choice([1, 0]))
        options["correction"] = correction
        y = library.batch_norm(self._x, mean, var, weight, bias, training, momentum, eps, **options)
        return {"y": y, "running_mean": mean, "running_var": var}

    def _backward(self, library: Any) -> Results:
        rng, (weight, bias) = self._rng, self._random_affine()
        dy = self._laid_out(_normal(rng, self._shape).astype(self._y_dtype))
        reduced = tuple(a for a in range(len(self._shape)) if a not in self._kept)
        # The plain mean and deviation, whatever the weights: any would do, and these are of no build.
        with np.errstate(all="ignore"):
            wide = self._x.astype(np.float64)
            mean = wide.mean(reduced)
            invstd = 1 / np.sqrt(wide.var(reduced) + 1e-5)
        options = {**self._options, "axis": self._axis, "training": not self._op.endswith("frozen")}
        if rng.random() < 0.3:
            out = rng.choice(["new", "dy", "x"])
            same = self._x.dtype == dy.dtype
            options["out"] = dy if out == "dy" else self._x if out == "x" and same else np.zeros_like(dy)
        gradients = library.batch_norm_backward(dy, self._x, weight, bias, mean=mean, invstd=invstd, **options)
        return _named(gradients)

    def _moments(self, library: Any) -> Results:
        if self._op == "moments":
            found = library.moments(self._x, axis=self._axis, **self._options)
        else:
            nan = str(self._rng.choice(["omit", "propagate"]))
            found = library.Moments(nan=nan, extremes=bool(self._rng.random() < 0.5))
            found = found.update(self._x, axis=self._axis, **self._options)
            if self._rng.random() < 0.5:
                found = found.update(self._x, axis=self._axis, **self._options)
        names = ("count", "mean", "m2", "min", "max")
        return {name: np.asarray(getattr(found, name)) for name in names if getattr(found, name) is not None}

    def _layer(self, library: Any) -> Results:
        rng = self._rng
        known = ("activation", "negative_slope")
        layer = library.BatchNorm(
            axis=self._axis,
            eps=self._random_eps(),
            momentum=[0.1, 1.0, None][rng.integers(3)],
            correction=int(rng.integers(2)),
            on_nonfinite=str(rng.choice(["propagate", "skip"])),
            on_single=str(rng.choice(["error", "biased"])),
            dtype=str(rng.choice(["float32", "float64"])),
            **{name: self._options[name] for name in known if name in self._options},
        )
        arguments = {name: value for name, value in self._options.items() if name not in known}
        results: Results = {}
        for step in range(2):
            if step == 1 and rng.random() < 0.3:
                layer.eval()
            results[f"y {step}"] = layer(self._x, **arguments)
            if step == 0:
                layer.weight[...] = _uniform(rng, -2, 2, layer.weight.shape)
                layer.bias[...] = _uniform(rng, -1, 1, layer.bias.shape)
        dx = layer.backward(self._laid_out(_normal(rng, self._shape).astype(self._y_dtype)))
        results |= {"dx": dx} if isinstance(dx, np.ndarray) else {"dx": dx[0], "dresidual": dx[1]}
        results |= {"dweight": layer.grad_weight, "dbias": layer.grad_bias}
        return results | {"running_mean": layer.running_mean, "running_var": layer.running_var}


def _named(result: Any) -> Results:
    return {name: np.asarray(value) for name, value in result._asdict().items()}
