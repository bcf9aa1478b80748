r"""
Is capacity kept?
=================

Whatever a network can compute without batch normalization, it can compute with it: with
:math:`\gamma = \sqrt{\sigma^2 + \varepsilon}` and :math:`\beta = \mu` the layer is the
identity. The paper says so in section 3 ("we could recover the original activations, if that
were the optimal thing to do"). This page takes that literally, in a network with two hidden
layers; and then shows what the same network's inner distributions do while it learns, after the
paper's Figure 1.
"""

# %%
# The plain network's outputs, exactly
# ------------------------------------
#
# A network of two hidden layers of 100 sigmoids, for handwritten digits. Into it go two layers
# of batch normalization, each between a linear map and its sigmoid. ``init_identity`` measures
# what reaches the layer and sets gamma and beta to sigma and mu.

import matplotlib.pyplot as plt
import numpy as np

import fastbn
import figure as demo_figure
import images
from network import Network, Sigmoid
from training import first_step_above, train

SIZES = (64, 100, 100, 10)
digits = images.load()
plain = Network(SIZES, normalized=False, seed=0)

with_layers = Network(SIZES, normalized=False, seed=0)
h = digits.train_images
layers = []
for layer in with_layers.layers:
    if isinstance(layer, Sigmoid):
        identity = fastbn.BatchNorm().init_identity(h)
        layers.append(identity)
        h = identity(h)
    layers.append(layer)
    h = layer(h)
with_layers.layers = layers

difference = np.abs(with_layers(digits.train_images) - plain(digits.train_images)).max()
largest = np.abs(plain(digits.train_images)).max()
first = layers[1]
print(f"gamma of the first layer from {first.weight.min():.2f} to {first.weight.max():.2f}")
print(f"beta of the first layer from {first.bias.min():.2f} to {first.bias.max():.2f}")
print(
    f"largest output {largest:.2f}; largest difference between the two networks {difference:.0e}"
)

# %%
# The difference is the rounding of float64. No function was lost; two numbers for each unit
# were added.
#
# What training does to the second layer's inputs
# -----------------------------------------------
#
# Section 4.1 of the paper trains such a network, of three hidden layers, with and without batch
# normalization and watches the input of one sigmoid in the last hidden layer: its 15th, 50th
# and 85th percentile over the test images (Figure 1b, 1c). Here are both networks, from the
# same weights, on the same batches of 60, for 1,500 steps of gradient descent. The unit that is
# shown is the one whose median moves by a typical amount: the middle one of 100. (At step 0 the
# running statistics of the layer have seen nothing; its curve means something from the first
# measurement after that on.)

networks = {
    name: Network(SIZES, normalized=name == "with", seed=0) for name in ("without", "with")
}
curves = train(networks, digits, rate=1.0, seed=0, steps=1_500, every=25)

figure, (accuracy, *inputs) = plt.subplots(1, 3, figsize=(9.5, 3.4))
for (name, curve), color, style in zip(curves.items(), ("C1", "C0"), ("--", "-")):
    accuracy.plot(
        curve.steps,
        100 * curve.accuracy,
        style,
        color=color,
        label=f"{name} batch normalization",
    )
accuracy.set(xlabel="step", title="test accuracy, %", ylim=(0, 102))
accuracy.legend(loc="lower right", fontsize="small")
for panel, (name, curve), color in zip(inputs, curves.items(), ("C1", "C0")):
    low, median, high = curve.inputs[:, :, demo_figure.typical_unit(curve)].T
    panel.fill_between(
        curve.steps,
        low,
        high,
        color=color,
        alpha=0.2,
        linewidth=0,
        label="15th to 85th percentile",
    )
    panel.plot(curve.steps, median, color=color, label="median")
    panel.set(xlabel="step", title=f"a sigmoid's input, {name}")
    panel.set_ylim(-2.5, 3.5)
    panel.legend(fontsize="small", loc="upper right")
inputs[0].sharey(inputs[1])


for name, curve in curves.items():
    low, median, high = curve.inputs[1:].transpose(
        1, 0, 2
    )  # from step 25 on; one column for each unit
    drift, width = np.ptp(median, axis=0), high - low
    print(
        f"{name:8} final accuracy {100 * curve.accuracy[-1]:.1f} %. For the middle one of 100 units, from step 25 on:"
    )
    print(
        f"         its median moves over a range of {np.median(drift / width[0]):.1f} times the width at step 25,"
    )
    print(
        f"         and the width at the end is {np.median(width[-1] / width[0]):.1f} times that at step 25"
    )
step = first_step_above(curves["with"], curves["without"].accuracy[-1])
print(
    f"the network with batch normalization passes the plain one's final accuracy at step {step}"
)

# %%
# Without batch normalization the distribution of a unit's input starts narrow, wanders, and
# widens: what is above has to follow it while it learns. With batch normalization it soon has
# its place and its width, and where it moves later, beta and gamma moved it. That is Figure 1
# of the paper. Why such a network is easier to train is still debated; that its distributions
# hold still, and that no function was given up for that, is what can be measured here.
