r"""
Why drop the bias before batch normalization?
=============================================

A linear layer computes :math:`Wu + b`. Batch normalization after it subtracts the mean over the
batch, and b is in every value and so in the mean: it cancels. The paper concludes (section 3.2)
that "the bias b can be ignored since its effect will be canceled by the subsequent mean
subtraction (the role of the bias is subsumed by β in Alg. 1)", and that :math:`z = g(Wu + b)`
is replaced with :math:`z = g(\mathrm{BN}(Wu))`. This page shows that such a bias has no
gradient; what happens when a training step does not know that; and how the bias comes back when
training is over.
"""

# %%
# Its gradient is zero
# --------------------
#
# The smallest network with such a bias: handwritten digits, one linear map with W and b, batch
# normalization, softmax. ``facts.BiasedClassifier`` of the project's ``examples/`` computes its
# gradients.

import matplotlib.pyplot as plt
import numpy as np

import facts
import fastbn
import images
from network import Linear, cross_entropy

digits = images.load()
x, labels = digits.train_images[:60], digits.train_labels[:60]
gradients = facts.BiasedClassifier(x, labels).gradients()

print(f"largest entry of the gradient by W: {gradients.weight:.1e}")
print(f"largest entry of the gradient by b: {gradients.bias:.1e}")

# %%
# What is left is rounding: sums of 60 numbers that cancel. The backward pass of batch
# normalization subtracts from dy its own mean (the last line of the formulas in the paper's
# section 3 says how), so what reaches the linear layer sums to zero over the batch, and the
# gradient by b is that sum.
#
# The paper's thought experiment, run
# -----------------------------------
#
# Section 2 of the paper imagines a training step that normalizes, but takes its gradient as if
# the mean were a constant. Then :math:`b \leftarrow b + \Delta b`, the mean moves by the same
# :math:`\Delta b`, nothing changes in the output, "the combination of the update to b and
# subsequent change in normalization led to no change in the output of the layer nor,
# consequently, the loss. As the training continues, b will grow indefinitely while the loss
# remains fixed. This problem can get worse if the normalization not only centers but also
# scales the activations."
#
# Three ways to compute the step of b, every other parameter kept: centring alone with the mean
# held constant; centring and scaling with mean and variance held constant; and the right
# gradient, through both.

STEPS, RATE = 300, 1.0
linear = Linear(64, 10, deviation=0.1, rng=np.random.default_rng(0))
u = x @ linear.weight


def walk(kind):
    """Let b take steps against what passes for its gradient; return its length and the loss before each step."""
    b, sizes, losses = np.zeros(10), [], []
    for _ in range(STEPS):
        result = fastbn.batch_norm_train(u + b)
        y = u + b - result.mean if kind == "centred" else result.y
        loss, dy = cross_entropy(y, labels)
        if kind == "right":
            du = fastbn.batch_norm_backward(
                dy, u + b, mean=result.mean, invstd=result.invstd
            ).dx
        else:
            du = dy if kind == "centred" else dy * result.invstd
        sizes.append(np.linalg.norm(b))
        losses.append(loss)
        b = b - RATE * du.sum(axis=0)
    return np.array(sizes), np.array(losses)


kinds = {
    "scaled": ("centred and scaled, statistics held constant", "-"),
    "centred": ("centred, mean held constant", "--"),
    "right": ("the gradient through the statistics", ":"),
}
figure, (left, right) = plt.subplots(1, 2)
for color, (kind, (label, style)) in zip(("C1", "C4", "C0"), kinds.items()):
    sizes, losses = walk(kind)
    left.plot(sizes, style, color=color, label=label)
    right.plot(losses, style, color=color)
    print(f"{label}:")
    print(
        f"    |b| after {STEPS - 1} steps {sizes[-1]:.2g}; the loss has moved by {np.abs(losses - losses[0]).max():.0e}"
    )
left.set(xlabel="step", ylabel="|b|", title="the bias")
left.legend(fontsize="small", loc="upper left")
right.set(xlabel="step", ylabel="loss", title="the loss", ylim=(0, 3.2))
print(
    f"deviations of the ten features: {fastbn.moments(u).std().min():.2f} to {fastbn.moments(u).std().max():.2f}"
)

# %%
# As the paper says: b grows by the same amount in every step, and the loss stands still. With
# scaling it grows faster here, because the step is divided by the features' deviation, which is
# below one. With the gradient through the statistics, b does not move.
#
# A bias that grows without effect is not harmless. In float32 the useful digits of :math:`Wu`
# are pushed out by those of b:

loss_at_zero = cross_entropy(fastbn.batch_norm_train(u).y, labels)[0]
print("size of b    change of the loss, float32")
for exponent in range(0, 9, 2):
    shifted = (u + 10.0**exponent).astype(np.float32)
    loss = cross_entropy(fastbn.batch_norm_train(shifted).y.astype(float), labels)[0]
    print(f"    1e{exponent}        {abs(loss - loss_at_zero):.1e}")

# %%
# No library can help against that: the digits are gone before it sees the numbers. So leave the
# bias out, as ``bias=False`` in PyTorch and ``use_bias=False`` in Keras; beta does its work.
#
# Where the bias comes back
# -------------------------
#
# In evaluation the layer is a fixed map for each feature,
# :math:`y = \gamma (Wu - \mu) / \sqrt{\sigma^2 + \varepsilon} + \beta`. That is linear, so
# :func:`fastbn.fold` multiplies it into W and gives the bias that belongs to it. Let us train
# :math:`z = \mathrm{softmax}(\mathrm{BN}(Wu))` without a bias, and fold:

linear = Linear(64, 10, deviation=0.1, rng=np.random.default_rng(0), bias=False)
layer = fastbn.BatchNorm(10)
rng = np.random.default_rng(0)
for _ in range(500):
    rows = rng.integers(0, len(digits.train_labels), 60)
    loss, dy = cross_entropy(
        layer(linear(digits.train_images[rows])), digits.train_labels[rows]
    )
    linear.backward(layer.backward(dy))
    for part in (linear, layer):
        for parameter, gradient in zip(part.parameters(), part.gradients()):
            parameter -= 0.5 * gradient
layer.eval()

weight, bias = fastbn.fold(layer, linear.weight, axis=1)  # axis 1: weight is (inputs, outputs)
two_maps = layer(linear(digits.test_images))
one_map = digits.test_images @ weight + bias
print(f"test accuracy {100 * np.mean(one_map.argmax(axis=1) == digits.test_labels):.1f} %")
print(
    f"largest difference between the layer and the folded map {np.abs(one_map - two_maps).max():.0e}"
)
print(
    f"largest |beta| {np.abs(layer.bias).max():.2f}, largest |folded bias| {np.abs(bias).max():.2f}"
)

# %%
# One linear map with a bias gives what a linear map without one and the layer gave, to
# rounding: training needs no bias, and the network that is put to use has one.
