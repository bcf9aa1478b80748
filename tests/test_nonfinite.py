"""Promise: NaN and infinity stay in their channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbn
import reference
from helpers import FLOATS, bits, differing, parameters
from layouts import dense, stepped

pytestmark = [pytest.mark.usefixtures("isa"), pytest.mark.untraced]

every_dtype = pytest.mark.parametrize("dtype", FLOATS)


def chosen(arrays: dict[str, np.ndarray], where: np.ndarray) -> dict[str, bytes]:
    """Return the bits of the chosen elements of each array."""
    return {name: bits(array[where]) for name, array in arrays.items()}


SPECIALS = {"nan": [np.nan], "inf": [np.inf], "-inf": [-np.inf], "both": [np.inf, -np.inf], "all": [np.nan, np.inf]}


@every_dtype
@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("form", ["NC", "NC-wide", "CN", "NCL", "NLC", "NCHW-1x1", "NCHW-2x2", "NCHW-7x7", "stepped"])
def test_nan_and_infinity_stay_in_their_channel(dtype: Any, special: str, form: str, rng: np.random.Generator) -> None:
    shape, axis = {
        "NC": ((67, 19), 1),
        "NC-wide": ((12, 300), 1),
        "CN": ((19, 67), 0),
        "NCL": ((3, 19, 45), 1),
        "NLC": ((3, 45, 19), 2),
        "NCHW-1x1": ((67, 19, 1, 1), 1),
        "NCHW-2x2": ((17, 19, 2, 2), 1),
        "NCHW-7x7": ((5, 19, 7, 7), 1),
        "stepped": ((5, 19, 7, 7), 1),
    }[form]
    place = stepped(1, 2, -1, 3) if form == "stepped" else dense
    clean = place(rng.standard_normal(shape).astype(dtype))
    dy = rng.standard_normal(shape).astype(dtype)
    weight, bias = parameters(rng, (shape[axis],))
    given = rng.standard_normal(shape[axis]), rng.uniform(1, 2, shape[axis])

    def run(x: np.ndarray, dy: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return what has x's shape and what has the features'."""
        y, mean, var, invstd, _ = fastbn.batch_norm_train(x, weight, bias, axis=axis)
        running = [a.copy() for a in given]
        fastbn.batch_norm(x, *running, weight, bias, training=True, axis=axis)
        found = fastbn.moments(x, axis=axis)
        saved = {"mean": given[0], "invstd": given[1], "axis": axis}
        dx, dweight, dbias = fastbn.batch_norm_backward(dy, x, weight, **saved)
        frozen = fastbn.batch_norm_backward(dy, x, weight, **saved, training=False)
        large = {"y": y, "dx": dx}
        small = {"mean": mean, "var": var, "invstd": invstd, "running_mean": running[0], "running_var": running[1]}
        small |= {"moments.mean": found.mean, "moments.m2": found.m2, "dweight": dweight, "dbias": dbias}
        elementwise = {"normalize": fastbn.normalize(x, *given, weight, bias, axis=axis), "frozen": frozen.dx}
        return large | elementwise, small

    before_large, before_small = run(clean, dy)
    # First, last and middle channels, at the first, last and a middle value.
    for channel in (0, shape[axis] // 2, shape[axis] - 1):
        others = np.arange(shape[axis]) != channel
        for position in (0, -1, 31):
            x = place(clean)
            view = np.moveaxis(x, axis, 0)[channel]
            for step, value in enumerate(SPECIALS[special]):
                view[np.unravel_index((position + step * 3) % view.size, view.shape)] = value
            large, small = run(x, dy)
            bad = ~np.isfinite(x)
            inside = np.broadcast_to(reference.along(~others, shape, axis), shape)
            assert differing(chosen(large, ~inside), chosen(before_large, ~inside)) == []
            assert differing(chosen(small, others), chosen(before_small, others)) == []
            assert np.isnan(large["y"][inside]).all()
            for name in ("mean", "var", "invstd", "running_mean", "running_var", "moments.mean", "moments.m2"):
                assert np.isnan(small[name][channel]), name
            # Element by element: inference spoils one element, as NumPy would; a frozen gradient does not see x.
            spoiled = large["normalize"]
            np.testing.assert_array_equal(spoiled[~bad], before_large["normalize"][~bad])
            with np.errstate(invalid="ignore"):
                wanted = reference.normalize(x, *given, weight, bias, axis=axis)
            np.testing.assert_array_equal(spoiled[bad], wanted[bad].astype(dtype))
            np.testing.assert_array_equal(large["frozen"], before_large["frozen"])
            assert not np.isfinite(small["dweight"][channel])
            assert np.isfinite(small["dbias"][channel])
            # The same in dy.
            hurt = dy.copy()
            hurt[bad] = x[bad]
            large, small = run(clean, hurt)
            assert differing(chosen(large, ~inside), chosen(before_large, ~inside)) == []
            assert differing(chosen(small, others), chosen(before_small, others)) == []
            assert not np.isfinite(large["dx"][inside]).any()
            assert not np.isfinite([small["dweight"][channel], small["dbias"][channel]]).any()
            np.testing.assert_array_equal(large["frozen"][~bad], before_large["frozen"][~bad])


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
