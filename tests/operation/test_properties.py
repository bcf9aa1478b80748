"""Promise: whatever the shape, axes, strides, memory order, types and parameters: the result is the oracle's."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

import fastbn
import fastbn._core
from support import oracle
from support.assertions import (
    affine_size,
    assert_gradients,
    assert_relative,
    assert_statistics,
    assert_train,
    assert_ulps,
    off_the_kink,
)
from support.bits import bits, bits_of_everything, differing
from support.dtypes import FLOATS, HALVES, TYPES, y_type
from support.isas import using_isa
from support.layouts import hole
from support.random_arrays import random_values

pytestmark = pytest.mark.untraced

isas = st.sampled_from(fastbn._core.isas())


@st.composite
def shapes(draw: st.DrawFn, smallest: int = 1) -> tuple[int, ...]:
    ndim = draw(st.integers(2, 5))
    sizes = st.one_of(st.integers(smallest, 7), st.sampled_from([8, 15, 16, 17, 31, 33, 64, 65, 130]))
    shape = tuple(draw(sizes) for _ in range(ndim))
    assume(math.prod(shape) <= 20_000)
    return shape


@st.composite
def axes(draw: st.DrawFn, ndim: int) -> int | tuple[int, ...]:
    """Return one axis, or some in any order, each given from the front or from behind."""
    anywhere = st.integers(-ndim, ndim - 1)
    if draw(st.booleans()):
        return draw(anywhere)
    return tuple(draw(st.lists(anywhere, max_size=ndim - 1, unique_by=lambda a: a % ndim)))


@st.composite
def placements(draw: st.DrawFn, values: np.ndarray, writable: bool = False) -> np.ndarray:
    """Return `values` in some memory: axes in any order, steps, padding, an unaligned offset, or strides of zero.

    Memory between the elements is a `hole`. Where a stride is zero, the values are those of the first index.
    """
    shape = values.shape
    order = draw(st.permutations(range(values.ndim)))
    steps = [draw(st.sampled_from([1, 1, 1, 2, 3, -1, -2])) for _ in order]
    repeated = [not writable and draw(st.sampled_from([False] * 5 + [True])) for _ in order]
    values = values[(*(slice(0, 1) if again else slice(None) for again in repeated), ...)]
    padding = draw(st.sampled_from([0, 0, 1, 3]))
    offset = draw(st.sampled_from([0, 0, 1, 4, 8, 20]))
    taken = [values.shape[a] * abs(s) for a, s in zip(order, steps, strict=True)]
    raw = np.zeros(math.prod(n + padding for n in taken) * values.itemsize + offset, np.uint8)
    whole = raw[offset:].view(values.dtype).reshape([n + padding for n in taken])
    whole[...] = hole(values.dtype)
    stepped = whole[(*(slice(0, n) for n in taken), ...)][(*(slice(None, None, s) for s in steps), ...)]
    view = stepped.transpose(np.argsort(order))
    view[...] = values
    return np.broadcast_to(view, shape) if any(repeated) else view


class Case(NamedTuple):
    """A call's arguments."""

    x: np.ndarray
    axis: int | tuple[int, ...]
    weight: np.ndarray | None
    bias: np.ndarray | None
    eps: float


@st.composite
def cases(draw: st.DrawFn, smallest: int = 1) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(shapes(smallest))
    axis = draw(axes(len(shape)))
    dtype = draw(st.sampled_from(FLOATS))
    scale = draw(st.sampled_from([1.0, 1.0, 1e-3, 50.0, 1e4]))
    offset = draw(st.sampled_from([0.0, 0.0, 1.0, -30.0, 1e3])) * scale
    x = draw(placements((offset + scale * rng.standard_normal(shape)).astype(dtype)))
    features = oracle.feature_shape(x.shape, axis)
    weight, bias = (
        draw(placements(np.asarray(values, kind))) if kind is not None else None
        for values, kind in (
            (rng.uniform(0.5, 2, features) * rng.choice([-1.0, 1.0], features), draw(parameter_types)),
            (rng.uniform(-2, 2, features), draw(parameter_types)),
        )
    )
    return Case(x, axis, weight, bias, draw(st.sampled_from([1e-5, 1e-3, 1e-12])))


parameter_types = st.sampled_from([None, *FLOATS])


def describe(case: Case) -> None:
    event(f"ndim {case.x.ndim}")
    event("axes: " + ("one" if isinstance(case.axis, int) else str(len(case.axis))))
    event("strides: " + ("zero" if 0 in case.x.strides else "negative" if min(case.x.strides) < 0 else "positive"))


def count_of(case: Case) -> int:
    features = oracle.feature_shape(case.x.shape, case.axis)
    return case.x.size // max(1, math.prod(features))


@given(case=cases(), isa=isas)
def test_moments(case: Case, isa: str) -> None:
    describe(case)
    with using_isa(isa):
        found = fastbn.moments(case.x, axis=case.axis)
    assert found.count == count_of(case)
    assert_statistics(case.x, found.mean, found.var(), case.axis)


@given(case=cases(), isa=isas, data=st.data())
def test_training(case: Case, isa: str, data: st.DataObject) -> None:
    assume(count_of(case) > 1)
    x, axis, weight, bias, eps = case
    before = bits(x)
    out = data.draw(st.sampled_from(["fresh", "given", "in place"]))
    target = None
    if out == "given" or (out == "in place" and not x.flags.writeable):
        target = data.draw(placements(np.zeros(x.shape, x.dtype), writable=True))
    expected = oracle.train(x, weight, bias, eps, axis)
    wanted = oracle.moments(x, axis)
    source = x.copy()
    if out == "in place" and target is None:
        target = x
    with using_isa(isa):
        result = fastbn.batch_norm_train(x, weight, bias, eps=eps, axis=axis, out=target)
    assert result.y.dtype == source.dtype
    assert target is None or result.y is target
    assert_statistics(source, result.mean, result.var, axis)
    # Channels may be of two or three values, by chance close to each other: y is measured against what float64 keeps
    # of a mean that is large beside their spread, besides the promise.
    lost = 2.0**-50 * np.abs(wanted.mean) * expected.invstd / float(np.finfo(x.dtype).eps)
    size = affine_size(x.shape, axis, weight, bias) * (1 + oracle.along(lost, x.shape, axis))
    assert_ulps(result.y, expected.y, size)
    if target is not x:
        assert bits(x) == before


@given(case=cases(), isa=isas, data=st.data())
def test_inference(case: Case, isa: str, data: st.DataObject) -> None:
    x, axis, weight, bias, eps = case
    features = oracle.feature_shape(x.shape, axis)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kinds = [data.draw(st.sampled_from(FLOATS)) for _ in range(2)]
    mean = np.asarray(x.mean(dtype=np.float64) + rng.standard_normal(features), kinds[0])
    var = np.asarray(np.square(rng.standard_normal(features)), kinds[1])
    expected = oracle.normalize(x, mean, var, weight, bias, eps, axis)
    with using_isa(isa):
        y = fastbn.normalize(x, mean, var, weight, bias, eps=eps, axis=axis)
        again = fastbn.batch_norm(x, mean, var, weight, bias, eps=eps, axis=axis)
    # No allowance for an x near the mean: what is given is exact.
    assert_ulps(y, expected, oracle.along(0 * mean if bias is None else bias, x.shape, axis))
    assert bits(y) == bits(again)


@given(case=cases(), isa=isas, training=st.booleans(), data=st.data())
def test_backward(case: Case, isa: str, training: bool, data: st.DataObject) -> None:
    x, axis, weight, _, _ = case
    features = oracle.feature_shape(x.shape, axis)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    offset = data.draw(st.sampled_from([0.0, 1.0, 100.0]))
    assume(count_of(case) > 1 or not training)
    dy = data.draw(placements((offset + rng.standard_normal(x.shape)).astype(x.dtype), writable=True))
    saved: dict[str, Any] = {
        "mean": x.mean(dtype=np.float64) + rng.standard_normal(features),
        "invstd": rng.uniform(0.1, 3, features),
        "axis": axis,
        "training": training,
    }
    source = dy.copy()
    target = data.draw(st.sampled_from([None, dy, *([x] if x.flags.writeable else [])]))
    values = x.copy()
    with using_isa(isa):
        got = fastbn.batch_norm_backward(dy, x, weight, **saved, out=target)
    assert_gradients(got, source, values, weight, **saved)


@given(case=cases(), one=isas, other=isas, threads=st.integers(1, 7))
def test_same_bits(case: Case, one: str, other: str, threads: int) -> None:
    assume(count_of(case) > 1)
    x, axis, weight, bias, _ = case
    fastbn.set_num_threads(1)
    with using_isa(one):
        first = bits_of_everything(x, x, weight, bias, axis)
    try:
        fastbn.set_num_threads(threads)
        with using_isa(other):
            assert differing(bits_of_everything(x, x, weight, bias, axis), first) == []
    finally:
        fastbn.set_num_threads(None)


@given(case=cases(), isa=isas, momentum=st.floats(0, 1), data=st.data())
def test_running_statistics(case: Case, isa: str, momentum: float, data: st.DataObject) -> None:
    count = count_of(case)
    assume(count > 1)
    correction = data.draw(st.one_of(st.sampled_from([0, 1]), st.floats(0, count - 0.5)))
    x, axis, weight, bias, eps = case
    features = oracle.feature_shape(x.shape, axis)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kinds = [data.draw(st.sampled_from(FLOATS)) for _ in range(2)]
    running = [data.draw(placements(np.asarray(rng.uniform(0.5, 2, features), kind), writable=True)) for kind in kinds]
    old = [a.copy() for a in running]
    with using_isa(isa):
        found = fastbn.batch_norm_train(x, weight, bias, eps=eps, axis=axis)
        y = fastbn.batch_norm(
            x, *running, weight, bias, training=True, momentum=momentum, eps=eps, axis=axis, correction=correction
        )
    assert bits(y) == bits(found.y)
    unbiased = found.var.astype(np.longdouble) * count / (np.longdouble(count) - correction)
    for got, before, new in zip(running, old, (found.mean, unbiased), strict=True):
        wanted = oracle.updated(before, new, momentum)
        # Five float64 operations, then one rounding to the array's own type.
        size = np.abs(before).astype(np.longdouble) + np.abs(new)
        assert_relative(got, wanted, float(np.finfo(got.dtype).eps) / 2 + 5e-16, size)


@given(
    shape=st.lists(st.integers(0, 3), min_size=2, max_size=5).filter(lambda s: 0 in s),
    dtype=st.sampled_from(FLOATS),
    isa=isas,
    data=st.data(),
)
def test_arrays_of_nothing(shape: list[int], dtype: Any, isa: str, data: st.DataObject) -> None:
    axis = data.draw(axes(len(shape)))
    x = np.empty(shape, dtype)
    features = oracle.feature_shape(shape, axis)
    count = math.prod(n for i, n in enumerate(shape) if i not in oracle.feature_axes(axis, len(shape)))
    with using_isa(isa):
        found = fastbn.moments(x, axis=axis)
        ones = np.ones(features)
        y = fastbn.normalize(x, ones, ones, axis=axis)
        got = fastbn.batch_norm_backward(x, x, mean=ones, invstd=ones, axis=axis, training=count != 1)
        if count != 1:
            result = fastbn.batch_norm_train(x, axis=axis)
            assert result.y.shape == x.shape
            assert result.count == count
            assert np.isnan([result.mean, result.var, result.invstd]).all()
    assert found.count == count
    assert found.mean.shape == found.m2.shape == got.dweight.shape == got.dbias.shape == features
    assert np.isnan(found.mean).all()
    for zero in (found.m2, got.dweight, got.dbias):
        assert not zero.any()
    assert y.shape == got.dx.shape == x.shape


@st.composite
def weightings(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return where=, weights=, both or neither, of any shape that broadcasts to `shape`, in some memory."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = {}
    for name in draw(st.sampled_from([(), ("where",), ("weights",), ("where", "weights")])):
        mask = [n if draw(st.booleans()) else 1 for n in shape]
        while len(mask) and mask[0] == 1 and draw(st.booleans()):
            del mask[0]
        values = rng.random(mask) < draw(st.sampled_from([0.1, 0.6, 1.0]))
        if name == "weights":
            kind = draw(st.sampled_from(["f8", "f4", "f2", "i8", "u1"]))
            size = draw(st.sampled_from([1, 3, 100]))
            values = (values * size * rng.uniform(0, 2, mask)).astype(kind)
        found[name] = draw(placements(np.asarray(values)))
    return found


@given(shape=shapes(), x_dtype=st.sampled_from(TYPES), isa=isas, data=st.data())
def test_everything_at_once(shape: tuple[int, ...], x_dtype: Any, isa: str, data: st.DataObject) -> None:
    """Training and its gradient with any masks, weights, activation, residual, types and target."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    axis = draw(axes(len(shape)))
    features = oracle.feature_shape(shape, axis)
    weighting = draw(weightings(shape))
    assume(math.prod(shape) > math.prod(features))
    y_dtype = draw(st.sampled_from([y_type(x_dtype)] * 3 + [np.dtype(d) for d in FLOATS] + [*HALVES]))
    chosen = {} if y_dtype == y_type(x_dtype) else {"dtype": y_dtype}
    x = draw(placements(random_values(rng, shape, x_dtype, 2, 1)))
    residual = draw(placements(rng.standard_normal(shape).astype(y_dtype), writable=True))
    weight, bias = rng.uniform(0.5, 2, features) * rng.choice([-1.0, 1.0], features), rng.uniform(-2, 2, features)
    activation = draw(st.sampled_from([None, "relu", "leaky_relu"]))
    slope = draw(st.sampled_from([0.01, 0.5, -1.0]))
    if not draw(st.booleans()):
        residual = None
    event(f"{', '.join(weighting) or 'nothing'}; {activation}; {'no ' if residual is None else ''}residual")
    fused = {"activation": activation, "residual": None if residual is None else residual.copy()}
    oracles: dict[str, Any] = fused | {"slope": slope}
    oracles["p"] = oracle.element_weights(shape, **weighting) if weighting else None
    # An eps of one half, so that y does not turn on a variance of two values that are close to each other.
    with using_isa(isa):
        target = draw(st.sampled_from(["fresh", "given", "residual"]))
        out = residual if target == "residual" else None
        if target == "given":
            out = draw(placements(np.zeros(shape, y_dtype), writable=True))
        result = fastbn.batch_norm_train(
            x,
            weight,
            bias,
            eps=0.5,
            axis=axis,
            **weighting,
            **fused | {"residual": residual},
            negative_slope=slope,
            **chosen,
            out=out,
        )
        assert out is None or result.y is out
        assert_train(x, result, weight, bias, 0.5, axis, dtype=y_dtype, **oracles)
        saved: dict[str, Any] = {"mean": result.mean, "invstd": result.invstd, "axis": axis}
        dy = rng.standard_normal(shape).astype(y_dtype)
        dy = draw(placements(off_the_kink(dy, x, weight, bias, **saved, residual=fused["residual"]), writable=True))
        got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, **weighting, **fused, negative_slope=slope)
        assert_gradients(got, dy, x, weight, bias, **saved, **oracles)
