"""Promise: NaN and infinity stay in their channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastbn
from support import oracle
from support.bits import bits, differing
from support.layouts import dense, stepped
from support.marks import every_dtype
from support.random_arrays import parameters

pytestmark = [pytest.mark.usefixtures("isa"), pytest.mark.untraced]


def chosen(arrays: dict[str, np.ndarray], where: np.ndarray) -> dict[str, bytes]:
    """Return the bits of the chosen elements of each array."""
    return {name: bits(array[where]) for name, array in arrays.items()}


SPECIALS = {"nan": [np.nan], "inf": [np.inf], "-inf": [-np.inf], "both": [np.inf, -np.inf], "all": [np.nan, np.inf]}
FORMS = {
    "NC": ((67, 19), 1, dense),
    "NC-wide": ((12, 300), 1, dense),
    "CN": ((19, 67), 0, dense),
    "NCL": ((3, 19, 45), 1, dense),
    "NLC": ((3, 45, 19), 2, dense),
    "NCHW-1x1": ((67, 19, 1, 1), 1, dense),
    "NCHW-2x2": ((17, 19, 2, 2), 1, dense),
    "NCHW-7x7": ((5, 19, 7, 7), 1, dense),
    "stepped": ((5, 19, 7, 7), 1, stepped(1, 2, -1, 3)),
}


class Case:
    """A form with clean data, and what every function makes of that; and places in it to spoil."""

    def __init__(self, rng: np.random.Generator, form: str, dtype: Any) -> None:
        self.shape, self.axis, self.place = FORMS[form]
        features = self.shape[self.axis]
        self.x = self.place(rng.standard_normal(self.shape).astype(dtype))
        self.dy = rng.standard_normal(self.shape).astype(dtype)
        self.parameters = parameters(rng, (features,))
        self.given = rng.standard_normal(features), rng.uniform(1, 2, features)
        self.before = self.run(self.x, self.dy)

    def run(self, x: np.ndarray, dy: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return what has x's shape and what has the features'."""
        (weight, bias), axis = self.parameters, self.axis
        y, mean, var, invstd, _ = fastbn.batch_norm_train(x, weight, bias, axis=axis)
        running = [a.copy() for a in self.given]
        fastbn.batch_norm(x, *running, weight, bias, training=True, axis=axis)
        found = fastbn.moments(x, axis=axis)
        saved = {"mean": self.given[0], "invstd": self.given[1], "axis": axis}
        dx, dweight, dbias = fastbn.batch_norm_backward(dy, x, weight, **saved)
        frozen = fastbn.batch_norm_backward(dy, x, weight, **saved, training=False)
        small = {"mean": mean, "var": var, "invstd": invstd, "running_mean": running[0], "running_var": running[1]}
        small |= {"moments.mean": found.mean, "moments.m2": found.m2, "dweight": dweight, "dbias": dbias}
        elementwise = {"normalize": fastbn.normalize(x, *self.given, weight, bias, axis=axis), "frozen": frozen.dx}
        return {"y": y, "dx": dx} | elementwise, small

    def spoiled(self, special: str) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (channel, x with some of its values spoiled): first, last and middle, at first, last and middle."""
        for channel in (0, self.shape[self.axis] // 2, self.shape[self.axis] - 1):
            for position in (0, -1, 31):
                x = self.place(self.x)
                view = np.moveaxis(x, self.axis, 0)[channel]
                for step, value in enumerate(SPECIALS[special]):
                    view[np.unravel_index((position + step * 3) % view.size, view.shape)] = value
                yield channel, x

    def inside(self, channel: int) -> np.ndarray:
        """Return which elements are a channel's."""
        chosen = np.arange(self.shape[self.axis]) == channel
        return np.broadcast_to(oracle.along(chosen, self.shape, self.axis), self.shape)

    def assert_others_untouched(self, large: dict[str, np.ndarray], small: dict[str, np.ndarray], channel: int) -> None:
        outside, others = ~self.inside(channel), np.arange(self.shape[self.axis]) != channel
        assert differing(chosen(large, outside), chosen(self.before[0], outside)) == []
        assert differing(chosen(small, others), chosen(self.before[1], others)) == []


every_form = pytest.mark.parametrize("form", FORMS)
every_special = pytest.mark.parametrize("special", SPECIALS)


@every_dtype
@every_special
@every_form
def test_nan_and_infinity_in_x_stay_in_their_channel(
    dtype: Any, special: str, form: str, rng: np.random.Generator
) -> None:
    case = Case(rng, form, dtype)
    for channel, x in case.spoiled(special):
        large, small = case.run(x, case.dy)
        case.assert_others_untouched(large, small, channel)
        assert np.isnan(large["y"][case.inside(channel)]).all()
        for name in ("mean", "var", "invstd", "running_mean", "running_var", "moments.mean", "moments.m2"):
            assert np.isnan(small[name][channel]), name
        # Element by element: inference spoils one element, as NumPy would; a frozen gradient does not see x.
        bad = ~np.isfinite(x)
        np.testing.assert_array_equal(large["normalize"][~bad], case.before[0]["normalize"][~bad])
        with np.errstate(invalid="ignore"):
            wanted = oracle.normalize(x, *case.given, *case.parameters, axis=case.axis)
        np.testing.assert_array_equal(large["normalize"][bad], wanted[bad].astype(dtype))
        np.testing.assert_array_equal(large["frozen"], case.before[0]["frozen"])
        assert not np.isfinite(small["dweight"][channel])
        assert np.isfinite(small["dbias"][channel])


@every_dtype
@every_special
@every_form
def test_nan_and_infinity_in_dy_stay_in_their_channel(
    dtype: Any, special: str, form: str, rng: np.random.Generator
) -> None:
    case = Case(rng, form, dtype)
    for channel, x in case.spoiled(special):
        bad = ~np.isfinite(x)
        hurt = np.where(bad, x, case.dy)
        large, small = case.run(case.x, hurt)
        case.assert_others_untouched(large, small, channel)
        assert not np.isfinite(large["dx"][case.inside(channel)]).any()
        assert not np.isfinite([small["dweight"][channel], small["dbias"][channel]]).any()
        np.testing.assert_array_equal(large["frozen"][~bad], case.before[0]["frozen"][~bad])


# Rows that end in part of a block of sixteen: (shape, feature axis).
PARTIAL = {"NC": ((7, 17), 1), "NCL": ((3, 2, 21), 1), "NLC": ((3, 5, 17), 2)}


@every_dtype
@pytest.mark.parametrize("form", PARTIAL)
def test_what_relu_holds_back_of_infinity(dtype: Any, form: str, rng: np.random.Generator) -> None:
    """The formula's 0 * xhat is NaN for an xhat of -inf, wherever in a row that is."""
    shape, axis = PARTIAL[form]
    features = shape[axis]
    clean, dy = rng.standard_normal((2, *shape)).astype(dtype)
    weight, bias = rng.uniform(0.5, 2, features), rng.uniform(-2, 2, features)  # so that z is -inf, too
    saved = {"mean": rng.standard_normal(features), "invstd": rng.uniform(1, 2, features), "axis": axis}
    options = {"training": False, "activation": "relu"}
    before = fastbn.batch_norm_backward(dy, clean, weight, bias, **saved, **options)
    wrong = []
    for at in np.ndindex(shape):
        x = clean.copy()
        x[at] = -np.inf
        with np.errstate(invalid="ignore"):
            wanted = oracle.backward(dy, x, weight, **saved, bias=bias, **options).dweight
        got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, **options)
        others = np.arange(features) != at[axis]
        assert np.isnan(wanted).tolist() == (~others).tolist()
        if not np.isnan(got.dweight[at[axis]]):
            wrong.append(at)
        for name in ("dweight", "dbias"):
            assert bits(getattr(got, name)[others]) == bits(getattr(before, name)[others]), (name, at)
        outside = np.broadcast_to(oracle.along(others, shape, axis), shape)
        assert bits(got.dx[outside]) == bits(before.dx[outside]), at
    assert wrong == []


@every_dtype
def test_nan_among_given_statistics_and_parameters(dtype: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 20, 9)).astype(dtype)
    plain = {"mean": np.zeros(20), "var": np.ones(20), "weight": np.ones(20), "bias": np.zeros(20)}
    before = fastbn.normalize(x, **plain)
    gradients = fastbn.batch_norm_backward(x, x, plain["weight"], mean=plain["mean"], invstd=plain["var"])
    others = np.arange(20) != 13
    for name in plain:
        hurt = {key: array.copy() for key, array in plain.items()}
        hurt[name][13] = np.nan
        y = fastbn.normalize(x, **hurt)
        assert np.isnan(y[:, 13]).all(), name
        np.testing.assert_array_equal(y[:, others], before[:, others], err_msg=name)
        got = fastbn.batch_norm_backward(x, x, hurt["weight"], mean=hurt["mean"], invstd=hurt["var"])
        np.testing.assert_array_equal(got.dx[:, others], gradients.dx[:, others], err_msg=name)
        if name != "bias":
            assert np.isnan(got.dx[:, 13]).all(), name
