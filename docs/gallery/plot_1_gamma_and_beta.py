r"""
What are gamma and beta for?
============================

Batch normalization first brings every feature to mean 0 and variance 1, and then scales and
shifts it by two numbers that are learned (section 3 of the paper, Algorithm 1):

.. math:: y = \gamma \hat x + \beta, \qquad \hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}}

Why scale and shift what has just been standardized? The paper gives the reason in section 3:
"normalizing the inputs of a sigmoid would constrain them to the linear regime of the
nonlinearity". This page measures that, for one sigmoid, for a stack of them and for a network
that is trained; and then what beta does for a ReLU.
"""

# %%
# One sigmoid
# -----------
#
# Feed a sigmoid with a standard normal input times some scale, fit the best straight line to
# what comes out, and ask how much of the output's variance the line does not explain.

import matplotlib.pyplot as plt
import numpy as np

import fastbn

rng = np.random.default_rng(0)
z = rng.standard_normal(100_000)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unexplained(x, y):
    """Return the part of y's variance that the best linear map of x leaves over: 1 - R^2."""
    design = np.column_stack([np.ones(len(x)), x])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return np.sum(residual**2) / np.sum((y - y.mean(axis=0)) ** 2)


scales = 2.0 ** np.arange(-3, 4.5, 0.5)
left_over = [unexplained(scale * z, sigmoid(scale * z)) for scale in scales]

figure, (left, right) = plt.subplots(1, 2)
x = np.linspace(-6, 6, 400)
slope, intercept = np.polyfit(z, sigmoid(z), 1)
left.fill_between(
    x,
    np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    alpha=0.2,
    color="C0",
    label="density of the input",
)
left.plot(x, sigmoid(x), label="sigmoid")
left.plot(x, intercept + slope * x, "--", label="best line for that input")
left.set(ylim=(-0.05, 1.05), xlabel="input of the sigmoid", title="a standardized input")
left.legend(loc="upper left", fontsize="small")
right.loglog(scales, left_over, "o-", markersize=4)
right.axvline(1, color="gray", linewidth=1, linestyle=":")
right.annotate("gamma = 1", (1.05, 3e-1), color="gray")
right.set(
    xlabel="standard deviation of the input",
    ylabel="variance not explained",
    title="distance from a straight line",
)

for scale in (0.5, 1, 2, 4):
    print(
        f"scale {scale:>3}: a straight line leaves {100 * unexplained(scale * z, sigmoid(scale * z)):5.2f} % of the variance"
    )

# %%
# At scale 1, which is what standardization gives, a straight line explains more than 98 % of
# what the sigmoid does. With :math:`\gamma = 4` it leaves ten times as much: the layer can
# reach the bend, if gamma lets it.
#
# A stack of sigmoids
# -------------------
#
# Almost linear is not quite linear, and small bends add up over many layers. Here is an
# untrained stack with random weights, and how much of each layer's output is a linear map of
# the stack's input:

stack_input = rng.standard_normal((4_000, 32))


def linear_part(gamma, beta_deviation, depth=10):
    """Return R^2 of the best linear map from the input to each layer's output."""
    weights_rng = np.random.default_rng(1)
    h, found = stack_input, []
    for _ in range(depth):
        weight = weights_rng.standard_normal((32, 32))
        beta = beta_deviation * weights_rng.standard_normal(32)
        h = sigmoid(fastbn.batch_norm_train(h @ weight, np.full(32, float(gamma)), beta).y)
        found.append(1 - unexplained(stack_input, h))
    return found


figure, axes = plt.subplots()
for gamma, beta_deviation in ((1, 0), (2, 1), (4, 2), (8, 4)):
    label = f"gamma = {gamma}, " + (
        f"beta random, deviation {beta_deviation}" if beta_deviation else "beta = 0"
    )
    axes.plot(range(1, 11), linear_part(gamma, beta_deviation), "o-", markersize=4, label=label)
axes.set(
    xlabel="layer",
    ylabel="$R^2$ of the best linear map",
    ylim=(0, 1),
    title="how linear a stack of sigmoids is",
)
axes.legend()

# %%
# With :math:`\gamma = 1` and :math:`\beta = 0`, ten layers are still four fifths a linear map.
# Such a network has the parameters of a deep one and does the work of a shallow one.
#
# A network that is trained
# -------------------------
#
# Two tasks in the plane, for which no linear map is of use: which of three rings is a point in,
# and is it in a light or a dark stripe? The network has three hidden layers of 20 sigmoids,
# from the project's ``examples/network.py``. All variants start from the same weights and see
# the same batches; they differ in gamma and beta alone.

from network import Network
from training import train_step


def rings(n, rng):
    """Return n points in a disk, and which of three rings each is in."""
    radius, angle = rng.uniform(0, 3, n), rng.uniform(0, 2 * np.pi, n)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]), radius.astype(
        np.intp
    )


def stripes(n, rng):
    """Return n points in a square of six stripes, and whether each is in a light or a dark one."""
    points = rng.uniform(-3, 3, (n, 2))
    return points, np.floor(points[:, 0]).astype(np.intp) % 2


def trained(task, use_weight, use_bias, seed, steps=1_500):
    """Train a network on a task and return it in evaluation mode."""
    points, labels = task(4_000, np.random.default_rng(seed))
    network = Network(
        (2, 20, 20, 20, labels.max() + 1), normalized=True, seed=seed, deviation=0.5
    )
    norms = []
    for i, layer in enumerate(network.layers):
        if isinstance(layer, fastbn.BatchNorm):
            network.layers[i] = fastbn.BatchNorm(20, use_weight=use_weight, use_bias=use_bias)
            norms.append(network.layers[i])
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.integers(0, len(points), 100)
        train_step(network, points[rows], labels[rows], rate=1.0)
    with fastbn.population_statistics(*norms):
        network(points)
    network.eval()
    return network


variants = {
    "neither": (False, False),
    "gamma alone": (True, False),
    "beta alone": (False, True),
    "gamma and beta": (True, True),
}
grid = np.stack(np.meshgrid(np.linspace(-3, 3, 120), np.linspace(-3, 3, 120)), axis=-1)
figure, axes = plt.subplots(2, 5, figsize=(9.5, 4), sharex=True, sharey=True)
for row, task in zip(axes, (rings, stripes)):
    test_points, test_labels = task(4_000, np.random.default_rng(99))
    row[0].scatter(*test_points.T, c=test_labels, s=1, cmap="cividis")
    row[0].set(title="the task", ylabel=task.__name__, aspect="equal", xticks=[], yticks=[])
    for panel, (name, (use_weight, use_bias)) in zip(row[1:], variants.items()):
        networks = [trained(task, use_weight, use_bias, seed) for seed in (0, 1)]
        logits = [network(test_points) for network in networks]
        accuracy = np.mean([np.mean(each.argmax(axis=1) == test_labels) for each in logits])
        linear = np.mean([1 - unexplained(test_points, each) for each in logits])
        print(
            f"{task.__name__:8} {name:15} test accuracy {100 * accuracy:4.1f} %, R^2 of the best linear map {linear:.2f}"
        )
        guesses = networks[0](grid.reshape(-1, 2)).argmax(axis=1).reshape(grid.shape[:2])
        panel.pcolormesh(grid[..., 0], grid[..., 1], guesses, cmap="cividis", rasterized=True)
        panel.set(title=f"{name}\n{100 * accuracy:.0f} %", aspect="equal")

# %%
# Without the two, a network of three hidden layers does little more than a linear map, on both
# tasks: guessing would be right in a third of the rings and in half of the stripes. What each
# of the two adds is another thing.
#
# - **Beta** is the network's bias, and moves a sigmoid to one side of its bend. Without it, centred points, weights without
#   bias and a sigmoid around its middle make an odd function (around one half). A ring is an even one: gamma alone cannot learn it.
# - **Gamma** takes a sigmoid into the bends on both sides. The stripes are an odd function, and gamma alone is enough for them,
#   where beta alone is not.
#
# A ReLU, and beta
# ----------------
#
# A ReLU has its bend exactly where a standardized input has its mean: half of the values become
# zero. With gamma and beta the part that becomes zero is the normal distribution function at
# :math:`-\beta / \gamma`, so beta chooses how many values pass, and gamma, as long as it is
# positive, how large they are.

from statistics import NormalDist

betas = np.linspace(-2.5, 2.5, 21)
one = z[:, None]
zeros = [
    np.mean(fastbn.batch_norm_train(one, None, np.array([b]), activation="relu").y == 0)
    for b in betas
]
expected = [NormalDist().cdf(-b) for b in betas]

figure, (left, right) = plt.subplots(1, 2)
left.plot(betas, expected, color="gray", linewidth=1, label=r"$\Phi(-\beta)$")
left.plot(betas, zeros, "o", markersize=4, label="measured")
left.set(
    xlabel="beta (gamma = 1)",
    ylabel="part of zeros after the ReLU",
    title="beta decides how much is set to zero",
)
left.legend()
bins = np.linspace(0, 4, 41)
for b in (-1.0, 0.0, 1.0):
    y = fastbn.batch_norm_train(one, None, np.array([b]), activation="relu").y
    right.hist(
        y[y > 0],
        bins,
        histtype="step",
        linewidth=1.8,
        label=f"beta = {b:.0f}: {100 * np.mean(y == 0):.0f} % zeros",
    )
right.set(xlabel="value after the ReLU", ylabel="values (zeros left out)", title="what passes")
right.legend()

print(
    f"beta = 0: {100 * zeros[10]:.1f} % zeros; largest difference from the formula: {np.max(np.abs(np.array(zeros) - expected)):.4f}"
)

# %%
# So gamma and beta give back the choice that standardization took away: how far into its bend a
# nonlinearity works, and on which side of it. Whether they also undo the standardization is
# :doc:`another question <plot_3_undone>`.
