r"""
Batch normalization on the input, or standardization?
=====================================================

Both subtract a mean and divide by a deviation. Standardization (scikit-learn's
``StandardScaler``, or :func:`fastbn.moments` and :func:`fastbn.normalize`) takes them once, of
all training data. A batch normalization layer takes them anew of each batch, and has gamma and
beta on top. This page compares three ways to prepare the input of the same network: what is
equal, to how many digits; what differs in training, in evaluation and with small batches; and
when to take which.
"""

# %%
# What is equal
# -------------
#
# The data are the handwritten digits of scikit-learn, 64 pixels in [0, 1]; a few pixels at the
# border are always 0. Given *all* the data at once, with gamma = 1 and beta = 0, the layer's
# formula is standardization with the biased variance (divided by N):

import matplotlib.pyplot as plt
import numpy as np

import fastbn
import images
from network import Network
from training import train_step

digits = images.load()
x = digits.train_images
stats = fastbn.moments(x)
standardized = fastbn.normalize(x, stats, eps=0.0)

layer = fastbn.BatchNorm(64, affine=False, eps=0.0)
in_training = layer(x)
layer.load_moments(stats)
in_evaluation = layer.eval()(x)
textbook = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)

print("largest difference from fastbn.normalize:")
print(
    f"    NumPy, (x - mean) / std                        {np.abs(textbook - standardized).max():.0e}"
)
print(
    f"    the layer in training, all data as one batch   {np.abs(in_training - standardized).max():.0e}"
)
print(
    f"    the same with its default eps of 1e-5          {np.abs(fastbn.BatchNorm(64)(x) - standardized).max():.0e}"
)
print(
    f"    the layer in evaluation, unbiased variance     {np.abs(in_evaluation - standardized).max():.0e}"
)

# %%
# So the arithmetic is the same, to twelve digits and more. Two conventions are visible. ``eps``
# matters for pixels that hardly vary: one that is above 0 in a single image of the 1,347 has a
# variance below the default eps, and is 37 deviations from its mean in that image unless eps
# holds it down. And running statistics remember the variance divided by N - 1, which
# ``correction=0`` turns off.
#
# What differs in training: the company
# -------------------------------------
#
# In training a row comes with a batch, and the batch decides what the layer makes of it. Here
# is one image, in 500 random batches of several sizes, and how far its pixels are from what
# standardization gives, which is always the same:

rng = np.random.default_rng(0)
varying = np.flatnonzero(stats.var() > 0.01)  # pixels that are not nearly constant
image, sizes = x[0, varying], (2, 4, 8, 16, 32, 64, 128, 256)
noise = []
for size in sizes:
    errors = []
    for _ in range(500):
        batch = x[rng.integers(0, len(x), size)][:, varying]
        batch[0] = image
        errors.append(fastbn.batch_norm_train(batch).y[0] - standardized[0, varying])
    noise.append(np.sqrt(np.mean(np.square(errors))))

figure, axes = plt.subplots()
axes.loglog(sizes, noise, "o-", label="measured")
axes.loglog(
    sizes,
    noise[-1] * np.sqrt(sizes[-1] / np.array(sizes)),
    ":",
    color="gray",
    label=r"falls with $1 / \sqrt{N}$",
)
axes.set(
    xlabel="batch size N",
    ylabel="deviations of the feature",
    title="how far the company moves a pixel (root mean square)",
)
axes.set_xticks(sizes, [str(size) for size in sizes])
axes.set_yticks((0.1, 0.2, 0.5, 1), ("0.1", "0.2", "0.5", "1"))
axes.minorticks_off()
axes.legend()
for size, error in zip(sizes, noise):
    if size in (2, 8, 64):
        print(f"batches of {size:3}: the same pixel moves by {error:.2f} deviations")

# %%
# The network learns from inputs that move by that much. Between layers such noise can be
# welcome as a regularization (section 3.4 of the paper). On the input it hides data.
#
# The same network, three ways
# ----------------------------
#
# Two hidden layers of 50 sigmoids, without batch normalization inside, so that only the input
# differs: standardized; a layer without gamma and beta; a full layer. Batches of 60 and of 4,
# the same for all three. Test accuracy is taken in evaluation, where the layer uses its running
# statistics.

WAYS = ("standardized", "layer, no gamma and beta", "full layer")
STEPS, EVERY = 1_500, 50


def learn(way, batch, seed):
    """Return the test accuracy every EVERY steps."""
    network = Network((64, 50, 50, 10), normalized=False, seed=seed, deviation=0.3)
    train_images, test_images = digits.train_images, digits.test_images
    if way == "standardized":
        train_images = standardized
        test_images = fastbn.normalize(test_images, stats, eps=0.0)
    else:
        network.layers.insert(0, fastbn.BatchNorm(64, affine=way == "full layer"))
    rng = np.random.default_rng(seed)
    accuracy = []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            network.eval()
            accuracy.append(np.mean(network(test_images).argmax(axis=1) == digits.test_labels))
            network.train()
        rows = rng.integers(0, len(train_images), batch)
        train_step(network, train_images[rows], digits.train_labels[rows], rate=0.3)
    return np.array(accuracy)


figure, panels = plt.subplots(1, 2, sharey=True)
for panel, batch in zip(panels, (60, 4)):
    for way, style in zip(WAYS, ("-", "--", ":")):
        curve = 100 * np.mean([learn(way, batch, seed) for seed in (0, 1)], axis=0)
        panel.plot(np.arange(0, STEPS + 1, EVERY), curve, style, label=way)
        print(
            f"batches of {batch:2}, {way:25} {curve[-5:].mean():.1f} % over the last 250 steps"
        )
    panel.set(xlabel="step", title=f"batches of {batch}", ylim=(50, 100))
panels[0].set_ylabel("test accuracy, %")
panels[0].legend(loc="lower right")

# %%
# With batches of 60 the three are hard to tell apart: there the batch's statistics are near
# those of all data, and the first linear map can do what gamma and beta would. With batches of
# 4 both layers fall behind the standardized input, since training and evaluation see different
# inputs.
#
# When to take which
# ------------------
#
# - **The input of a model, and the data are at hand**: standardization. It takes one pass, is
#   exact, and gives a row the same result in any company.
# - **Between the layers of a network**: batch normalization, since what a layer gives changes
#   while the network learns.
# - **Raw data that change while you train**: batch normalization, in batches that are not small.
# - **The scaling must be a part of the network**: a layer that has the data's statistics and is
#   never in training mode, ``BatchNorm(64, affine=False).load_moments(stats).eval()``.
