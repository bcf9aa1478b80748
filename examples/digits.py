"""Real handwritten digits learned with and without batch normalization, after section 4.1 of Ioffe & Szegedy (2015).

    python examples/digits.py

trains two networks of three hidden layers of 100 sigmoid units on the same batches from the same initial weights,
prints and draws how they learn, and then computes three facts about the operation. This file asks and prints; the
network is in network.py, the training in training.py, the picture in figure.py, the facts in facts.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

import facts
import fastbn
import figure
import images
from network import DEVIATION, Network
from training import BATCH, Curve, first_step_above, train

SIZES = (64, 100, 100, 100, images.CLASSES)
RATE = 3.0  # in rates.py the plain network learns best with it; the normalized one would with 1
BEST = "\n(the best for the plain network, see rates.py)"
STEPS, QUICK_STEPS = 3000, 600
EVERY = 20  # steps between measurements
SHOWN = (0, 20, 40, 100, 200, 400, 600, 1000, 2000, 5000, 10000, 20000)  # steps in the table, beside the last


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo with these command line arguments, by default those of the process."""
    options = parse(arguments)
    console = Console(highlight=False)
    digits = images.load()
    console.print(
        f"[bold]Handwritten digits[/]: {len(digits.train_labels):,} images to learn from, "
        f"{len(digits.test_labels)} to test with.\n"
        f"Network {'-'.join(map(str, SIZES))}, sigmoids, initial weights of deviation {DEVIATION}.\n"
        f"{options.steps} steps of gradient descent, batches of {BATCH}, learning rate {options.rate:g} for both"
        f"{BEST if options.rate == RATE else ''}; seed {options.seed}."
    )
    curves = train_both(options, digits, console)
    print_curves(curves, console)
    figure.draw(curves["without"], curves["with"], options.out)
    console.print(f"Picture: {options.out}\n", soft_wrap=True)
    console.print("[bold]Three facts, computed[/]")
    print_identity(digits, console)
    print_bias(digits, console)
    print_times(options.quick, console)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options: steps, rate, seed, out and quick."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=_positive, help=f"training steps (default: {STEPS}; quick: {QUICK_STEPS})")
    parser.add_argument("--rate", type=float, default=RATE, help="learning rate of both (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/digits.png"), help="picture (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a shorter training and a smaller tensor to time")
    options = parser.parse_args(arguments)
    if options.steps is None:
        options.steps = QUICK_STEPS if options.quick else STEPS
    return options


def networks(seed: int) -> dict[str, Network]:
    """Return the plain and the normalized network, with the same initial weights."""
    return {name: Network(SIZES, normalized=name == "with", seed=seed) for name in ("without", "with")}


def train_both(options: argparse.Namespace, digits: images.Digits, console: Console) -> dict[str, Curve]:
    """Train the two networks under a progress bar, which only a terminal sees."""
    columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar, threadpool_limits(1, user_api="blas"):  # the matrices are too small to share between threads
        task = bar.add_task("training", total=options.steps)
        return train(
            networks(options.seed),
            digits,
            steps=options.steps,
            rate=options.rate,
            seed=options.seed,
            every=EVERY,
            on_step=lambda step: bar.update(task, completed=step),
        )


def print_curves(curves: dict[str, Curve], console: Console) -> None:
    """Print test accuracy by step, and where the normalized network passes the plain one's final accuracy."""
    plain, normalized = curves["without"], curves["with"]
    last = int(plain.steps[-1])
    table = right_aligned("step", "without", "with batch normalization")
    for row in np.flatnonzero(np.isin(plain.steps, (*SHOWN, last))):
        table.add_row(str(plain.steps[row]), *(f"{100 * curve.accuracy[row]:.1f}" for curve in (plain, normalized)))
    console.print("\n[bold]Test accuracy, %[/]", table)
    final = float(plain.accuracy[-1])
    step = first_step_above(normalized, final)
    passes = "does not pass that." if step is None else f"passes that at step [bold]{step}[/]."
    console.print(f"The plain network ends at {100 * final:.1f} %. The normalized one {passes}")


def print_identity(digits: images.Digits, console: Console) -> None:
    """Print how far from the input the operation's output is with gamma = sigma and beta = mu."""
    x = networks(seed=0)["without"].layers[0](digits.train_images)
    errors = {dtype: facts.identity_error(x.astype(dtype)) for dtype in ("float64", "float32")}
    console.print(
        "1. gamma = sigma, beta = mu gives the input back. Largest difference from it,\n"
        f"   for the input of the first sigmoids, |x| <= {np.abs(x).max():.1f}:\n"
        f"   {', '.join(f'{error:.1e} in {dtype}' for dtype, error in errors.items())}."
    )


def print_bias(digits: images.Digits, console: Console) -> None:
    """Print the gradient of a bias before the operation, and where the bias goes if the gradient is a wrong one."""
    classifier = facts.BiasedClassifier(digits.train_images[:BATCH], digits.train_labels[:BATCH])
    sizes = classifier.gradients()
    console.print(
        "2. A bias before the layer has no effect, and its gradient is zero. Largest\n"
        f"   entries of the gradients: weights {sizes.weight:.1e}, bias {sizes.bias:.1e}. With mean and\n"
        f"   variance taken for constants the bias's is {sizes.neglectful_bias:.1e}: such steps move it for\n"
        "   ever and leave the loss as it is (here the bias alone takes steps, rate 1)."
    )
    right, wrong = (classifier.walk(1000, through_statistics=flow) for flow in (True, False))
    table = right_aligned("step", "|b|", "loss", "|b|, wrong gradient", "loss, wrong gradient")
    for step in (0, 1, 10, 100, 1000):
        cells = [text for walk in (right, wrong) for text in (f"{walk.bias[step]:.1e}", f"{walk.loss[step]:.12f}")]
        table.add_row(str(step), *cells)
    console.print(table)


def print_times(quick: bool, console: Console) -> None:
    """Print the time of a training call beside the NumPy code that everyone writes."""
    shape = (8, 16, 28, 28) if quick else (32, 64, 56, 56)
    timing = facts.compare_times(shape, repeats=5 if quick else 15)
    console.print(
        f"3. One training call on {shape}, float32; results within {timing.difference:.0e}:\n"
        f"   NumPy {1e3 * timing.numpy:.2f} ms, fastbn {1e3 * timing.fastbn:.2f} ms with "
        f"{fastbn.get_num_threads()} threads: [bold]{timing.numpy / timing.fastbn:.1f} times[/] as fast."
    )


def right_aligned(*columns: str) -> Table:
    """Return an empty table of numbers with these headings."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {value}")
    return value


if __name__ == "__main__":
    main()
