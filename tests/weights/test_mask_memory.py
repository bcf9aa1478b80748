"""Promise: masks and weights of any type, shape and layout are read where they lie, never expanded or written."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
from support import peak_memory
from support.assertions import assert_gradients, assert_train
from support.bits import bits_of_everything, bits_of_training
from support.dtypes import BFLOAT16, FLOATS
from support.layouts import dense, fortran, misaligned, packed_record, padded, readonly, stepped
from support.marks import every_dtype, every_isa
from support.oracle import element_weights
from support.weights import (
    every_shape,
    mask_shapes,
    random_integer_weights,
    random_mask,
    random_weighting,
    random_weights,
)

pytestmark = pytest.mark.untraced

Array = np.ndarray


# Types, shapes and memory of masks and weights.

PLACES: dict[str, Callable[[Array], Array]] = {
    "dense": dense,
    "fortran": fortran,
    "stepped": stepped(2, -1, 3),
    "padded": padded(1, 2, 3),
    "misaligned": misaligned,
    "record": packed_record,
    "readonly": readonly,
    "list": lambda values: values.tolist(),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("axis", [1, 2, (0, 2), ()], ids=str)
def test_any_memory(place: str, axis: Any, rng: np.random.Generator) -> None:
    """Wherever a mask's memory lies, and however often its elements are repeated."""
    for turn, shape in enumerate(mask_shapes((9, 5, 12)) * 3):
        x, dy = rng.standard_normal((2, 9, 5, 12)).astype(FLOATS[turn % 2])
        kinds = (("where", random_mask), ("weights", random_weights), ("weights", random_integer_weights))
        kind, make = kinds[turn % 3]
        values = make(rng, shape)
        values[(0, 0, 0)] = 1
        p = element_weights(x.shape, **{kind: values})
        for given in (PLACES[place](values), np.broadcast_to(values, x.shape)):
            result = fastbn.batch_norm_train(x, axis=axis, **{kind: given})
            assert_train(x, result, axis=axis, p=p)
            saved = {"mean": result.mean, "invstd": result.invstd, "axis": axis}
            got = fastbn.batch_norm_backward(dy, x, **saved, **{kind: given})
            assert_gradients(got, dy, x, **saved, p=p)


@every_isa
@every_dtype
def test_any_type_of_weights(dtype: Any, rng: np.random.Generator) -> None:
    """Of the same values, the same bits."""
    x, dy = rng.standard_normal((2, 9, 5, 12)).astype(dtype)
    kinds = [np.float16, BFLOAT16, np.float32, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64]
    for shape in ((9, 1, 1), (9, 5, 12), (12,), (5, 1), (1, 1, 12)):
        weights = rng.integers(0, 100, shape).astype(np.float64)
        want = bits_of_training(x, dy, None, None, 1, {"weights": weights})
        for kind in kinds:
            assert bits_of_training(x, dy, None, None, 1, {"weights": weights.astype(kind)}) == want, kind


@every_isa
@every_dtype
@every_shape
def test_any_byte_but_zero_is_true(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """As numpy has it, where an array of bytes is looked upon as one of truth values."""
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    for mask in ((shape[0], *[1] * (len(shape) - 1)), shape):
        raw = rng.choice(np.array([0, 1, 2, 128, 255], np.uint8), mask)
        raw[0] = 2
        any_byte, plain = raw.view(bool), raw != 0
        assert bits_of_training(x, dy, None, None, 1, {"where": any_byte}) == bits_of_training(
            x, dy, None, None, 1, {"where": plain}
        )
        assert bits_of_training(
            x, dy, None, None, 1, {"where": any_byte, "weights": np.full(mask, 0.5)}
        ) == bits_of_training(x, dy, None, None, 1, {"where": plain, "weights": np.full(mask, 0.5)})


def test_fewer_dimensions_are_the_last_ones(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 3, 5))
    for mask in ((), (1,), (5,), (3, 1), (3, 5), (1, 5), (1, 1, 1)):
        where = rng.random(mask) < 0.6
        expected = fastbn.batch_norm_train(x, where=np.broadcast_to(where, x.shape))
        got = fastbn.batch_norm_train(x, where=where)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@every_isa
def test_arguments_are_left_as_they_are(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 4, 5))
    where, weights = random_mask(rng, (6, 1, 5)), random_weights(rng, (6, 4, 1))
    before = x.tobytes(), where.tobytes(), weights.tobytes()
    bits_of_everything(x, x, None, None, 1, where=where, weights=weights)
    assert (x.tobytes(), where.tobytes(), weights.tobytes()) == before


@every_isa
@every_dtype
@pytest.mark.parametrize("axis", [1, 2])
def test_out_given_and_in_place(dtype: Any, axis: int, rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 6, 5, 7)).astype(dtype)
    for turn, mask in enumerate(((6, 1, 1), (6, 5, 7), (6, 1, 7), (1, 5, 1))):
        weighting = random_weighting(rng, mask, turn)
        expected = fastbn.batch_norm_train(x, axis=axis, **weighting)
        saved = {"mean": expected.mean, "invstd": expected.invstd, "axis": axis}
        wanted = fastbn.batch_norm_backward(dy, x, **saved, **weighting)
        for target in ("given", "x", "dy"):
            a, b = x.copy(), dy.copy()
            out = {"given": np.full_like(x, np.nan), "x": a, "dy": b}[target]
            got = fastbn.batch_norm_backward(b, a, **saved, **weighting, out=out)
            assert got.dx is out
            for one, other in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(one, other)
        inplace = x.copy()
        result = fastbn.batch_norm_train(inplace, axis=axis, out=inplace, **weighting)
        assert result.y is inplace
        for one, other in zip(result, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@every_isa
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
def test_empty_batch(shape: tuple[int, ...]) -> None:
    x = np.empty(shape)
    for weighting in ({"where": np.ones(shape, bool)}, {"where": np.array(True)}, {"where": np.ones((1, 1), bool)}):
        result = fastbn.batch_norm_train(x, **weighting)
        assert result.y.shape == shape
        assert result.count.tolist() == [0.0] * 3
        running = np.full(3, 5.5), np.full(3, 7.5)
        assert fastbn.batch_norm(x, *running, training=True, **weighting).shape == shape
        assert (running[0] == 5.5).all()
        assert (running[1] == 7.5).all()
        found = fastbn.moments(x, **weighting)
        assert found.count.tolist() == found.m2.tolist() == [0.0] * 3
        assert np.isnan(found.mean).all()
        got = fastbn.batch_norm_backward(x, x, mean=np.zeros(3), invstd=np.ones(3), **weighting)
        assert got.dweight.tolist() == got.dbias.tolist() == [0.0] * 3


# Memory: a mask is not expanded to x's shape.

MASKS: dict[str, peak_memory.Options] = {
    "samples": {"where": ((16, 1, 1, 1), "?")},
    "positions": {"where": ((16, 1, 112, 112), "?")},
    "weighted-samples": {"weights": ((16, 1, 1, 1), "f8")},
    "weighted-positions": {"weights": ((16, 1, 112, 112), "f4")},
    "both": {"where": ((16, 1, 112, 112), "?"), "weights": ((16, 1, 1, 1), "f8")},
    "each": {"where": ((16, 16, 112, 112), "?")},
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell peaks")
@pytest.mark.parametrize(
    ("mask", "op"),
    [*((mask, "train") for mask in MASKS), *itertools.product(("positions", "both"), ("backward", "moments"))],
)
def test_masks_are_not_expanded(mask: str, op: str) -> None:
    """The limit, one MiB, holds one mask of positions; an array of x's shape takes 3.2 MB in bytes, 26 in float64."""
    if fastbn.pool_info().limit and not recycles():
        pytest.skip("a sanitized build has memory of its own")
    assert peak_memory.kibibytes((16, 16, 112, 112), 1, op, 2, MASKS[mask]) < 1024


def recycles() -> bool:
    """Builds for AddressSanitizer never recycle."""
    fastbn.batch_norm_train(np.zeros((12_000, 64), np.float32))
    return fastbn.pool_info().held > 0
