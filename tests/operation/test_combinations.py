"""Promise: every option works with every other: types, layouts, masks, weights, activations, residuals, modes."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
from support import oracle
from support.assertions import (
    affine_size,
    assert_gradients,
    assert_mean_and_var,
    assert_normalized,
    assert_train,
    assert_y,
    off_the_kink,
)
from support.bits import bits, differing
from support.derivatives import central_differences
from support.dtypes import BFLOAT16, FLOAT_TYPES, TYPES, y_type
from support.epilogues import SLOPE, epilogue
from support.isas import using_isa
from support.layouts import LARGE, Layout, dense, layout_id, misaligned, permuted, stepped
from support.random_arrays import parameters, random_values
from support.tolerances import VAR_RTOL

pytestmark = pytest.mark.untraced

Array = np.ndarray
SetThreads = Callable[[int | None], None]
ISAS = fastbn._core.isas()

SMALL = [
    Layout("N1", (33, 1), 1, dense),
    Layout("N3", (37, 3), 1, dense),
    Layout("N20", (19, 20), 1, dense),
    Layout("N64", (7, 64), 1, dense),
    Layout("N300", (5, 300), 1, dense),
    Layout("CN", (5, 67), 0, dense),
    Layout("NCHW-7x7", (3, 5, 7, 7), 1, dense),
    Layout("NCHW-4x4", (3, 9, 4, 4), 1, dense),
    Layout("NCHW-3x3", (5, 7, 3, 3), 1, dense),
    Layout("NCHW-1x1", (9, 17, 1, 1), 1, dense),
    Layout("short-channels", (131, 3, 17), 1, dense),
    Layout("NHWC", (3, 3, 5, 7), 3, dense),
    Layout("channels-last-view", (3, 6, 5, 4), 1, permuted(0, 2, 3, 1)),
    Layout("transposed", (5, 4, 3, 6), 1, permuted(2, 1, 3, 0)),
    Layout("sliced", (3, 5, 4, 7), 1, stepped(1, 2, -1, 3)),
    Layout("misaligned", (5, 4, 21), 1, misaligned),
    Layout("axes-1-3", (5, 3, 7, 4), (1, 3), dense),
    Layout("axes-none", (5, 3, 7), (), dense),
]

# Masks and weights for an array of `shape`, which leave the first two samples whole. The sum of the weights exceeds the
# correction of running statistics whatever the shape.


def unweighted(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Array]:
    del rng, shape
    return {}


def samples(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Array]:
    where = rng.random((shape[0], *[1] * (len(shape) - 1))) < 0.6
    where[:2] = True
    return {"where": where}


def positions(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Array]:
    where = rng.random((shape[0], 1, *shape[2:])) < 0.6
    where[:2] = True
    return {"where": where}


def each(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Array]:
    where = rng.random(shape) < 0.6
    where[:2] = True
    return {"where": where}


def weighted_samples(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Array]:
    weights = rng.integers(0, 4, (shape[0], *[1] * (len(shape) - 1)))
    weights[0], weights[1] = 1, 2
    return {"weights": weights}


def both(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Array]:
    weights = np.where(rng.random(shape) < 0.3, 0, rng.uniform(0, 2, shape)).astype(np.float32)
    weights[:2] = 0.75
    return positions(rng, shape) | {"weights": weights}


MASKS = (unweighted, samples, positions, each, weighted_samples, both)
ACTIVATIONS = (None, "relu", "leaky_relu")
COMBINATIONS = list(itertools.product(MASKS, ACTIVATIONS, (False, True)))

every_layout = pytest.mark.parametrize("layout", SMALL, ids=layout_id)
every_type = pytest.mark.parametrize("dtype", TYPES, ids=str)


def third(layout: Layout, dtype: Any) -> list[Any]:
    """Return (turn, combination) of a third of the combinations.

    So that each meets every layout, and every type; test_properties.py draws from all of them with all.
    """
    start = SMALL.index(layout) + TYPES.index(np.dtype(dtype))
    return list(enumerate(COMBINATIONS))[start % 3 :: 3]


def problem(layout: Layout, dtype: Any, turn: int) -> tuple[Array, Array, Array, Array, Any, dict[str, Any]]:
    """Return x, dy, weight, bias and residual, and the type of y that this turn has: most often x's own."""
    rng = np.random.default_rng([turn, TYPES.index(np.dtype(dtype))])
    kind = FLOAT_TYPES[turn // 5 % 4] if turn % 5 == 4 else y_type(dtype)
    x = layout.fill(rng, dtype, 2, 3)
    dy, residual = layout.fill(rng, kind, offset=0.5), layout.fill(rng, kind, 2)
    return x, dy, *parameters(rng, layout.features), residual, {} if kind == y_type(dtype) else {"dtype": kind}


@every_layout
@every_type
def test_training(layout: Layout, dtype: Any) -> None:
    axis = layout.axis
    for turn, (mask, activation, with_residual) in third(layout, dtype):
        x, dy, weight, bias, residual, chosen = problem(layout, dtype, turn)
        mine, oracles = epilogue(activation, residual if with_residual else None)
        weighting = mask(np.random.default_rng(turn), x.shape)
        oracles["p"] = oracle.element_weights(x.shape, **weighting) if weighting else None
        result = fastbn.batch_norm_train(x, weight, bias, axis=axis, **weighting, **mine, **chosen)
        assert_train(x, result, weight, bias, axis=axis, **oracles, **chosen)
        saved = {"mean": result.mean, "invstd": result.invstd, "axis": axis}
        dy = layout.place(off_the_kink(dy, x, weight, bias, **saved, residual=oracles["residual"]))
        count = result.count if turn % 2 else None
        got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, **weighting, **mine, count=count)
        assert_gradients(got, dy, x, weight, bias, **saved, **oracles)


@every_layout
@every_type
def test_inference(layout: Layout, dtype: Any) -> None:
    axis = layout.axis
    for turn, (mask, activation, with_residual) in third(layout, dtype):
        if mask is not MASKS[turn % len(MASKS)] and mask is not unweighted:
            continue  # in inference they only must not matter
        x, dy, weight, bias, residual, chosen = problem(layout, dtype, turn)
        mine, oracles = epilogue(activation, residual if with_residual else None)
        weighting = mask(np.random.default_rng(turn), x.shape)
        rng = np.random.default_rng(turn)
        mean, var = 3 + rng.standard_normal(layout.features), rng.uniform(0.5, 2, layout.features)
        y = fastbn.normalize(x, mean, var, weight, bias, axis=axis, **mine, **chosen)
        assert_normalized(x, y, mean, var, weight, bias, axis=axis, **oracles)
        again = fastbn.batch_norm(x, mean, var, weight, bias, axis=axis, **weighting, **mine, **chosen)
        assert bits(again) == bits(y)
        saved = {"mean": mean, "invstd": 1 / np.sqrt(var + 1e-5), "axis": axis}
        dy = layout.place(off_the_kink(dy, x, weight, bias, **saved, residual=oracles["residual"]))
        got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, training=False, **weighting, **mine)
        assert_gradients(got, dy, x, weight, bias, **saved, training=False, **oracles)


def a_step(
    x: Array,
    dy: Array,
    weight: Array,
    bias: Array,
    axis: Any,
    weighting: dict[str, Any],
    mine: dict[str, Any],
    chosen: dict[str, Any],
) -> dict[str, bytes]:
    """Return the bits of a training step and of an inference."""
    result = fastbn.batch_norm_train(x, weight, bias, axis=axis, **weighting, **mine, **chosen)
    saved: Any = {"mean": result.mean, "invstd": result.invstd, "axis": axis}
    got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, **weighting, **mine, count=result.count)
    y = fastbn.normalize(x, result.mean, result.var, weight, bias, axis=axis, **mine, **chosen)
    result = result._replace(count=np.asarray(result.count, np.float64))
    return {name: bits(array) for name, array in ({"normalize.y": y} | result._asdict() | got._asdict()).items()}


@every_layout
@every_type
def test_same_bits_on_every_isa(layout: Layout, dtype: Any) -> None:
    for turn, (mask, activation, with_residual) in third(layout, dtype):
        x, dy, weight, bias, residual, chosen = problem(layout, dtype, turn)
        mine, _ = epilogue(activation, residual if with_residual else None)
        weighting = mask(np.random.default_rng(turn), x.shape)
        found = []
        for isa in ISAS:
            with using_isa(isa):
                found.append(a_step(x, dy, weight, bias, layout.axis, weighting, mine, chosen))
        for other in found[1:]:
            assert differing(other, found[0]) == [], (mask.__name__, activation, with_residual)


# Large enough to be divided among threads.

SHARED = [layout for layout in LARGE if layout.name != "large-axes-none"]


@pytest.mark.parametrize("layout", SHARED, ids=layout_id)
def test_same_bits_for_any_number_of_threads(layout: Layout, threads: SetThreads) -> None:
    """Each layout with other combinations, other types and other numbers of threads."""
    start = SHARED.index(layout)
    for i in range(3):
        turn = 7 * start + 11 * i
        mask, activation, with_residual = COMBINATIONS[turn % len(COMBINATIONS)]
        if mask is unweighted:
            mask = MASKS[1 + turn % 5]
        x, dy, weight, bias, residual, chosen = problem(layout, TYPES[(start + 2 * i) % len(TYPES)], turn)
        mine, _ = epilogue(activation, residual if with_residual else None)
        weighting = mask(np.random.default_rng(turn), x.shape)
        found = {}
        others = [(isa, 2) for isa in ISAS[:-1]] if i == 0 else []  # they take longer
        for isa, n in [(ISAS[-1], 1), (ISAS[-1], 2), (ISAS[-1], 3), *others]:
            threads(n)
            with using_isa(isa):
                found[isa, n] = a_step(x, dy, weight, bias, layout.axis, weighting, mine, chosen)
        first = found[ISAS[-1], 1]
        wrong = {key: differing(other, first) for key, other in found.items() if differing(other, first)}
        assert wrong == {}, (mask.__name__, activation, with_residual, x.dtype)


@pytest.mark.parametrize("layout", LARGE, ids=layout_id)
def test_large_arrays(layout: Layout) -> None:
    """What threads compute is right, too: against the oracle in float64, which is enough for what is asked here."""
    turn = LARGE.index(layout)
    dtype = (np.dtype(np.float32), BFLOAT16, np.dtype(np.uint8), np.dtype(np.float16))[turn % 4]
    mask = MASKS[1 + turn % 5]
    x, _, weight, bias, residual, _ = problem(layout, dtype, 0)
    mine, oracles = epilogue(ACTIVATIONS[turn % 3], residual)
    weighting = mask(np.random.default_rng(turn), x.shape)
    result = fastbn.batch_norm_train(x, weight, bias, axis=layout.axis, **weighting, **mine)
    p = oracle.element_weights(x.shape, **weighting)
    expected = oracle.train(x, weight, bias, axis=layout.axis, dtype=np.float64, p=p, **oracles)
    # Types that float32 holds, and a plain sum of at most 3e5 terms in the oracle: 3e-11, far below what is promised.
    assert_mean_and_var(result.mean, result.var, expected.mean, expected.biased, VAR_RTOL[x.dtype])
    np.testing.assert_allclose(result.count, expected.count, rtol=3e5 * 2.0**-53)
    size = affine_size(x.shape, layout.axis, weight, bias, residual)
    assert_y(result.y, expected.y, size, dtype)


# x, y, shape, axis: outputs of 13 MB and more, where stores may bypass the caches, aligned to nothing in particular.
BEYOND = [
    (np.float16, np.float16, (8, 25, 33_000), 1),
    (BFLOAT16, BFLOAT16, (66_000, 100), 1),
    (np.uint8, np.float32, (3, 64, 130, 140), 1),
    (np.int16, np.float32, (700, 100, 7, 7), 1),
    (np.float32, np.float16, (140, 1000, 7, 7), 1),
    (np.float32, np.float32, (2, 200, 90, 97), 1),
    (np.int32, BFLOAT16, (2, 16_500, 200), 2),
]


@pytest.mark.parametrize(
    ("x_dtype", "y_dtype", "shape", "axis"),
    BEYOND,
    ids=lambda v: str(np.dtype(v)) if isinstance(v, type | np.dtype) else str(v),
)
def test_larger_than_the_caches(x_dtype: Any, y_dtype: Any, shape: tuple[int, ...], axis: int) -> None:
    rng = np.random.default_rng(5)
    x, y_dtype = rng.integers(0, 200, shape, np.uint8).astype(x_dtype), np.dtype(y_dtype)
    residual, out = (np.empty(x.size + 3, y_dtype)[3:].reshape(shape) for _ in range(2))
    residual[...] = rng.integers(-2, 3, shape, np.int8)
    where = rng.random((shape[0], *[1] * (len(shape) - 1))) < 0.8
    where[0], where[-1] = True, False
    weight, bias = parameters(rng, (shape[axis],))
    result = fastbn.batch_norm_train(
        x,
        weight,
        bias,
        axis=axis,
        where=where,
        residual=residual,
        activation="leaky_relu",
        negative_slope=SLOPE,
        out=out,
    )
    assert result.y is out
    kept = x[where.ravel()].astype(np.float32)
    reduced = tuple(a for a in range(x.ndim) if a != axis)
    # Of whole numbers below 200 these sums are exact, and so is what the variance divides: below 2**53.
    n, total, squares = kept.size // shape[axis], *(a.sum(reduced, np.float64) for a in (kept, kept**2))
    np.testing.assert_allclose(result.mean, total / n, rtol=1e-14)
    np.testing.assert_allclose(result.var, (n * squares - total**2) / n**2, rtol=VAR_RTOL[x.dtype])
    along = [oracle.along(a, shape, axis) for a in (result.mean, weight * result.invstd, bias)]
    z = x - along[0]
    z *= along[1]
    z += along[2] + residual.astype(np.float64)
    # |z| is below 12: sixteen ulp of the computation may decide its sign.
    near, positive = np.abs(z) <= 16 * 16 * 2.0**-24, z > 0
    z *= np.where(positive, 1, SLOPE)
    z -= out.astype(np.float64)
    # The same sixteen ulp, and half of one of y's.
    digits = oracle.FORMATS[y_dtype.name][0]
    assert np.abs(z).max() < 16 * (16 * 2.0**-24 + 2.0**-digits)
    del z
    saved: Any = {"mean": result.mean, "invstd": result.invstd, "axis": axis}
    dy = np.where(near, np.zeros_like(residual), residual)
    got = fastbn.batch_norm_backward(
        dy, x, weight, bias, **saved, where=where, residual=residual, activation="relu", out=out
    )
    # Whole numbers again, so sums in any order are exact.
    dz = np.where(positive, dy, np.zeros_like(dy))
    np.testing.assert_array_equal(got.dresidual, dz)
    np.testing.assert_array_equal(got.dbias, dz.sum(reduced, np.float64))
    # With statistics held fixed dx is a multiple of dz: what is masked shows it.
    out_of = ~where.ravel()
    scaled = dz[out_of].astype(np.float64) * along[1]
    scaled -= got.dx[out_of].astype(np.float64)
    assert np.abs(scaled).max() < 2 * (2.0**-22 + 2.0**-digits)


# By keyword alone.

WEIGHTING = {"where": None, "weights": None}
FUSED = {"residual": None, "activation": None, "negative_slope": 0.01}
OPTIONS: dict[Callable[..., Any], dict[str, Any]] = {
    fastbn.batch_norm: WEIGHTING | FUSED | {"axis": 1, "correction": 1, "dtype": None, "out": None},
    fastbn.batch_norm_train: WEIGHTING | FUSED | {"eps": 1e-5, "axis": 1, "dtype": None, "out": None},
    fastbn.batch_norm_backward: WEIGHTING | FUSED | {"count": None, "axis": 1, "training": True, "out": None},
    fastbn.moments: WEIGHTING | {"axis": 1, "nan": "propagate", "extremes": False},
    fastbn.normalize: FUSED | {"eps": 1e-5, "axis": 1, "out_axis": None, "dtype": None, "out": None},
}


@pytest.mark.parametrize("function", OPTIONS, ids=lambda f: f.__name__)
def test_options_and_their_defaults(function: Callable[..., Any]) -> None:
    found = inspect.signature(function).parameters.values()
    options = {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    assert options == OPTIONS[function]


# Derivatives.


@pytest.mark.parametrize("mask", MASKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((7, 3), 1), ((3, 2, 2, 3), 1), ((4, 2, 3), 2)], ids=str)
def test_finite_differences(
    mask: Callable[..., dict[str, Array]],
    activation: str | None,
    with_residual: bool,
    training: bool,
    shape: tuple[int, ...],
    axis: int,
) -> None:
    rng = np.random.default_rng(71)
    x, residual, push = 1 + 2 * rng.standard_normal((3, *shape))
    # Values that no mask leaves out, far apart: the variance is not small, and its derivatives are not large.
    x[0], x[1] = x[0] - 3, x[1] + 3
    weight, bias = parameters(rng, (shape[axis],))
    mean, var = rng.standard_normal(weight.shape), rng.uniform(0.5, 2, weight.shape)
    weighting = mask(rng, shape)
    mine, _ = epilogue(activation, residual if with_residual else None)

    def forward(**given: Any) -> Array:
        given |= weighting | {"eps": 1e-3, "axis": axis}
        if training:
            return fastbn.batch_norm(x, None, None, weight, bias, training=True, **given)
        return fastbn.batch_norm(x, mean, var, weight, bias, **given)

    # What lies within a step of the kink has no say.
    push[np.abs(forward(residual=mine["residual"])) < 1e-2] = 0

    def loss() -> float:
        return float((np.sin(forward(**mine)) * push).sum())

    dy = np.cos(forward(**mine)) * push
    invstd = 1 / np.sqrt(var + 1e-3)
    if training:
        _, mean, _, invstd, _ = fastbn.batch_norm_train(x, weight, bias, eps=1e-3, axis=axis, **weighting)
    saved = {"mean": mean, "invstd": invstd, "axis": axis, "training": training}
    got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, **weighting, **mine)
    arrays = (x, weight, bias, residual) if with_residual else (x, weight, bias)
    # A step of 1e-4 leaves a truncation of its square times a third derivative, here of up to some hundreds, and a
    # rounding of 1e-11.
    for gradient, array in zip(got, arrays, strict=True):
        np.testing.assert_allclose(gradient, central_differences(loss, array), rtol=0, atol=1e-5)


@every_type
def test_junk_is_left_out_whatever_else_is_asked(dtype: Any) -> None:
    """Half precision has NaN too, and integers have values that look like no value at all."""
    rng = np.random.default_rng(11)
    for shape, axis in (((33, 20), 1), ((6, 5, 7, 7), 1), ((6, 5, 3, 3), 1), ((6, 7, 5), 2)):
        clean = random_values(rng, shape, dtype)
        for mask, activation in itertools.product(MASKS[1:], ACTIVATIONS):
            weighting = mask(rng, shape)
            out = oracle.element_weights(shape, **weighting) == 0
            junk = np.asarray(np.nan if y_type(dtype) == dtype else np.iinfo(dtype).max).astype(dtype)
            spoiled = np.where(out, junk, clean)
            residual = rng.standard_normal(shape).astype(y_type(dtype))
            mine, _ = epilogue(activation, residual)
            got, want = (fastbn.batch_norm_train(x, axis=axis, **weighting, **mine) for x in (spoiled, clean))
            for name in ("mean", "var", "invstd", "count"):
                assert bits(getattr(got, name)) == bits(getattr(want, name)), (mask.__name__, name)
            assert bits(got.y[~out]) == bits(want.y[~out])
