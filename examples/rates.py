"""How the demo's learning rate was chosen: both networks at several rates, judged on held-out training images.

    python examples/rates.py

The test images are not looked at. The demo trains both networks at the rate that suits the plain one best.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.progress import track
from threadpoolctl import threadpool_limits

import images
from digits import EVERY, STEPS, networks, right_aligned
from network import Array
from training import train

RATES = (0.1, 0.3, 1.0, 3.0, 5.0, 10.0)


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs to average over (default: %(default)s)")
    options = parser.parse_args()
    console = Console()
    table = right_aligned("learning rate", "without", "with batch normalization")
    with threadpool_limits(1, user_api="blas"):
        for rate in track(RATES, "training", console=console, disable=not console.is_terminal):
            scores = np.mean([_scores(rate, options.steps, seed) for seed in range(options.seeds)], axis=0)
            table.add_row(f"{rate:g}", *(f"{100 * mean:.1f} / {100 * end:.1f}" for mean, end in scores))
    console.print(f"Held-out accuracy, %: mean over {options.steps} steps / at their end", table)


def _scores(rate: float, steps: int, seed: int) -> Array:
    """Return (mean, final) held-out accuracy of the plain and of the normalized network, of shape (2, 2)."""
    digits = images.load()
    held_out = images.split(digits.train_images, digits.train_labels)
    curves = train(networks(seed), held_out, steps=steps, rate=rate, seed=seed, every=EVERY)
    return np.array([(curve.accuracy.mean(), curve.accuracy[-1]) for curve in curves.values()])


if __name__ == "__main__":
    main()
