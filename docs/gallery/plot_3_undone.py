r"""
Do gamma and beta undo the normalization?
=========================================

They could. With :math:`\gamma = \sqrt{\sigma^2 + \varepsilon}` and :math:`\beta = \mu` the
layer returns exactly what it was given (section 3 of the paper: "we make sure that the
transformation inserted in the network can represent the identity transform"). So is the work
undone as soon as the two are learned? This page trains a layer where the identity is the best
that it can do, one where it is not, and a whole network.
"""

# %%
# Where the identity is optimal
# -----------------------------
#
# Three features with different means and deviations go through a layer, and the loss asks for
# the input itself: :math:`\tfrac12 (y - x)^2`. The second task asks for something else,
# :math:`\tanh(2 (x - \mu) / \sigma)` of the same input. Plain stochastic gradient descent on
# batches of 64, from gamma = 1 and beta = 0.

import matplotlib.pyplot as plt
import numpy as np

import fastbn

MU, SIGMA = np.array([2.0, -1.0, 0.5]), np.array([2.5, 0.5, 1.5])


def identity(x):
    return x


def bent(x):
    return np.tanh(2 * (x - MU) / SIGMA)


def learn(target, *, affine, steps=300, rate=0.05):
    """Train one layer; return gamma, beta and the loss before each step."""
    rng = np.random.default_rng(0)
    layer = fastbn.BatchNorm(3, affine=affine)
    gammas, betas, losses = [], [], []
    for _ in range(steps):
        x = rng.normal(MU, SIGMA, size=(64, 3))
        error = layer(x) - target(x)
        layer.backward(error / len(x))
        if affine:
            gammas.append(layer.weight.copy())
            betas.append(layer.bias.copy())
        losses.append(0.5 * np.mean(error**2))
        for parameter, gradient in zip(layer.parameters(), layer.gradients()):
            parameter -= rate * gradient
    return np.array(gammas), np.array(betas), np.array(losses)


tasks = {"the input itself": identity, "tanh of the standardized input": bent}
figure, axes = plt.subplots(2, 3, figsize=(9.5, 5.6), sharex=True)
for row, (title, target) in zip(axes, tasks.items()):
    gammas, betas, learned = learn(target, affine=True)
    fixed = learn(target, affine=False)[2]
    for feature in range(3):
        for panel, values, reference in ((row[0], gammas, SIGMA), (row[1], betas, MU)):
            panel.plot(values[:, feature], color=f"C{feature}", label=f"feature {feature}")
            panel.axhline(reference[feature], color=f"C{feature}", linewidth=1, linestyle=":")
    row[0].set(ylabel=f"wanted:\n{title}", title="gamma, and sigma (dotted)")
    row[1].set(title="beta, and mu (dotted)")
    row[2].semilogy(fixed, color="C1", linestyle="--", label="gamma = 1, beta = 0")
    row[2].semilogy(learned, color="C0", label="learned")
    row[2].set(title="loss")
    print(f"{title}: at the end")
    print(f"  gamma {gammas[-1].round(2)}   sigma {SIGMA}")
    print(f"  beta  {betas[-1].round(2)}   mu    {MU}")
    print(
        f"  loss  {learned[-50:].mean():.4f} learned, {fixed[-50:].mean():.4f} with gamma = 1, beta = 0"
    )
axes[1, 0].legend(fontsize="small", loc="upper right", bbox_to_anchor=(1, 0.9))
axes[0, 2].set_ylim(5e-4, 4e1)
axes[0, 2].legend(fontsize="small", loc="upper right")
for panel in axes[1]:
    panel.set_xlabel("step")

# %%
# In the first task gamma goes to sigma and beta to mu: the layer learns to undo what it does.
# (Its loss does not reach zero, because each batch is normalized by its own mean and variance,
# and they differ a little from mu and sigma.) In the second task they go to where *that* loss
# is least; for a squared error this is the regression of the target on :math:`\hat x`, in which
# neither sigma nor mu has a part. Gradient descent moves gamma and beta to where the loss is
# small, and knows of no identity to go back to.
#
# In a network
# ------------
#
# Where in a real network would a loss ask for the identity? The digits network of the project's
# ``examples/`` has three hidden layers of 100 sigmoids. After training, here are gamma beside
# the sigma of what enters each layer, and beta beside mu, for all 300 units. If the layers
# undid themselves, the points would lie on the diagonals.

import images
from network import Network
from training import BATCH, train_step

digits = images.load()
network = Network((64, 100, 100, 100, 10), normalized=True, seed=0)
norms = [layer for layer in network.layers if isinstance(layer, fastbn.BatchNorm)]
rng = np.random.default_rng(0)
for _ in range(1_000):
    rows = rng.integers(0, len(digits.train_labels), BATCH)
    train_step(network, digits.train_images[rows], digits.train_labels[rows], rate=1.0)
with fastbn.population_statistics(*norms):
    network(digits.train_images)
network.eval()
accuracy = np.mean(network(digits.test_images).argmax(axis=1) == digits.test_labels)
print(f"test accuracy {100 * accuracy:.1f} %")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8))
for number, norm in enumerate(norms, start=1):
    sigma, mu = np.sqrt(norm.running_var + norm.eps), norm.running_mean
    left.plot(sigma, norm.weight, ".", label=f"layer {number}")
    right.plot(mu, norm.bias, ".", label=f"layer {number}")
    print(
        f"layer {number}: mean |gamma - sigma| {np.abs(norm.weight - sigma).mean():.2f}, |gamma - 1| "
        f"{np.abs(norm.weight - 1).mean():.2f}; correlation of gamma with sigma {np.corrcoef(norm.weight, sigma)[0, 1]:+.2f}, "
        f"of beta with mu {np.corrcoef(norm.bias, mu)[0, 1]:+.2f}"
    )
for panel, name, reference in ((left, "gamma", "sigma"), (right, "beta", "mu")):
    panel.set(
        xlabel=f"{reference} of the layer's input", ylabel=name, title=f"{name} after training"
    )
    panel.axline((0, 0), slope=1, color="gray", linewidth=1, linestyle=":", label="undone")
left.set(xlim=(0, 0.8), ylim=(0, 2))
right.set(xlim=(-2, 2), ylim=(-1, 1))
left.legend(loc="upper right", fontsize="small")

# %%
# They do not. Gamma stays closer to 1, where it began, than to sigma, and beta has nothing to
# do with mu. (Gamma is somewhat larger where sigma is, but two and more times sigma nearly
# everywhere.) And even where gamma and beta happen to be near sigma and mu, the layer is not
# the same as no layer: sigma and mu change with every weight below, gamma and beta are one
# number each that the optimizer sets directly. Whatever the weights below do, the scale and the
# place of y are gamma and beta, until the loss wants others. That is the difference that
# training with batch normalization makes; the functions that can be represented
# :doc:`are the same <plot_2_capacity>`.
