"""Promise: y has the type that dtype= or out= says, and types that nothing is computed in are refused."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastbn
import fastbn._core
from support.bits import bits
from support.dtypes import BFLOAT16, INTEGERS, TYPES, y_type
from support.interpreters import run_python
from support.marks import every_half, every_isa
from support.random_arrays import parameters, random_values

pytestmark = pytest.mark.untraced


# Which type y has.


def test_the_type_of_y(rng: np.random.Generator) -> None:
    mean, var = np.zeros(3), np.ones(3)
    for dtype in TYPES:
        x = random_values(rng, (6, 3), dtype)
        results = [
            fastbn.batch_norm_train(x).y,
            fastbn.batch_norm(x, training=True),
            fastbn.batch_norm(x, mean, var),
            fastbn.normalize(x, mean, var),
        ]
        assert {y.dtype for y in results} == {y_type(dtype)}


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        (np.float16, np.float16),
        ("float16", np.float16),
        ("e", np.float16),
        (np.dtype(np.float32), np.float32),
        ("f4", np.float32),
        (float, np.float64),
        ("=f8", np.float64),
        (ml_dtypes.bfloat16, BFLOAT16),
        (BFLOAT16, BFLOAT16),
        ("bfloat16", BFLOAT16),
        (None, np.float32),
    ],
    ids=str,
)
def test_spellings_of_a_type(spelled: Any, meant: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    for y in (
        fastbn.batch_norm_train(x, dtype=spelled).y,
        fastbn.batch_norm(x, training=True, dtype=spelled),
        fastbn.batch_norm(x, np.zeros(3), np.ones(3), dtype=spelled),
        fastbn.normalize(x, np.zeros(3), np.ones(3), dtype=spelled),
    ):
        assert y.dtype == meant
        assert y.dtype.isnative


BAD_TYPES = [
    bool,
    int,
    "int8",
    np.uint8,
    "complex64",
    object,
    "U4",
    "M8[s]",
    np.dtype(np.float32).newbyteorder("S"),
    np.dtype(np.float16).newbyteorder("S"),
    [("value", np.float32)],
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.int4,
    "V2",
    "no type at all",
    3,
    np.zeros(3),
]
if np.dtype(np.longdouble).itemsize > 8:
    BAD_TYPES.append(np.longdouble)


@pytest.mark.parametrize("bad", BAD_TYPES, ids=lambda v: str(v)[:30])
def test_types_that_y_cannot_have(bad: Any) -> None:
    x = np.ones((4, 3))
    running = np.zeros(3), np.ones(3)
    for call in (
        lambda: fastbn.batch_norm_train(x, dtype=bad),
        lambda: fastbn.batch_norm(x, *running, training=True, dtype=bad),
        lambda: fastbn.batch_norm(x, *running, dtype=bad),
        lambda: fastbn.normalize(x, *running, dtype=bad),
    ):
        with pytest.raises(TypeError, match=r"^dtype must .*, got "):
            call()
    assert [a.tolist() for a in running] == [[0.0] * 3, [1.0] * 3]


@pytest.mark.parametrize(("dtype", "out"), [("float32", "float64"), ("float16", BFLOAT16), (BFLOAT16, "float16")])
def test_dtype_and_out_that_differ(dtype: Any, out: Any) -> None:
    x, target = np.ones((4, 3)), np.full((4, 3), 5, out)
    running = np.zeros(3), np.ones(3)
    for call in (
        lambda: fastbn.batch_norm_train(x, dtype=dtype, out=target),
        lambda: fastbn.batch_norm(x, *running, training=True, dtype=dtype, out=target),
        lambda: fastbn.normalize(x, *running, dtype=dtype, out=target),
    ):
        with pytest.raises(TypeError, match=r"^(dtype|out) must .*, got "):
            call()
    assert (target == 5).all()
    assert [a.tolist() for a in running] == [[0.0] * 3, [1.0] * 3]


def test_dx_of_another_type_than_dy() -> None:
    x, dy = np.ones((4, 3)), np.ones((4, 3), np.float16)
    for out in (np.full((4, 3), 5.0), np.full((4, 3), 5, BFLOAT16), np.full((4, 3), 5, np.int16)):
        with pytest.raises(TypeError, match=r"^out must .*, got "):
            fastbn.batch_norm_backward(dy, x, mean=np.zeros(3), invstd=np.ones(3), out=out)
        assert (out == 5).all()


@every_isa
@every_half
@pytest.mark.parametrize("axis", [1, 2])
def test_in_place(dtype: Any, axis: int, rng: np.random.Generator) -> None:
    x, dy = (random_values(rng, (6, 5, 7), dtype, 2, 3) for _ in range(2))
    weight, bias = parameters(rng, (x.shape[axis],))
    expected = fastbn.batch_norm_train(x, weight, bias, axis=axis)
    saved = {"mean": expected.mean, "invstd": expected.invstd, "axis": axis}
    wanted = fastbn.batch_norm_backward(dy, x, weight, **saved)
    for target in ("x", "dy"):
        a, b = x.copy(), dy.copy()
        out = a if target == "x" else b
        got = fastbn.batch_norm_backward(b, a, weight, **saved, out=out)
        assert got.dx is out
        assert bits(out) == bits(wanted.dx)
    inplace = x.copy()
    assert fastbn.batch_norm_train(inplace, weight, bias, axis=axis, out=inplace).y is inplace
    assert bits(inplace) == bits(expected.y)
    y = fastbn.normalize(x, expected.mean, expected.var, weight, bias, axis=axis)
    inplace = x.copy()
    fastbn.normalize(inplace, expected.mean, expected.var, weight, bias, axis=axis, out=inplace)
    assert bits(inplace) == bits(y)


@pytest.mark.parametrize("size", [4, 8])
def test_out_of_another_type_in_the_same_memory(size: int) -> None:
    """An element of y lies where other elements of x do: that is an overlap, though both begin alike."""
    raw = np.zeros(60 * size, np.uint8)
    wide = raw.view(f"f{size}").reshape(12, 5)
    wide[...] = np.random.default_rng(3).standard_normal((12, 5))
    narrow = raw.view(f"f{size // 2}")[:60].reshape(12, 5)
    before = raw.copy()
    for x, out in ((wide, narrow), (narrow.view(np.int16 if size == 4 else np.int32), wide)):
        with pytest.raises(ValueError, match=r"^out must .*, got "):
            fastbn.batch_norm_train(x, out=out)
        np.testing.assert_array_equal(raw, before)
    # So do integers and floats of one size: only x itself is in place.
    integers = raw.view("i4")[:60].reshape(12, 5)
    with pytest.raises(ValueError, match=r"^out must .*, got "):
        fastbn.batch_norm_train(integers, out=integers.view(np.float32))
    np.testing.assert_array_equal(raw, before)


# Types that are none of these.


REFUSED = [np.complex64, np.complex128, ml_dtypes.float8_e5m2, ml_dtypes.int4]


def test_a_byte_order_that_is_spelled_out(rng: np.random.Generator) -> None:
    for dtype in (np.float32, np.float64, np.float16, np.int16):
        x = (100 * rng.standard_normal((6, 3))).astype(dtype)
        spelled = x.view(np.dtype(dtype).newbyteorder("<" if sys.byteorder == "little" else ">"))
        assert spelled.dtype.byteorder in "<>"
        np.testing.assert_array_equal(fastbn.moments(spelled).m2, fastbn.moments(x).m2)
        out = np.empty(x.shape, np.dtype("f4").newbyteorder("<" if sys.byteorder == "little" else ">"))
        assert fastbn.normalize(x, np.zeros(3), np.ones(3), out=out) is out


SWAPPED = [np.dtype(d).newbyteorder("S") for d in (np.float16, np.float32)]


@pytest.mark.parametrize("dtype", REFUSED, ids=str)
def test_other_types_of_x(dtype: Any) -> None:
    x = np.ones((4, 3)).astype(dtype)
    one = np.ones(3)
    for call in (
        lambda: fastbn.batch_norm_train(x),
        lambda: fastbn.batch_norm(x, one.copy(), one.copy(), training=True),
        lambda: fastbn.normalize(x, one, one),
        lambda: fastbn.moments(x),
        lambda: fastbn.batch_norm_backward(np.ones((4, 3)), x, mean=one, invstd=one),
    ):
        with pytest.raises(TypeError, match=r"^x must .*, got "):
            call()


@pytest.mark.parametrize(
    ("dtype", "only_read"),
    [(d, False) for d in REFUSED] + [(d, True) for d in (*INTEGERS, bool, np.int64, np.uint32, np.uint64, *SWAPPED)],
    ids=str,
)
def test_other_types_of_everything_else(dtype: Any, only_read: bool) -> None:
    """What is written is floating-point, in the machine's byte order; what is read may be any number."""
    x, one = np.ones((4, 3), np.float32), np.ones(3)
    features, full = np.ones(3).astype(dtype), np.ones((4, 3)).astype(dtype)
    for name, call in {
        "weight": lambda: fastbn.batch_norm_train(x, features),
        "bias": lambda: fastbn.normalize(x, one, one, one, features),
        "mean": lambda: fastbn.normalize(x, features, one),
        "var": lambda: fastbn.normalize(x, one, features),
        "running_mean": lambda: fastbn.batch_norm(x, features, one.copy(), training=True),
        "running_var": lambda: fastbn.batch_norm(x, one.copy(), features, training=True),
        "invstd": lambda: fastbn.batch_norm_backward(x, x, mean=one, invstd=features),
        "dy": lambda: fastbn.batch_norm_backward(full, x, mean=one, invstd=one),
        "out": lambda: fastbn.normalize(x, one, one, out=full),
    }.items():
        if only_read and name not in ("running_mean", "running_var", "out"):
            call()
            continue
        with pytest.raises(TypeError, match=rf"^{name} must .*, got "):
            call()


WITHOUT = """
import sys, numpy as np, fastbn
x = np.arange(12, dtype=np.float32).reshape(4, 3)
assert fastbn.batch_norm_train(x, dtype="float16").y.dtype == np.float16
try:
    fastbn.batch_norm_train(x, dtype="bfloat16")
except TypeError as error:
    assert str(error).startswith("dtype must "), error
else:
    raise SystemExit("bfloat16 without ml_dtypes")
assert "ml_dtypes" not in sys.modules
import ml_dtypes
y = fastbn.batch_norm_train(x, dtype="bfloat16").y
assert y.dtype == ml_dtypes.bfloat16
again = fastbn.batch_norm_train(y)
assert again.y.dtype == ml_dtypes.bfloat16
print(again.y.astype(float).tolist() == y.astype(float).tolist())
"""


def test_ml_dtypes_is_never_imported_and_may_come_later() -> None:
    done = run_python(WITHOUT)
    assert done.stdout.split() == ["True"], done.stderr[-1000:]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
def test_empty_batch(dtype: Any, shape: tuple[int, ...]) -> None:
    x = np.empty(shape, dtype)
    y, mean, var, invstd, count = fastbn.batch_norm_train(x)
    assert (y.shape, y.dtype, count) == (shape, y_type(dtype), 0)
    assert np.isnan([mean, var, invstd]).all()
    got = fastbn.batch_norm_backward(y, x, mean=np.zeros(3), invstd=np.ones(3))
    assert (got.dx.shape, got.dx.dtype) == (shape, y_type(dtype))
    assert got.dweight.tolist() == got.dbias.tolist() == [0.0] * 3
