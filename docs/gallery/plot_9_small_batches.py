r"""
Small batches
=============

The statistics of a small batch are noisy, and evaluation uses others. What helps depends on why
the batch is small. If it is one process's part of a large one, *synchronized* statistics make
it one batch again. If it must be small, *batch renormalization* (Ioffe 2017) corrects the
batch's statistics towards the running ones. And if a large batch is too quiet, *ghost batches*
(Hoffer and others, 2017) normalize its parts by themselves. This page trains one network in all
of these ways.
"""

# %%
# Synchronized statistics are those of one batch
# ----------------------------------------------
#
# ``comm`` is anything with ``allgather(obj) -> list``; an mpi4py communicator is one. For this
# page four threads of one process do, each with 4 of 16 rows. What they compute, forward and
# backward, is what one layer computes from all 16:

import threading

import matplotlib.pyplot as plt
import numpy as np

import fastbn
import images
from network import Network
from training import train_step


class Threads:
    """A communicator between threads, with the one method that a layer asks for."""

    def __init__(self, rank, shared, barrier):
        self.rank, self.shared, self.barrier = rank, shared, barrier

    def allgather(self, value):
        self.shared[self.rank] = value
        self.barrier.wait()
        everything = list(self.shared)
        self.barrier.wait()
        return everything


rng = np.random.default_rng(0)
x, dy = rng.normal(5.0, 2.0, size=(2, 16, 8))
alone = fastbn.BatchNorm(8)
y, dx = alone(x), alone.backward(dy)

shared, barrier, errors = [None] * 4, threading.Barrier(4), [0.0] * 4


def work(rank):
    layer = fastbn.BatchNorm(8, comm=Threads(rank, shared, barrier))
    rows = slice(4 * rank, 4 * rank + 4)
    errors[rank] = max(
        np.abs(layer(x[rows]) - y[rows]).max(),
        np.abs(layer.backward(dy[rows]) - dx[rows]).max(),
    )


threads = [threading.Thread(target=work, args=(rank,)) for rank in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"4 ranks of 4 rows, and one batch of 16: largest difference {max(errors):.0e}")

# %%
# So a synchronized run on four ranks of 4 rows learns what a run with batches of 16 learns, and
# the second is shown for it below.
#
# Six ways to train
# -----------------
#
# The digits network of ``examples/``, with two hidden layers. Its layers are plain; with
# renormalization, whose limits open after 100 steps as in that paper; or made of ghost batches:
# the parts become an axis, and statistics are kept for each part and feature.


class Ghost(fastbn.BatchNorm):
    """Normalizes each `part` rows of a training batch by themselves; parameters are shared."""

    part = 4

    def __call__(self, x):
        if not self.training:
            return super().__call__(x)
        self._parts = x.reshape(-1, self.part, x.shape[1])
        self._weight = np.broadcast_to(self.weight, (len(self._parts), x.shape[1]))
        self._result = fastbn.batch_norm_train(self._parts, self._weight, axis=(0, 2))
        whole = fastbn.moments(x)  # what evaluation should use, parts or not
        self.running_mean += self.momentum * (whole.mean - self.running_mean)
        self.running_var += self.momentum * (whole.var(correction=1) - self.running_var)
        return self._result.y.reshape(x.shape) + self.bias

    def backward(self, dy):
        dx, dweight, dbias = fastbn.batch_norm_backward(
            dy.reshape(self._parts.shape),
            self._parts,
            self._weight,
            mean=self._result.mean,
            invstd=self._result.invstd,
            axis=(0, 2),
        )
        self.grad_weight[...], self.grad_bias[...] = dweight.sum(axis=0), dbias.sum(axis=0)
        return dx.reshape(dy.shape)


def limits(step):
    """Return how far renormalization may go: not at all at first, then further and further."""
    return min(1.0, max(0.0, (step - 100) / 300))


RENORM = (lambda step: 1 + 2 * limits(step), lambda step: 5 * limits(step))
WAYS = {
    "batches of 2": (2, fastbn.BatchNorm),
    "batches of 2, renormalized": (2, lambda units: fastbn.BatchNorm(units, renorm=RENORM)),
    "batches of 4": (4, fastbn.BatchNorm),
    "4 ranks of 4, synchronized: 16": (16, fastbn.BatchNorm),
    "batches of 64": (64, fastbn.BatchNorm),
    "batches of 64, ghosts of 4": (64, Ghost),
}
digits = images.load()
STEPS, EVERY = 1_000, 50


def learn(batch, make_layer, seed=0):
    """Return the test accuracy, by the running statistics, every EVERY steps."""
    network = Network((64, 50, 50, 10), normalized=True, seed=seed)
    network.layers = [
        make_layer(50) if isinstance(layer, fastbn.BatchNorm) else layer
        for layer in network.layers
    ]
    rng, accuracy = np.random.default_rng(seed), []
    for step in range(STEPS):
        rows = rng.integers(0, len(digits.train_labels), batch)
        train_step(network, digits.train_images[rows], digits.train_labels[rows], rate=0.1)
        if (step + 1) % EVERY == 0:
            network.eval()
            guesses = network(digits.test_images).argmax(axis=1)
            network.train()
            accuracy.append(np.mean(guesses == digits.test_labels))
    return np.array(accuracy)


figure, axes = plt.subplots(figsize=(8, 4))
styles = ("--", "-", "--", "-", "--", "-")
for (name, (batch, make_layer)), style, color in zip(
    WAYS.items(), styles, ("C1", "C1", "C2", "C2", "C0", "C0")
):
    curve = 100 * np.mean([learn(batch, make_layer, seed) for seed in (0, 1)], axis=0)
    axes.plot(np.arange(EVERY, STEPS + 1, EVERY), curve, style, color=color, label=name)
    print(f"{name:32} {curve[9]:5.1f} % after 500 steps, {curve[-4:].mean():5.1f} % at the end")
axes.set(xlabel="step", ylabel="test accuracy, %", title="the same network, six ways")
axes.legend(fontsize="small", loc="lower right")

# %%
# - With batches of 2, training and evaluation are nearly two different networks. Renormalization
#   recovers about half of what that costs, and nothing has to be exchanged.
# - Statistics of four ranks together are worth as much as a batch of their size, since they are
#   the same thing: take them where there are several processes.
# - Ghost batches cost a little here, beside the batch of 64 that they are parts of: their noise
#   is a regularization, and this task asks for none. They are far better than a batch of 4,
#   because each step still averages the gradient over 64 rows, and evaluation uses statistics of
#   whole batches.
