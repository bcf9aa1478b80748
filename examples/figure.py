"""The picture of the experiment, after the paper's Figure 1: accuracy and a sigmoid's input over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from network import Array
from training import Curve

PLAIN = "#D55E00"  # told apart by colour-blind eyes too
NORMALIZED = "#0072B2"


def draw(plain: Curve, normalized: Curve, path: Path) -> None:
    """Write the picture as PNG, making the folder where it is missing.

    Parameters
    ----------
    plain, normalized : Curve
        The two networks' measurements.
    path : Path
        The file; overwritten.
    """
    figure = Figure(figsize=(12, 4), layout="constrained")
    accuracy, *inputs = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    inputs[1].sharey(inputs[0])
    _draw_accuracy(accuracy, plain, normalized)
    _draw_inputs(inputs[0], plain, PLAIN, "input of one sigmoid, without")
    _draw_inputs(inputs[1], normalized, NORMALIZED, "input of one sigmoid, with")
    bottom, top = inputs[0].get_ylim()
    inputs[0].set_ylim(bottom - 0.3 * (top - bottom), top)  # room for the legends
    for axes in (accuracy, *inputs):
        axes.set_xlabel("training step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.set_xlim(0, plain.steps[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")


def typical_unit(curve: Curve) -> int:
    """Return the unit whose input's median wanders as far as the middle one of all units' does."""
    medians = curve.inputs[:, 1]
    wandering: Array = np.ptp(medians, axis=0)
    return int(np.argsort(wandering)[len(wandering) // 2])


def _draw_accuracy(axes: Axes, plain: Curve, normalized: Curve) -> None:
    axes.plot(normalized.steps, 100 * normalized.accuracy, color=NORMALIZED, label="with batch normalization")
    axes.plot(plain.steps, 100 * plain.accuracy, color=PLAIN, linestyle="--", label="without")
    axes.set_title("test accuracy")
    axes.set_ylabel("images recognized, %")
    axes.set_ylim(0, 102)
    axes.legend(loc="lower right")


def _draw_inputs(axes: Axes, curve: Curve, color: str, title: str) -> None:
    low, median, high = curve.inputs[:, :, typical_unit(curve)].T
    axes.fill_between(curve.steps, low, high, color=color, alpha=0.2, linewidth=0, label="15th to 85th percentile")
    axes.plot(curve.steps, median, color=color, label="median")
    axes.set_title(title)
    axes.legend(loc="lower right")
