"""Promise: a layer of weight alone, of bias alone, of neither; and the two arrays that evaluation mode amounts to."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import BatchNorm
from support import oracle
from support.random_arrays import batch
from support.tolerances import CLOSE

PARTS = [(True, True), (True, False), (False, True), (False, False)]


def with_parts(use_weight: bool, use_bias: bool, **options: Any) -> BatchNorm:
    layer = BatchNorm(3, use_weight=use_weight, use_bias=use_bias, **options)
    rng = np.random.default_rng(2)
    for array in layer.parameters():
        array[...] = rng.normal(size=3)
    return layer


@pytest.mark.parametrize(("use_weight", "use_bias"), PARTS)
def test_forward_and_backward(use_weight: bool, use_bias: bool) -> None:
    layer, x, dy = with_parts(use_weight, use_bias), batch(6, 3, 4), batch(6, 3, 4, seed=1)
    want = oracle.train(x, layer.weight, layer.bias)
    np.testing.assert_allclose(layer(x), want.y, **CLOSE)
    gradients = oracle.backward(dy, x, layer.weight, want.mean, want.invstd)
    np.testing.assert_allclose(layer.backward(dy), gradients.dx, **CLOSE)
    names = [name for name, used in (("weight", use_weight), ("bias", use_bias)) if used]
    assert all(array is getattr(layer, name) for array, name in zip(layer.parameters(), names, strict=True))
    wanted = {"weight": gradients.dweight, "bias": gradients.dbias}
    for name, gradient in zip(names, layer.gradients(), strict=True):
        assert gradient is getattr(layer, f"grad_{name}")
        np.testing.assert_allclose(gradient, wanted[name], **CLOSE)
    assert (layer.weight is None, layer.grad_weight is None) == (not use_weight,) * 2
    assert (layer.bias is None, layer.grad_bias is None) == (not use_bias,) * 2
    layer.freeze(parameters=True)(x)
    layer.backward(dy)
    assert all((gradient == 0).all() for gradient in layer.gradients())


@pytest.mark.parametrize(("use_weight", "use_bias"), PARTS)
def test_state_repr_files_pickles_and_copies_follow(use_weight: bool, use_bias: bool, tmp_path: Path) -> None:
    layer = with_parts(use_weight, use_bias)
    layer(batch(6, 3, 4))
    assert list(layer.state_dict())[:-3] == ["weight"] * use_weight + ["bias"] * use_bias
    layer.save(tmp_path / "layer.npz")
    others = [BatchNorm.load(tmp_path / "layer.npz"), pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)]
    others.append(BatchNorm(use_weight=use_weight, use_bias=use_bias))
    others[-1].load_state_dict(layer.state_dict())
    for other in others:
        assert (other.use_weight, other.use_bias, other.affine) == (use_weight, use_bias, use_weight or use_bias)
        assert repr(other) == repr(layer)
        assert eval(repr(other), {"BatchNorm": BatchNorm}).state_dict().keys() == layer.state_dict().keys()
        np.testing.assert_equal(other.state_dict(), layer.state_dict())


def test_affine_off_is_both_off() -> None:
    for layer in (BatchNorm(3, affine=False), BatchNorm(3, use_weight=False, use_bias=False)):
        assert (layer.affine, layer.use_weight, layer.use_bias) == (False, False, False)
        assert layer.parameters() == []
        assert "affine=False" in repr(layer)
        assert "use_" not in repr(layer)
    assert "affine=True" in repr(BatchNorm(3, use_bias=False))
    assert "use_bias=False" in repr(BatchNorm(3, use_bias=False))


def test_pickles_of_layers_that_knew_no_parts() -> None:
    for affine in (True, False):
        state = BatchNorm(3, affine=affine).__getstate__()
        for name in ("use_weight", "use_bias", "renorm"):
            del state[name]
        layer = BatchNorm.__new__(BatchNorm)
        layer.__setstate__(state)
        assert repr(layer) == repr(BatchNorm(3, affine=affine))
        assert len(layer.parameters()) == 2 * affine
        layer(batch(6, 3, 4))


def test_init_identity_needs_both() -> None:
    with pytest.raises(ValueError, match="affine must be True for init_identity, got False"):
        BatchNorm(affine=False).init_identity(batch(6, 3))
    for name in ("use_weight", "use_bias"):
        with pytest.raises(ValueError, match=f"{name} must be True for init_identity, got False"):
            BatchNorm(**{name: False}).init_identity(batch(6, 3))


@pytest.mark.parametrize("name", ["use_weight", "use_bias"])
def test_flags_are_checked(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 1"):
        BatchNorm(3, **{name: 1})


# scale_shift.


@pytest.mark.parametrize(("use_weight", "use_bias"), PARTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale_and_shift_are_evaluation_mode(use_weight: bool, use_bias: bool, dtype: Any) -> None:
    layer = with_parts(use_weight, use_bias, dtype=dtype)
    layer(batch(6, 3, 4))
    scale, shift = layer.scale_shift()
    assert scale.dtype == shift.dtype == np.float64
    x = batch(5, 3, seed=4)
    np.testing.assert_allclose(scale * x + shift, layer.eval()(x), **CLOSE)
    before = layer.state_dict()
    scale[...], shift[...] = np.nan, np.nan
    np.testing.assert_equal(layer.state_dict(), before)


def test_where_the_deviation_is_zero_the_shift_is_the_bias() -> None:
    layer = with_parts(True, True, eps=0.0)
    layer.running_var[...] = [0.0, 4.0, np.inf]
    layer.running_mean[...] = [np.inf, 1.0, 2.0]
    scale, shift = layer.scale_shift()
    np.testing.assert_array_equal(scale[[0, 2]], 0.0)
    np.testing.assert_array_equal(shift[[0, 2]], layer.bias[[0, 2]])
    assert scale[1] == layer.weight[1] / 2


def test_scale_and_shift_need_running_statistics() -> None:
    with pytest.raises(ValueError, match="track_running_stats must be True for scale_shift, got False"):
        BatchNorm(3, track_running_stats=False).scale_shift()
    with pytest.raises(RuntimeError, match="num_features must be known"):
        BatchNorm().scale_shift()
