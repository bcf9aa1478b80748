"""Promise: a folded linear map gives what map and layer give one after the other, to rounding of float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, fold
from support.oracle import Array

# Sums of at most 200 products of size 1, folded and not: some hundred roundings of float64.
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def layer_of(features: int, **options: Any) -> BatchNorm:
    """Return a layer with gammas of 0 and below, and variances near 0."""
    rng = np.random.default_rng(features)
    layer = BatchNorm(features, **options)
    weight = rng.normal(size=features)
    weight[::3] = 0.0
    var = rng.uniform(0.5, 2.0, features)
    var[1::4] = 1e-12
    state = {"weight": weight, "bias": rng.normal(size=features)}
    state |= {"running_mean": rng.normal(size=features), "running_var": var}
    layer.load_state_dict({key: state[key] for key in state if key in layer.state_dict()}, strict=False)
    return layer.eval()


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape)


# Linear maps, in NumPy.


@pytest.mark.parametrize("given", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("options", [{}, {"use_weight": False}, {"use_bias": False}, {"affine": False}, {"eps": 0.0}])
def test_matrices_in_either_order(options: dict[str, Any], given: bool) -> None:
    u, w, b = normal(9, 5), normal(5, 7), normal(7) if given else None
    offset = 0.0 if b is None else b
    after, before = layer_of(7, **options), layer_of(5, **options)
    for side, layer, want in (
        ("after", after, after(u @ w + offset)),
        ("before", before, before(u) @ w + offset),
    ):
        size = np.abs(layer.scale_shift()[0]).max()  # 1e6 where the variance is 1e-12 and eps is 0
        axis = 1 if side == "after" else 0
        folded, shift = fold(layer, w, b, axis=axis, side=side)
        np.testing.assert_allclose(u @ folded + shift, want, rtol=1e-12, atol=1e-12 * max(1.0, size))
        turned, same = fold(layer, w.T, b, axis=1 - axis, side=side)
        np.testing.assert_array_equal(turned, folded.T)
        np.testing.assert_array_equal(same, shift)


def test_what_the_bias_of_the_map_adds_is_absorbed() -> None:
    u, w, b = normal(30, 5), normal(5, 7), normal(7)
    one, other = (BatchNorm(7, momentum=1.0) for _ in range(2))
    one(u @ w)
    other(u @ w + b)
    folded, shift = fold(one, w, axis=1)
    absorbed, same = fold(other, w, b, axis=1)
    np.testing.assert_allclose(absorbed, folded, **CLOSE)
    np.testing.assert_allclose(same, shift, **CLOSE)


def test_results_are_fresh_and_of_the_dtype_of_weight() -> None:
    layer = layer_of(3)
    for dtype in (np.float16, np.float32, np.float64):
        w = normal(3, 4).astype(dtype)
        before = w.copy()
        folded, shift = fold(layer, w, np.zeros(3, np.float32))
        assert folded.dtype == shift.dtype == dtype
        assert not np.shares_memory(folded, w)
        np.testing.assert_array_equal(w, before)
    layer.running_mean[...] = np.inf
    layer.weight[...] = 0.0
    np.testing.assert_array_equal(fold(layer, w)[1], layer.bias)


def test_an_activation_comes_after_the_folded_map() -> None:
    layer, u, w = layer_of(7, activation="relu"), normal(9, 5), normal(5, 7)
    folded, shift = fold(layer, w, axis=1)
    np.testing.assert_allclose(np.maximum(u @ folded + shift, 0), layer(u @ w), **CLOSE)


def test_bfloat16() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    folded, shift = fold(layer_of(3), normal(3, 4).astype(ml_dtypes.bfloat16))
    assert folded.dtype == shift.dtype == ml_dtypes.bfloat16


# A depthwise kernel as Keras has it, (row, column, in, multiplier), against sums written out.


def test_depthwise_of_keras() -> None:
    images, w = normal(2, 5, 5, 3), normal(2, 2, 3, 2)

    def convolved(x: Array, kernel: Array) -> Array:
        windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(1, 2))
        return np.einsum("nrcikl,klim->nrcim", windows, kernel).reshape(2, 4, 4, 6)

    after, before = layer_of(6, axis=-1), layer_of(3, axis=-1)
    folded, shift = fold(after, w, axis=-1, groups=3)
    np.testing.assert_allclose(convolved(images, folded) + shift, after(convolved(images, w)), **CLOSE)
    folded, shift = fold(before, w, axis=-2, groups=3, side="before")
    np.testing.assert_allclose(convolved(images, folded) + shift, convolved(before(images), w), **CLOSE)


# Convolutions, judged by PyTorch's.


CONVOLUTIONS = [(1, 1), (2, 1), (3, 1), (1, 2), (2, 3), (2, 6)]


@pytest.mark.parametrize("given", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize(("rank", "groups"), CONVOLUTIONS)
def test_after_a_convolution(rank: int, groups: int, transposed: bool, given: bool) -> None:
    torch = pytest.importorskip("torch")
    inputs, outputs = 6, 12
    operation = getattr(torch.nn.functional, f"conv{'_transpose' * transposed}{rank}d")
    shape = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    w, x = normal(*shape, *(3, 2, 2)[:rank]), normal(2, inputs, *(7, 6, 5)[:rank])
    b, layer = normal(outputs) if given else None, layer_of(outputs)
    how = {"stride": 2, "padding": 1, "dilation": 2, "groups": groups}

    def run(kernel: Array, offset: Array | None) -> Array:
        tensors = [None if each is None else torch.from_numpy(each) for each in (kernel, offset)]
        result: Array = operation(torch.from_numpy(x), *tensors, **how).numpy()
        return result

    folded, shift = fold(layer, w, b, axis=int(transposed), groups=groups)
    np.testing.assert_allclose(run(folded, shift), layer(run(w, b)), **CLOSE)
    # The same kernel with its channel axes last: HWIO, or (..., in, out / groups) of a transposed one.
    last = np.moveaxis(w, (0, 1), (-2, -1) if transposed else (-1, -2))
    turned, same = fold(layer, last, b, axis=-1, groups=groups)
    np.testing.assert_array_equal(np.moveaxis(turned, (-2, -1) if transposed else (-1, -2), (0, 1)), folded)
    np.testing.assert_array_equal(same, shift)


@pytest.mark.parametrize(("rank", "groups"), CONVOLUTIONS)
def test_before_a_convolution_without_padding(rank: int, groups: int) -> None:
    torch = pytest.importorskip("torch")
    w, b, x = normal(12, 6 // groups, *(3, 2, 2)[:rank]), normal(12), normal(2, 6, *(7, 6, 5)[:rank])
    layer = layer_of(6)
    convolve = getattr(torch.nn.functional, f"conv{rank}d")

    def run(inputs: Array, kernel: Array, offset: Array) -> Array:
        result: Array = convolve(*map(torch.from_numpy, (inputs, kernel, offset)), stride=2, groups=groups).numpy()
        return result

    folded, shift = fold(layer, w, b, axis=1, groups=groups, side="before")
    size = np.abs(folded).max()
    np.testing.assert_allclose(run(x, folded, shift), run(layer(x), w, b), rtol=1e-12, atol=1e-12 * size)
    turned, same = fold(layer, np.moveaxis(w, (0, 1), (-1, -2)), b, axis=-2, groups=groups, side="before")
    np.testing.assert_array_equal(np.moveaxis(turned, (-1, -2), (0, 1)), folded)
    np.testing.assert_allclose(same, shift, rtol=1e-13, atol=1e-13 * size)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_before_a_transposed_convolution_away_from_the_border(groups: int) -> None:
    torch = pytest.importorskip("torch")
    w, b, x, layer = normal(6, 12 // groups, 3), normal(12), normal(2, 6, 9), layer_of(6)

    def run(inputs: Array, kernel: Array, offset: Array) -> Array:
        tensors = map(torch.from_numpy, (inputs, kernel, offset))
        result: Array = torch.nn.functional.conv_transpose1d(*tensors, groups=groups).numpy()
        return result

    folded, shift = fold(layer, w, b, axis=0, groups=groups, side="before")
    inside = (slice(None), slice(None), slice(2, -2))
    got, want = run(x, folded, shift), run(layer(x), w, b)
    np.testing.assert_allclose(got[inside], want[inside], rtol=1e-12, atol=1e-12 * np.abs(folded).max())
    assert np.abs(got - want).max() > 1e-3  # as the docstring says of the border


def test_padding_by_what_the_layer_maps_to_zero_makes_it_exact() -> None:
    torch = pytest.importorskip("torch")
    layer, w, x = layer_of(2, use_weight=False), normal(4, 2, 3, 3), normal(1, 2, 5, 5)
    scale, shift = layer.scale_shift()
    padded = np.broadcast_to((-shift / scale)[:, None, None], (1, 2, 7, 7)).copy()
    padded[:, :, 1:-1, 1:-1] = x
    folded, offset = fold(layer, w, axis=1, side="before")
    convolve = torch.nn.functional.conv2d
    got = convolve(*map(torch.from_numpy, (padded, folded, offset))).numpy()
    want = convolve(*map(torch.from_numpy, (layer(x), w)), padding=1).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(folded).max())


# Errors.


REFUSED = [
    ({"layer": 3}, TypeError, r"layer must be a fastbn\.BatchNorm, got int"),
    ({"layer": [BatchNorm(4)]}, TypeError, r"layer must be a fastbn\.BatchNorm, got list"),
    ({"layer": BatchNorm(4, track_running_stats=False)}, ValueError, "layer must have running statistics, got"),
    ({"layer": BatchNorm((2, 2), axis=(1, 2))}, ValueError, r"layer must have one feature axis, got.*\(2, 2\)"),
    ({"layer": BatchNorm(4, activation="relu"), "side": "before"}, ValueError, "no activation for side='before', got"),
    ({"layer": BatchNorm(5)}, ValueError, r"weight must have 5 channels along axis 0, got 4 \(shape \(4, 3, 2\)\)"),
    (
        {"layer": layer_of(3)},
        ValueError,
        r"weight must have 3 channels along axis 0, got 4 \(shape \(4, 3, 2\); axis=1 has 3\)",
    ),
    ({"side": "within"}, ValueError, "side must be 'after' or 'before', got 'within'"),
    ({"weight": np.ones((4, 3), np.int64)}, TypeError, "weight must have a floating-point dtype, got int64"),
    ({"weight": np.ma.ones((4, 3))}, TypeError, "weight must not be a masked array"),
    ({"weight": BatchNorm(4)}, TypeError, r"weight must be an array, got BatchNorm\(4, axis=1"),
    ({"weight": None}, TypeError, "weight must be an array, got None"),
    ({"weight": np.ones(4)}, ValueError, r"weight must have two dimensions or more, got shape \(4,\)"),
    ({"bias": np.ones(3)}, ValueError, r"bias must have shape \(4,\), got \(3,\)"),
    ({"bias": "abcd"}, TypeError, "bias must be an array, got 'abcd'"),
    ({"bias": list("abcd")}, TypeError, "bias must have a floating-point dtype, got <U1"),
    ({"axis": 3}, ValueError, "axis must name an axis of weight, which has 3 dimensions, got 3"),
    ({"axis": 1.0}, TypeError, r"axis must be an int, got 1\.0"),
    ({"axis": True}, TypeError, "axis must be an int, got True"),
    ({"weight": np.ones((3, 3, 4, 3, 3)), "axis": 2}, ValueError, r"axis must be one of weight's first two or last"),
    ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
    ({"groups": 3}, ValueError, "groups must divide the 4 channels along weight's axis 0, got 3"),
    ({"weight": np.ones((3, 2)), "axis": 1, "groups": 2}, ValueError, "groups must divide the 3 channels along"),
    (
        {"weight": np.full((4, 3), 6e4, np.float16), "layer": layer_of(4)},
        ValueError,
        "weight must fit float16 when fol",
    ),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_wrong_arguments_are_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"layer": BatchNorm(4), "weight": np.ones((4, 3, 2))} | changes
    with pytest.raises(error, match=message):
        fold(**arguments)


def test_sparse_matrices_are_refused() -> None:
    class Sparse:  # as of any library: it counts what it holds
        nnz = 1

    with pytest.raises(TypeError, match=r"weight must be dense.*got a sparse Sparse"):
        fold(BatchNorm(3), Sparse())


def test_undecided_features() -> None:
    with pytest.raises(RuntimeError, match="num_features must be known"):
        fastbn.fold(BatchNorm(), np.ones((4, 3)))


@pytest.mark.parametrize("groups", [1, 2])
def test_before_a_layer_of_groups_the_offsets_of_each_group_are_summed(groups: int) -> None:
    """A kernel (outputs, inputs / groups): output o takes the inputs of its own group."""
    w, x, layer = normal(4, 6 // groups), normal(5, 6), layer_of(6)

    def result(inputs: Array, kernel: Array) -> Array:
        parts = np.split(inputs, groups, axis=1)
        return np.concatenate([i @ k.T for i, k in zip(parts, np.split(kernel, groups), strict=True)], axis=1)

    folded, shift = fold(layer, w, axis=1, groups=groups, side="before")
    np.testing.assert_allclose(result(x, folded) + shift, result(layer(x), w), rtol=1e-12, atol=1e-12)
