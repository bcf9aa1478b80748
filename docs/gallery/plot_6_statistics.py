r"""
Batch, moving and population statistics
=======================================

In training a layer normalizes by its batch. In evaluation there may be no batch, only one row;
then it normalizes by statistics that it remembered. Which ones? Frameworks remember a moving
average over the batches of training. The paper takes the population's: the mean and the
variance over the training set, with the final weights (Algorithm 2, lines 8 to 11). This page
shows how the moving average approaches the truth, what evaluation sees until then, and
:func:`fastbn.population_statistics`, which gives the exact ones.
"""

# %%
# How long a moving average remembers where it began
# --------------------------------------------------
#
# Running statistics begin as mean 0 and variance 1. After t batches,
#
# .. math:: \text{running} = (1 - m)^t \cdot \text{start} + m \sum_{i=1}^{t} (1 - m)^{t - i} \cdot \text{statistic}_i ,
#
# where m is ``momentum`` (PyTorch's meaning: the weight of the newest batch). Here are 200
# features with mean 10 and deviation 2, in batches of 16, and the root mean square over the
# features of the running statistics' errors:

import matplotlib.pyplot as plt
import numpy as np

import fastbn

MEAN, STD, BATCH, FEATURES = 10.0, 2.0, 16, 200
steps = np.arange(1, 1_001)

figure, (left, right) = plt.subplots(1, 2)
for momentum, color in {0.1: "C0", 0.01: "C1", None: "C2"}.items():
    rng = np.random.default_rng(0)
    layer = fastbn.BatchNorm(FEATURES, momentum=momentum)
    errors, deviations = [], []
    for _ in steps:
        layer(rng.normal(MEAN, STD, size=(BATCH, FEATURES)))
        errors.append(np.sqrt(np.mean((layer.running_mean - MEAN) ** 2)) / STD)
        deviations.append(np.sqrt(np.mean(layer.running_var)))
    label = "plain average (momentum=None)" if momentum is None else f"momentum {momentum}"
    left.loglog(steps, errors, color=color, label=label)
    right.semilogx(steps, deviations, color=color, label=label)
    if momentum is not None:
        start = (1 - momentum) ** steps * MEAN / STD
        left.loglog(steps, start, ":", color="gray", linewidth=1)
        forgotten = int(steps[start < 0.01][0])
        print(
            f"momentum {momentum}: the start is worth less than 0.01 deviations from batch {forgotten} on"
        )
left.set(
    xlabel="batches", ylabel="deviations", title="error of the running mean", ylim=(5e-3, 10)
)
right.set(xlabel="batches", title="running deviation")
right.axhline(STD, color="gray", linewidth=1, linestyle=":")
right.legend(fontsize="small")

# %%
# Dotted are the start's part in the running mean, :math:`(1 - m)^t`, and the true deviation. A
# large momentum forgets the start soon, and keeps a noise that never falls: it averages over
# some 20 batches, :math:`(2 - m) / m`. A small one is steadier and takes hundreds of batches to
# arrive. The plain average is best for data that stay as they are.
#
# In a network they do not
# ------------------------
#
# While a network trains, its weights change, and with them the values that a layer is given. A
# moving average describes the weights of some steps ago. The digits network of ``examples/``,
# evaluated after every few steps, each time in three ways: with the moving average of momentum
# 0.1, with that of 0.01, and with the population's statistics.

import copy

import images
from network import Network, cross_entropy
from training import train_step

digits = images.load()


def norms(network):
    return [layer for layer in network.layers if isinstance(layer, fastbn.BatchNorm)]


def evaluated(network):
    """Return the loss and the accuracy over the test images, by the running statistics."""
    network.eval()
    logits = network(digits.test_images)
    network.train()
    accuracy = np.mean(logits.argmax(axis=1) == digits.test_labels)
    return cross_entropy(logits, digits.test_labels)[0], accuracy


def with_population_statistics(network):
    """Return a copy that has the statistics of all training images."""
    network = copy.deepcopy(network)
    with fastbn.population_statistics(*norms(network)):
        network(digits.train_images)
    return network


shown = (1, 2, 5, 10, 20, 50, 100, 200, 500)
found = {}
for momentum in (0.1, 0.01):
    network = Network((64, 100, 100, 100, 10), normalized=True, seed=0)
    for layer in norms(network):
        layer.momentum = momentum
    rng = np.random.default_rng(0)
    for step in range(1, shown[-1] + 1):
        rows = rng.integers(0, len(digits.train_labels), 60)
        train_step(network, digits.train_images[rows], digits.train_labels[rows], rate=1.0)
        if step in shown:
            name = f"moving average, momentum {momentum}"
            found.setdefault(name, []).append(evaluated(network))
            # Training does not look at running statistics: both networks have the same weights.
            if momentum == 0.1:
                exact = evaluated(with_population_statistics(network))
                found.setdefault("population statistics", []).append(exact)

figure, (left, right) = plt.subplots(1, 2)
for (name, values), color, style in zip(
    sorted(found.items()), ("C1", "C0", "C2"), ("o--", "o-.", "o-")
):
    losses, accuracies = np.array(values).T
    left.semilogx(shown, 100 * accuracies, style, color=color, markersize=4, label=name)
    right.loglog(shown, losses, style, color=color, markersize=4)
    at = ", ".join(f"{100 * accuracies[i]:.1f}" for i in (4, 6, 8))
    print(f"{name:30} test accuracy after 20, 100, 500 steps: {at} %")
left.set(xlabel="training steps", title="test accuracy, %", ylim=(0, 105))
right.set(xlabel="training steps", title="test loss", ylim=(0.02, 10))
right.legend(*left.get_legend_handles_labels(), fontsize="small", loc="lower left")

# %%
# All three are the same network. With momentum 0.01 it looks as if it learned nothing for a
# hundred steps; it is the evaluation that lags. If evaluation is far worse than training, look
# at the running statistics first.
#
# The exact statistics, at the end
# --------------------------------
#
# The block measures whatever runs inside, with weights that stay as they are, and merges the
# batches' statistics exactly. So the batches may have any sizes, and need not be alike. The
# average of the batches' variances, which the paper uses in line 10, leaves out how far the
# batches' means lie apart:

batches = [
    np.random.default_rng(i).normal(mean, 1.0, size=(rows, 1))
    for i, (mean, rows) in enumerate([(0, 50), (10, 20), (20, 7)])
]
exact, averaged = fastbn.BatchNorm(1), fastbn.BatchNorm(1, momentum=None)
with fastbn.population_statistics(exact):
    for batch in batches:
        exact(batch)
for batch in batches:
    averaged(batch)
everything = np.concatenate(batches)
print(
    f"all the data            mean {everything.mean():5.2f}, variance {everything.var(ddof=1):6.2f}"
)
print(
    f"population_statistics   mean {exact.running_mean[0]:5.2f}, variance {exact.running_var[0]:6.2f}"
)
print(
    f"average over batches    mean {averaged.running_mean[0]:5.2f}, variance {averaged.running_var[0]:6.2f}"
)
