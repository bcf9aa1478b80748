"""A network of sigmoid layers in plain NumPy, with or without batch normalization; knows no data and no printing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

import fastbn

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.intp]

DEVIATION = 0.1  # of the initial weights; the paper says small


class Layer(Protocol):
    """What the network asks of a layer; `fastbn.BatchNorm` has it as it comes."""

    def __call__(self, x: Array, /) -> Array:
        """Return the layer's output for a batch of shape (N, features)."""

    def backward(self, dy: Array, /) -> Array:
        """Return the gradient by the last call's x, and keep those by the parameters."""

    def parameters(self) -> list[Array]:
        """Return the parameters, to be changed in place."""

    def gradients(self) -> list[Array]:
        """Return the gradients that `backward` kept, in the order of `parameters`."""


class Linear:
    """``y = x @ weight + bias``, with small random Gaussian weights and a bias that starts at zero.

    Parameters
    ----------
    inputs, outputs : int
        Number of features of x and of y.
    deviation : float
        Standard deviation of the initial weights.
    rng : numpy.random.Generator
        Where the initial weights come from.
    bias : bool, default True
        Whether there is one. Before batch normalization it would be redundant: the mean takes it away again.
    """

    def __init__(
        self, inputs: int, outputs: int, *, deviation: float, rng: np.random.Generator, bias: bool = True
    ) -> None:
        self.weight: Array = rng.normal(0.0, deviation, (inputs, outputs))
        self.bias: Array | None = np.zeros(outputs) if bias else None
        self._gradients: list[Array] = []

    def __call__(self, x: Array, /) -> Array:
        """Return y of shape (N, outputs) for x of shape (N, inputs)."""
        self._x = x
        y: Array = x @ self.weight
        return y if self.bias is None else y + self.bias

    def backward(self, dy: Array, /) -> Array:
        """Return the gradient by x, and keep those by weight and bias."""
        self._gradients = [self._x.T @ dy] if self.bias is None else [self._x.T @ dy, dy.sum(axis=0)]
        dx: Array = dy @ self.weight.T
        return dx

    def parameters(self) -> list[Array]:
        """Return the weight and, where there is one, the bias."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def gradients(self) -> list[Array]:
        """Return the gradients of the last `backward`."""
        return self._gradients


class Sigmoid:
    """``y = 1 / (1 + exp(-x))``.

    Attributes
    ----------
    input : ndarray
        The last call's x: what the paper's Figure 1 watches.
    """

    input: Array

    def __call__(self, x: Array, /) -> Array:
        """Return y of x's shape."""
        self.input = x
        self._output: Array = 0.5 + 0.5 * np.tanh(0.5 * x)  # the same function; cannot overflow
        return self._output

    def backward(self, dy: Array, /) -> Array:
        """Return the gradient by x: ``dy * y * (1 - y)``."""
        dx: Array = dy * self._output * (1.0 - self._output)
        return dx

    def parameters(self) -> list[Array]:
        """Return nothing: a sigmoid learns nothing."""
        return []

    def gradients(self) -> list[Array]:
        """Return nothing."""
        return []


class Network:
    """Fully connected hidden layers of sigmoid units and a linear layer on top.

    Parameters
    ----------
    sizes : sequence of int
        Number of inputs, of units in each hidden layer, and of classes.
    normalized : bool
        Whether `fastbn.BatchNorm` stands before each sigmoid, in place of the linear layer's bias.
    seed : int
        Seed of the initial weights, which do not depend on ``normalized``.
    deviation : float, default 0.1
        Standard deviation of the initial weights.
    """

    def __init__(self, sizes: Sequence[int], *, normalized: bool, seed: int, deviation: float = DEVIATION) -> None:
        rng = np.random.default_rng(seed)
        self.layers: list[Layer] = []
        for inputs, units in pairwise(sizes[:-1]):
            self.layers.append(Linear(inputs, units, deviation=deviation, rng=rng, bias=not normalized))
            if normalized:
                self.layers.append(fastbn.BatchNorm(units))
            self.layers.append(Sigmoid())
        self.layers.append(Linear(sizes[-2], sizes[-1], deviation=deviation, rng=rng))

    def __call__(self, x: Array) -> Array:
        """Return the logits, of shape (N, classes), for x of shape (N, inputs)."""
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, dlogits: Array) -> None:
        """Compute the gradients of all parameters from that of the last call's logits."""
        for layer in reversed(self.layers):
            dlogits = layer.backward(dlogits)

    def parameters(self) -> list[Array]:
        """Return the parameters of all layers, from the input up."""
        return [parameter for layer in self.layers for parameter in layer.parameters()]

    def gradients(self) -> list[Array]:
        """Return the gradients of the last `backward`, in the order of `parameters`."""
        return [gradient for layer in self.layers for gradient in layer.gradients()]

    def train(self, mode: bool = True) -> None:
        """Normalize by the batch's own statistics, or with False by the running ones."""
        for layer in self.layers:
            if isinstance(layer, fastbn.BatchNorm):
                layer.train(mode)

    def eval(self) -> None:
        """Normalize by the running statistics."""
        self.train(False)

    def last_sigmoid_input(self) -> Array:
        """Return what entered the last hidden layer's sigmoids in the last call, of shape (N, units)."""
        return [layer.input for layer in self.layers if isinstance(layer, Sigmoid)][-1]


def cross_entropy(logits: Array, labels: Labels) -> tuple[float, Array]:
    """Return the mean cross-entropy of softmax(logits), and its gradient by the logits.

    Parameters
    ----------
    logits : ndarray of shape (N, classes)
    labels : ndarray of int, shape (N,)
        The true classes.

    Returns
    -------
    loss : float
    dlogits : ndarray of shape (N, classes)
        ``(softmax(logits) - onehot(labels)) / N``.
    """
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(sums[:, 0]) - shifted[rows, labels]))
    dlogits: Array = exponentials / sums
    dlogits[rows, labels] -= 1.0
    return loss, dlogits / len(labels)
