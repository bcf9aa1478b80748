"""Three facts about batch normalization, each computed: the identity, the bias before it, and what a call costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import fastbn
from network import DEVIATION, Array, Labels, Linear, cross_entropy

EPS = 1e-5


def identity_error(x: npt.NDArray[Any]) -> float:
    """Return the largest absolute difference between x and its normalization with gamma = sigma and beta = mu.

    Here sigma is ``sqrt(var + eps)``, by which the operation divides.

    Parameters
    ----------
    x : ndarray of float32 or float64, shape (N, C)
    """
    moments = fastbn.moments(x)
    y = fastbn.batch_norm_train(x, weight=np.sqrt(moments.var() + EPS), bias=moments.mean, eps=EPS).y
    return float(np.max(np.abs(y - x)))


class BiasGradient(NamedTuple):
    """Largest absolute entries of the gradients by the bias and by the weight of a linear layer, and of a wrong one.

    Attributes
    ----------
    weight, bias : float
        The gradients of the loss.
    neglectful_bias : float
        What passes for the bias's gradient where the batch's mean and variance are taken for constants.
    """

    weight: float
    bias: float
    neglectful_bias: float


class Walk(NamedTuple):
    """What becomes of a bias that takes steps against its gradient, every other parameter kept.

    Attributes
    ----------
    bias : ndarray of shape (steps + 1,)
        Its length before each step and after the last.
    loss : ndarray of shape (steps + 1,)
    """

    bias: Array
    loss: Array


class BiasedClassifier:
    """``softmax(BatchNorm(x @ W + b))`` on one batch: the smallest network with a bias that normalization takes away.

    Parameters
    ----------
    x : ndarray of shape (N, inputs)
    labels : ndarray of int, shape (N,)
    classes : int, default 10
    seed : int, default 0
        Seed of the initial weights.
    """

    def __init__(self, x: Array, labels: Labels, *, classes: int = 10, seed: int = 0) -> None:
        self._x, self._labels = x, labels
        self._linear = Linear(x.shape[1], classes, deviation=DEVIATION, rng=np.random.default_rng(seed))

    def gradients(self) -> BiasGradient:
        """Return the sizes of the gradients at the initial weights."""
        _, (weight, bias) = self._loss_and_gradients(through_statistics=True)
        _, (_, neglectful) = self._loss_and_gradients(through_statistics=False)
        return BiasGradient(*(float(np.max(np.abs(gradient))) for gradient in (weight, bias, neglectful)))

    def walk(self, steps: int, *, through_statistics: bool, rate: float = 1.0) -> Walk:
        """Start with b = 0 and let b alone take steps.

        Parameters
        ----------
        steps : int
        through_statistics : bool
            Whether the gradient flows through the batch's mean and variance, as it should, or takes them for
            constants. In the second case each step adds the same to b and nothing to what comes out, since the mean
            follows b: section 2 of Ioffe & Szegedy (2015).
        rate : float, default 1.0
        """
        bias = self._linear.parameters()[1]
        bias[...] = 0.0
        sizes, losses = [], []
        for _ in range(steps + 1):
            loss, (_, gradient) = self._loss_and_gradients(through_statistics)
            sizes.append(float(np.linalg.norm(bias)))
            losses.append(loss)
            bias -= rate * gradient
        return Walk(np.array(sizes), np.array(losses))

    def _loss_and_gradients(self, through_statistics: bool) -> tuple[float, list[Array]]:
        u = self._linear(self._x)
        result = fastbn.batch_norm_train(u, eps=EPS)
        loss, dy = cross_entropy(result.y, self._labels)
        back = fastbn.batch_norm_backward(dy, u, mean=result.mean, invstd=result.invstd, training=through_statistics)
        self._linear.backward(back.dx)
        return loss, self._linear.gradients()


class Timing(NamedTuple):
    """Medians of interleaved runs, in seconds, and the largest difference between the two results.

    Attributes
    ----------
    fastbn, numpy : float
    difference : float
    """

    fastbn: float
    numpy: float
    difference: float


def numpy_batch_norm(x: npt.NDArray[Any], weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Normalize (N, C, H, W) over all axes but C, as everyone writes it."""
    mean = x.mean(axis=(0, 2, 3), keepdims=True)
    var = x.var(axis=(0, 2, 3), keepdims=True)
    y: npt.NDArray[Any] = weight[:, None, None] * (x - mean) / np.sqrt(var + EPS) + bias[:, None, None]
    return y


def compare_times(shape: tuple[int, int, int, int], *, repeats: int, seed: int = 0) -> Timing:
    """Time one training call of fastbn beside `numpy_batch_norm` on float32, after checking that they agree.

    Parameters
    ----------
    shape : tuple of int
        (N, C, H, W) of the tensor.
    repeats : int
        Timed runs of each, in turns; one run of each goes before and is not timed.
    seed : int, default 0
        Seed of the tensor's normally distributed values.

    Raises
    ------
    AssertionError
        If the two results differ by more than float32's rounding explains.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, dtype=np.float32)
    weight, bias = (rng.standard_normal(shape[1], dtype=np.float32) for _ in range(2))
    ours, theirs = fastbn.batch_norm_train(x, weight, bias, eps=EPS).y, numpy_batch_norm(x, weight, bias)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    difference = float(np.max(np.abs(ours - theirs)))
    times: tuple[list[float], list[float]] = [], []
    for _ in range(repeats):
        times[0].append(_seconds(lambda: fastbn.batch_norm_train(x, weight, bias, eps=EPS)))
        times[1].append(_seconds(lambda: numpy_batch_norm(x, weight, bias)))
    return Timing(statistics.median(times[0]), statistics.median(times[1]), difference)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
