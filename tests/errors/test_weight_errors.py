"""Promise: a mask or weights that are none are refused by every function, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fastbn
import fastbn._core
from support.assertions import assert_train
from support.dtypes import BFLOAT16
from support.marks import every_isa
from support.oracle import element_weights

pytestmark = pytest.mark.untraced

Array = np.ndarray


def calls(x: Array, out: Array, running: tuple[Array, Array]) -> dict[str, Callable[..., Any]]:
    saved: dict[str, Any] = {"mean": np.zeros(3), "invstd": np.ones(3)}
    return {
        "batch_norm": lambda **k: fastbn.batch_norm(x, *running, training=True, out=out, **k),
        "inference": lambda **k: fastbn.batch_norm(x, *running, out=out, **k),
        "batch_norm_train": lambda **k: fastbn.batch_norm_train(x, out=out, **k),
        "batch_norm_backward": lambda **k: fastbn.batch_norm_backward(x, x, **saved, out=out, **k),
        "frozen": lambda **k: fastbn.batch_norm_backward(x, x, **saved, training=False, out=out, **k),
        "moments": lambda **k: fastbn.moments(x, **k),
    }


NAMES = tuple(calls(np.ones((4, 3)), np.ones((4, 3)), (np.zeros(3), np.ones(3))))
SHAPE = (4, 3, 5)


def refuses(name: str, error: type[Exception], pattern: str = "", **arguments: Any) -> None:
    """Assert that every call fails, naming its argument, and that nothing is written."""
    for call in NAMES:
        refuses_in(call, name, error, pattern, arguments)


def refuses_in(call: str, name: str, error: type[Exception], pattern: str, arguments: dict[str, Any]) -> None:
    x, out = np.random.default_rng(61).standard_normal(SHAPE), np.full(SHAPE, 123.0)
    running = np.full(3, 5.5), np.full(3, 7.5)
    with pytest.raises(error, match=rf"^{name} must .*{pattern}.*, got ") as caught:
        calls(x, out, running)[call](**arguments)
    assert type(caught.value) is error
    assert (out == 123.0).all()
    assert (running[0] == 5.5).all()
    assert (running[1] == 7.5).all()


NOT_BROADCASTABLE = [
    (4,),
    (3,),
    (2,),
    (0,),
    (5, 1),
    (4, 3),
    (3, 4),
    (4, 3, 4),
    (5, 3, 4),
    (1, 4, 3, 5),
    (4, 3, 5, 1),
    (4, 3, 0),
    (1, 1, 1, 1),
]


@pytest.mark.parametrize("shape", NOT_BROADCASTABLE, ids=str)
def test_shapes_that_do_not_broadcast(shape: tuple[int, ...]) -> None:
    refuses("where", ValueError, r"broadcastable to x's shape \(4, 3, 5\)", where=np.ones(shape, bool))
    refuses("weights", ValueError, r"broadcastable to x's shape \(4, 3, 5\)", weights=np.ones(shape))
    with pytest.raises(ValueError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        fastbn.moments(np.ones(SHAPE), where=np.ones(shape, bool))


def test_a_mask_without_the_last_axis_is_told_what_it_lacks() -> None:
    x = np.ones((4, 3, 5))
    for name, kind in (("where", bool), ("weights", float)):
        for shape in ((4,), (4, 3)):
            given = np.ones(shape, kind)
            with pytest.raises(ValueError, match=r"got \(4,( 3)?\) \(.* has the axes that are missing\)$") as refused:
                fastbn.moments(x, **{name: given})
            how = str(refused.value).partition(") (")[2].partition(" has the axes")[0]
            assert fastbn.moments(x, **{name: eval(how, {name: given})}) == fastbn.moments(x)
        for other in (pd.Series(np.ones(4, kind)), np.ones(4, kind).tolist()):
            with pytest.raises(ValueError, match=r" has the axes that are missing\)$") as refused:
                fastbn.moments(x, **{name: other})
            how = str(refused.value).partition(") (")[2].partition(" has the axes")[0]
            assert fastbn.moments(x, **{name: eval(how, {name: other, "np": np})}) == fastbn.moments(x)
        with pytest.raises(ValueError, match=r"got \(3, 4\)$"):
            fastbn.moments(x, **{name: np.ones((3, 4), kind)})


@pytest.mark.parametrize("dtype", ["u1", "i1", "i8", "f4", "f8", "c8", "O", "U1", BFLOAT16], ids=str)
def test_where_of_another_type(dtype: Any) -> None:
    refuses("where", TypeError, where=np.ones((4, 1, 1)).astype(dtype))


@pytest.mark.parametrize(
    "value", ["abc", object(), {}, [[1, 0]], [0.0, 1.0], [None], np.ma.masked_array([True], [True])]
)
def test_where_that_is_no_mask(value: Any) -> None:
    refuses("where", TypeError, where=value)


@pytest.mark.parametrize("dtype", ["c8", "c16", "O", "U1", "S1", "M8[s]", "m8[s]"], ids=str)
def test_weights_of_another_type(dtype: Any) -> None:
    values = np.ones((4, 1, 1)) if str(dtype) != "M8[s]" else np.ones((4, 1, 1), int)
    refuses("weights", TypeError, weights=values.astype(dtype))


@pytest.mark.parametrize("value", ["abc", object(), {}, [None], np.ma.masked_array([1.0], [True])], ids=repr)
def test_weights_that_are_no_numbers(value: Any) -> None:
    refuses("weights", TypeError, weights=value)


@pytest.mark.parametrize("bad", [-1.0, -1e-300, -5e-324, -np.inf, np.inf, np.nan])
@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 3, 5), (1, 1, 5), ()], ids=str)
def test_weights_that_are_no_weights(bad: float, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(67)
    for kind in (np.float64, np.float32, np.float16, BFLOAT16):
        weights = rng.uniform(0, 2, shape).astype(kind)
        with np.errstate(all="ignore"):
            weights[tuple(rng.integers(0, n) for n in shape)] = bad
        if not np.isfinite(given := weights.astype(float)).all() or (given < 0).any():
            refuses("weights", ValueError, "finite and not negative", weights=weights)
            refuses("weights", ValueError, "finite and not negative", weights=np.broadcast_to(weights, SHAPE))
    message = {-1.0: "-1", -np.inf: "-inf", np.inf: "inf", np.nan: "nan"}.get(bad, "-")
    with pytest.raises(ValueError, match=f"got .*{message}"):
        fastbn.moments(np.ones(SHAPE), weights=np.full(shape, bad))


def test_negative_integers_are_no_weights() -> None:
    for kind in (np.int8, np.int16, np.int32, np.int64):
        weights = np.array([1, 2, np.iinfo(kind).min, 1]).astype(kind).reshape(4, 1, 1)
        refuses("weights", ValueError, "finite and not negative", weights=weights)


def test_bad_weights_are_refused_behind_a_mask_too() -> None:
    weights = np.ones((4, 1, 1))
    weights[2] = np.nan
    where = np.isfinite(weights)
    refuses("weights", ValueError, "finite and not negative", weights=weights, where=where)


@every_isa
def test_negative_zero_is_no_less_than_zero() -> None:
    x = np.arange(12.0).reshape(4, 3)
    weights = np.array([[1.0], [-0.0], [2.0], [0.0]])
    result = fastbn.batch_norm_train(x, weights=weights)
    assert_train(x, result, p=element_weights(x.shape, weights=weights))


def test_out_may_not_overlap_weights() -> None:
    x = np.random.default_rng(3).standard_normal(SHAPE)
    saved = {"mean": np.zeros(3), "invstd": np.ones(3)}
    for name, view in (("weights", np.ones(SHAPE)), ("where", np.ones(SHAPE, "f8"))):
        given = view if name == "weights" else view.view(bool)[..., ::8]
        before = view.copy()
        for call in (
            lambda k, out: fastbn.batch_norm_train(x, out=out, **k),
            lambda k, out: fastbn.batch_norm(x, training=True, out=out, **k),
            lambda k, out: fastbn.batch_norm_backward(x, x, **saved, out=out, **k),
        ):
            with pytest.raises(ValueError, match=r"^out must .*, got "):
                call({name: given}, view)
            np.testing.assert_array_equal(view, before)


def test_running_statistics_may_not_overlap_weights() -> None:
    x = np.random.default_rng(3).standard_normal((4, 3))
    weights, other = np.ones(3), np.ones(3)
    for name, pair in (("running_mean", (weights, other)), ("running_var", (other, weights))):
        with pytest.raises(ValueError, match=rf"^{name} must .*, got "):
            fastbn.batch_norm(x, *pair, training=True, weights=weights)
        assert weights.tolist() == other.tolist() == [1.0] * 3


@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 3, 5), (1, 1, 5)], ids=str)
def test_more_weight_than_float64_holds(shape: tuple[int, ...]) -> None:
    for call in NAMES:
        if call not in ("inference", "frozen"):
            refuses_in(call, "weights", ValueError, "", {"weights": np.full(shape, 1e308)})
