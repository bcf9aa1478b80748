r"""
Right, however far the mean is from zero
========================================

A variance is a sum of squared distances from the mean. If the mean is large beside the
deviation, and numbers have the 24 bits of float32, the way to compute it decides whether any
digit of the result is right. This page moves the mean away and watches four libraries and a
formula; and then a network that is trained behind two of them.
"""

# %%
# The variance, and the standardized values
# -----------------------------------------
#
# A table of 20,000 rows and 8 columns in float32, with deviation 1 and a mean that grows. The
# true results are computed in extended precision, from the same float32 numbers. The formula
# :math:`E[x^2] - E[x]^2` needs one pass only, which is why many a layer is computed so (Flax's,
# by default).

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.preprocessing import StandardScaler

import fastbn

EPS = np.float32(1e-5)


def shortcut(x):
    """Return E[x^2] - E[x]^2, in x's type."""
    return np.mean(x * x, axis=0) - np.mean(x, axis=0) ** 2


def with_sklearn(x):
    scaler = StandardScaler().fit(x)
    return scaler.var_, scaler.transform(x)


def with_fastbn(x):
    stats = fastbn.moments(x)
    return stats.var(), fastbn.normalize(x, stats, eps=0.0)


def with_pandas(x):
    frame = pd.DataFrame(x)
    return frame.var(ddof=0).to_numpy(), ((frame - frame.mean()) / frame.std(ddof=0)).to_numpy()


ways = {
    "fastbn": with_fastbn,
    "NumPy": lambda x: (x.var(axis=0), (x - x.mean(axis=0)) / x.std(axis=0)),
    "pandas": with_pandas,
    "scikit-learn": with_sklearn,
    "E[x^2] - E[x]^2": lambda x: (
        shortcut(x),
        (x - x.mean(axis=0)) / np.sqrt(np.maximum(shortcut(x), EPS)),
    ),
}
means = 10.0 ** np.arange(0, 6.5, 0.5)
noise = np.random.default_rng(0).standard_normal((20_000, 8))
variance_errors = {name: [] for name in ways}
value_errors = {name: [] for name in ways}
for mean in means:
    x = (mean + noise).astype(np.float32)
    centred = np.array(x.T, np.longdouble, order="C")  # rows in one piece are summed pairwise
    centred -= centred.mean(axis=1, keepdims=True)
    var = np.mean(centred**2, axis=1)
    z = (centred / np.sqrt(var)[:, None]).T
    for name, way in ways.items():
        found_var, found_z = way(x)
        variance_errors[name].append(float(np.max(np.abs(found_var / var - 1))))
        value_errors[name].append(float(np.max(np.abs(found_z - z))))

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4))
for panel, errors in ((left, variance_errors), (right, value_errors)):
    for (name, values), marker in zip(errors.items(), "osv^x"):
        panel.loglog(means, np.maximum(values, 1e-17), marker=marker, markersize=4, label=name)
    panel.axhline(1, color="gray", linewidth=1, linestyle=":")
    panel.set_xlabel("mean, where the deviation is 1")
left.set(title="variance: largest relative error", ylim=(1e-18, 1e9))
right.set(title="standardized values: largest error, in deviations", ylim=(1e-8, 1e5))
left.legend(fontsize="small", loc="upper left")

for title, errors in (("variance", variance_errors), ("standardized values", value_errors)):
    print(f"{title + ', at a mean of':34} {'1':>8} {'100':>8} {'10,000':>8} {'1e6':>8}")
    for name, values in errors.items():
        print(f"    {name:30} " + " ".join(f"{values[i]:8.0e}" for i in (0, 4, 8, 12)))

# %%
# Above the dotted line no digit is right. pandas and scikit-learn take the variance in float64,
# and it is good; but both round the mean to float32 before they subtract it, and that costs
# digits of the result as the mean grows. NumPy adds float32 numbers down a column one by one,
# so its mean is wrong already. fastbn sums in float64 around a shift, merges parts by the
# formula of Chan, Golub and LeVeque (1983), and subtracts the mean in two pieces: what float32
# holds of it, and the rest.
#
# A network behind it
# -------------------
#
# Does it matter? Two classes that differ in the shape of a cloud, in four features. The
# features come from an instrument with a large offset, as temperatures in kelvin, times in
# seconds or coordinates do. They are normalized by batches of 500, once by fastbn and once by
# the NumPy line that everyone writes, and go into a network with one hidden layer of 32 ReLU
# units.


def numpy_line(x):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + np.float32(1e-5))


def by_fastbn(x):
    return fastbn.batch_norm_train(x).y


def cloud(n, rng, mean):
    """Return float32 features and labels: is the point far from the centre of the cloud?"""
    z = rng.standard_normal((n, 4))
    return (mean + z).astype(np.float32), (np.sum(z**2, axis=1) > 3.36).astype(float)


def accuracy(normalize, mean, steps=200, batch=20_000):
    rng = np.random.default_rng(0)
    hidden, offset, out = rng.normal(size=(4, 32)) / 2, rng.normal(size=32), np.zeros(33)
    for _ in range(steps):
        x, labels = cloud(500, rng, mean)
        h = normalize(x).astype(float) @ hidden + offset
        a = np.column_stack([np.maximum(h, 0), np.ones(len(h))])
        dscore = (1 / (1 + np.exp(-a @ out)) - labels) / len(x)
        dh = np.outer(dscore, out[:-1]) * (h > 0)
        z = normalize(x).astype(float)
        out -= 0.5 * a.T @ dscore
        hidden -= 0.5 * z.T @ dh
        offset -= 0.5 * dh.sum(axis=0)
    x, labels = cloud(batch, rng, mean)
    h = normalize(x).astype(float) @ hidden + offset
    return np.mean((np.column_stack([np.maximum(h, 0), np.ones(len(h))]) @ out > 0) == labels)


shown = 10.0 ** np.arange(0, 6.5, 1)
figure, axes = plt.subplots()
for normalize, label, style in ((by_fastbn, "fastbn", "o-"), (numpy_line, "NumPy", "s--")):
    found = [100 * accuracy(normalize, mean) for mean in shown]
    axes.semilogx(shown, found, style, label=label)
    print(
        f"{label:6} test accuracy by mean: "
        + ", ".join(f"1e{i}: {value:.1f} %" for i, value in enumerate(found))
    )
axes.set(
    xlabel="mean of the features",
    ylabel="test accuracy, %",
    title="a network behind the normalization",
    ylim=(40, 100),
)
axes.legend()

# %%
# To a mean of 10,000, batches of 500 do no harm; beyond it what is lost in the statistics is
# lost to the network, though the data still hold what it needs.
# :doc:`The table of errors </numerics>` has more cases, other layouts and PyTorch.
