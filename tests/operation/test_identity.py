"""Promise: what the operation is for, and what goes wrong without its gradient (Ioffe & Szegedy 2015, section 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbn
from support import oracle
from support.assertions import assert_ulps
from support.dtypes import FLOATS
from support.layouts import LAYOUTS, Layout, layout_id

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", LAYOUTS[::4], ids=layout_id)
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (0.01, 5), (300, -1000)])
def test_identity_is_representable(
    dtype: Any, layout: Layout, scale: float, offset: float, rng: np.random.Generator
) -> None:
    """With gamma = sqrt(var + eps) and beta = mean, it gives x back."""
    x = layout.fill(rng, dtype, scale, offset)
    found = fastbn.moments(x, axis=layout.axis)
    y = fastbn.batch_norm(x, None, None, np.sqrt(found.var() + 1e-5), found.mean, training=True, axis=layout.axis)
    # 16 ulp of the larger of |x| and |beta|, as for any y; and in inference.
    size = oracle.along(np.abs(found.mean), x.shape, layout.axis)
    assert_ulps(y, x, size)
    y = fastbn.normalize(x, found.mean, found.var(), np.sqrt(found.var() + 1e-5), found.mean, axis=layout.axis)
    assert_ulps(y, x, size)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", LAYOUTS[1::4], ids=layout_id)
def test_plain_standardization(dtype: Any, layout: Layout, rng: np.random.Generator) -> None:
    """With gamma = 1 and beta = 0, it gives mean 0 and variance 1."""
    x = layout.fill(rng, dtype, 25, -700)
    plain = fastbn.batch_norm(x, training=True, eps=0, axis=layout.axis)
    ones = np.ones(layout.features)
    np.testing.assert_array_equal(
        fastbn.batch_norm(x, None, None, ones, 0 * ones, training=True, eps=0, axis=layout.axis), plain
    )
    found = oracle.moments(plain, layout.axis)
    constant = fastbn.moments(x, axis=layout.axis).m2 == 0
    # Each y is rounded to its type, a few ulp of a number of order one; their mean is no further off.
    limit = 8 * np.finfo(dtype).eps
    assert np.abs(found.mean).max() < limit
    assert np.abs(found.m2 / found.count - 1)[~constant].max(initial=0) < 2 * limit


def test_invariance_to_shift_and_stretch(rng: np.random.Generator) -> None:
    """BN(a x + b) = BN(x): a layer's weights may be of any size before it."""
    x = rng.standard_normal((64, 5))
    y = fastbn.batch_norm(x, training=True, eps=0)
    for a, b in ((2.0, 0.0), (1e-6, 3.0), (1e6, -1e6), (1.0, 100.0)):
        # What a x + b loses in its own rounding, it loses before it comes here.
        loss = np.finfo(float).eps * (abs(a) * 4 + abs(b)) / abs(a)
        np.testing.assert_allclose(fastbn.batch_norm(a * x + b, training=True, eps=0), y, rtol=0, atol=8 * loss)
    np.testing.assert_allclose(fastbn.batch_norm(-x, training=True, eps=0), -y, rtol=0, atol=1e-14)


class Step:
    """A linear map with a bias before the normalization: u = v W + b, y = BN(u), loss = |y - target|^2 / (2 N)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.v = rng.standard_normal((128, 6))
        self.w = rng.standard_normal((6, 4)) / 2
        self.b = np.zeros(4)
        self.beta = np.zeros(4)
        self.target = rng.standard_normal((128, 4)) + 0.5

    def forward(self, b: np.ndarray) -> tuple[np.ndarray, Any]:
        u = self.v @ self.w + b
        return u, fastbn.batch_norm_train(u, None, self.beta)

    def loss(self, b: np.ndarray) -> float:
        return float(((self.forward(b)[1].y - self.target) ** 2).sum() / (2 * len(self.v)))

    def gradients(self, training: bool) -> tuple[np.ndarray, np.ndarray, fastbn.Gradients]:
        """Return the gradients of W and of b, and the normalization's own."""
        u, found = self.forward(self.b)
        dy = (found.y - self.target) / len(self.v)
        got = fastbn.batch_norm_backward(dy, u, mean=found.mean, invstd=found.invstd, training=training)
        return self.v.T @ got.dx, got.dx.sum(0), got


def test_a_bias_before_it_has_no_gradient(rng: np.random.Generator) -> None:
    step = Step(rng)
    dw, db, got = step.gradients(training=True)
    # Exactly zero but for the rounding of 128 terms.
    assert np.abs(db).max() < 1e-14 * np.abs(dw).max()
    assert np.abs(got.dbias).min() > 0.1  # while beta's is not small
    # Because it is absorbed: the loss does not know it.
    for shift in (1.0, -30.0, 1e3):
        assert step.loss(step.b + shift) == pytest.approx(step.loss(step.b), rel=1e-11)


def test_beta_takes_its_place(rng: np.random.Generator) -> None:
    step = Step(rng)
    before = step.loss(step.b)
    for _ in range(100):
        step.beta -= 0.5 * step.gradients(training=True)[2].dbias
    assert step.loss(step.b) < before - 0.1
    # Each step takes half of what is missing: after a hundred nothing is, but for the rounding of the last ones.
    np.testing.assert_allclose(step.beta, step.target.mean(0), rtol=0, atol=1e-14)


def test_a_bias_grows_for_ever_where_the_gradient_ignores_the_mean(rng: np.random.Generator) -> None:
    """Section 2 of the paper: b moves at every step, the loss does not move at all."""
    step = Step(rng)
    losses, sizes = [step.loss(step.b)], [0.0]
    for _ in range(60):
        step.b = step.b - 0.5 * step.gradients(training=False)[1]  # statistics taken for constants
        losses.append(step.loss(step.b))
        sizes.append(float(np.abs(step.b).min()))
    growth = np.diff(sizes)
    assert (growth > 0).all()
    # And no end of it: the last step is as long as the first.
    assert growth[-1] == pytest.approx(growth[0], rel=1e-9)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-11)
    # The whole gradient leaves it where it is.
    whole = Step(np.random.default_rng(20150211))
    for _ in range(60):
        whole.b = whole.b - 0.5 * whole.gradients(training=True)[1]
    assert np.abs(whole.b).max() < 1e-14
