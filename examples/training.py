"""Networks trained side by side on the same batches, and what was measured on the way; knows no printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from network import Array, Labels, Network, cross_entropy

if TYPE_CHECKING:
    from images import Digits

BATCH = 60  # as in the paper
PERCENTILES = (15, 50, 85)


class Curve(NamedTuple):
    """What was measured of one network while it trained.

    Attributes
    ----------
    steps : ndarray of int, shape (M,)
        The training steps taken before each measurement; the first is 0.
    accuracy : ndarray of shape (M,)
        The part of the test images that was recognized.
    inputs : ndarray of shape (M, 3, units)
        Percentiles 15, 50 and 85, over the test images, of the input of each sigmoid in the last hidden layer.
    """

    steps: Labels
    accuracy: Array
    inputs: Array


def train(
    networks: Mapping[str, Network],
    digits: Digits,
    *,
    rate: float,
    seed: int,
    steps: int,
    every: int,
    on_step: Callable[[int], object] = lambda step: None,
) -> dict[str, Curve]:
    """Train all networks on the same batches by stochastic gradient descent, and measure them every so many steps.

    Parameters
    ----------
    networks : mapping of str to Network, changed in place
    digits : Digits
    rate : float
        Learning rate: each step subtracts ``rate * gradient``.
    seed : int
        Seed of the order of the images.
    steps, every : int
        Training steps, and those between measurements; the first is before the first step, the last after the last.
    on_step : callable, optional
        Called with the number of steps taken after each of them.

    Returns
    -------
    dict of str to Curve
    """
    measured: dict[str, list[tuple[int, float, Array]]] = {name: [] for name in networks}
    for step, rows in enumerate(_batches(len(digits.train_labels), steps, seed)):
        for name, network in networks.items():
            if step % every == 0:
                measured[name].append((step, *measure(network, digits)))
            train_step(network, digits.train_images[rows], digits.train_labels[rows], rate)
        on_step(step + 1)
    for name, network in networks.items():
        measured[name].append((steps, *measure(network, digits)))
    return {name: Curve(*(np.array(column) for column in zip(*rows, strict=True))) for name, rows in measured.items()}


def train_step(network: Network, images: Array, labels: Labels, rate: float) -> float:
    """Take one step down the gradient of the batch's loss, and return that loss."""
    loss, dlogits = cross_entropy(network(images), labels)
    network.backward(dlogits)
    for parameter, gradient in zip(network.parameters(), network.gradients(), strict=True):
        parameter -= rate * gradient
    return loss


def measure(network: Network, digits: Digits) -> tuple[float, Array]:
    """Return the test accuracy and the percentiles of the last sigmoids' inputs, by the running statistics."""
    network.eval()
    guesses = network(digits.test_images).argmax(axis=1)
    network.train()
    inputs: Array = np.percentile(network.last_sigmoid_input(), PERCENTILES, axis=0)
    return float(np.mean(guesses == digits.test_labels)), inputs


def first_step_above(curve: Curve, accuracy: float) -> int | None:
    """Return the first measured step at which the test accuracy is above the given one, or None."""
    above = np.flatnonzero(curve.accuracy > accuracy)
    return int(curve.steps[above[0]]) if len(above) else None


def _batches(images: int, steps: int, seed: int) -> Iterator[Labels]:
    """Yield the rows of each step's batch: all images in random order, then again in another."""
    rng = np.random.default_rng(seed)
    size = min(BATCH, images)
    order = np.empty(0, dtype=np.intp)
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(images)])
        yield order[:size]
        order = order[size:]
