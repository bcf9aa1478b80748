"""fastbn.torch's modules beside torch.nn's: forward, training steps, fused steps, small calls, and a whole network.

    python bench/torch_modules.py [--quick] [--threads 2]

Prints tables with geometric means and writes them to build/bench/torch_modules.md.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import native
import records
import timing
from report import row, time

SPIN_COUNT = "20000"  # as in run.py: threads must be asleep before others are timed
OURS, THEIRS, FUSED_NETWORK, COPY = "fastbn.torch", "torch.nn", "fuse", "a copy"


@dataclasses.dataclass(frozen=True)
class Group:
    """Shapes of one kind, and how many times as fast as torch's each operation is meant to be in the geometric mean."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    channels_last: bool
    aims: dict[str, float]


IMAGES = ((32, 64, 56, 56), (32, 256, 28, 28), (32, 256, 56, 56), (32, 1024, 14, 14), (32, 2048, 7, 7))
FUSED = ("BN + ReLU, step", "BN + add + ReLU, step")
GROUPS = (
    Group("NCHW", IMAGES, False, {"forward": 3.5, "step": 2.2} | dict.fromkeys(FUSED, 4.0)),
    Group("channels-last", IMAGES, True, {"forward": 1.3, "step": 1.5} | dict.fromkeys(FUSED, 2.0)),
    Group("tables", ((8192, 512), (100_000, 64), (1024, 1024), (512, 4096)), False, {"forward": 1.6, "step": 2.0}),
    Group("small", ((32, 64),), False, {"forward": 0.8, "step": 1.0}),
)


def modules(shape: tuple[int, ...], activation: str | None = None) -> tuple[Any, Any]:
    """Return fastbn's module and torch's for input of the shape."""
    import torch

    import fastbn.torch

    name = "BatchNorm1d" if len(shape) == 2 else "BatchNorm2d"
    return getattr(fastbn.torch, name)(shape[1], activation=activation), getattr(torch.nn, name)(shape[1])


def calls(op: str, shape: tuple[int, ...], channels_last: bool) -> dict[str, Callable[[], Any]]:
    """Return the two calls that are timed against each other, after a look at whether they agree."""
    import torch

    order = torch.channels_last if channels_last else torch.contiguous_format
    x, dy, residual = (torch.randn(shape).to(memory_format=order) for _ in range(3))
    ours, theirs = modules(shape, "relu" if op in FUSED else None)
    if op == "forward":
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-3)
        return {OURS: without_gradients(ours, x), THEIRS: without_gradients(theirs, x)}
    x.requires_grad_()
    residual.requires_grad_()
    relu = torch.nn.functional.relu
    forward: dict[str, Callable[[], Any]] = {OURS: lambda: ours(x), THEIRS: lambda: theirs(x)}
    leaves = [x]
    if op == FUSED[0]:
        forward[THEIRS] = lambda: relu(theirs(x), inplace=True)
    if op == FUSED[1]:
        forward = {OURS: lambda: ours(x, residual), THEIRS: lambda: relu(theirs(x).add_(residual), inplace=True)}
        leaves.append(residual)

    def step(name: str, module: Any) -> Callable[[], Any]:
        wanted = [*leaves, *module.parameters()]
        return lambda: torch.autograd.grad(forward[name](), wanted, dy)

    found = {OURS: step(OURS, ours), THEIRS: step(THEIRS, theirs)}
    off = (found[OURS]()[0] - found[THEIRS]()[0]).abs().mean()  # single values may lie on either side of ReLU's kink
    assert off < 1e-4, f"the gradients differ by {off} in the mean"
    return found


def without_gradients(module: Any, x: Any) -> Callable[[], Any]:
    """Return a training call that keeps nothing for backward."""
    import torch

    def call() -> None:
        with torch.no_grad():
            module(x)

    return call


def compared(groups: list[Group], effort: timing.Effort) -> Iterator[list[str]]:
    """Yield the rows of the first table: a row for each shape and operation, and the geometric means."""
    for group in groups:
        for op, aim in group.aims.items():
            ratios = []
            for shape in group.shapes:
                found = timing.measure(calls(op, shape, group.channels_last), effort)
                ratios.append(found[THEIRS].median / found[OURS].median)
                cells = [
                    group.name,
                    op,
                    "x".join(map(str, shape)),
                    time(found[OURS].median),
                    time(found[THEIRS].median),
                ]
                yield [*cells, f"{ratios[-1]:.2f}", ""]
            mean = statistics.geometric_mean(ratios)
            yield [group.name, op, "geometric mean", "", "", f"**{mean:.2f}**", verdict(mean, aim)]


def verdict(ratio: float, aim: float) -> str:
    """Return the aim, and whether it is met."""
    return f"{aim:g}: {'met' if ratio >= aim else '**missed**'}"


def small_parts(effort: timing.Effort) -> Iterator[list[str]]:
    """Yield which part of a training call on (32, 64) values takes how long."""
    import torch

    import fastbn
    import fastbn.torch
    from fastbn.torch._kernels import array_of, tensor_like

    x = torch.randn(32, 64)
    ours, theirs = modules((32, 64))
    mean, var, weight, bias = tensors = (ours.running_mean, ours.running_var, ours.weight, ours.bias)
    arrays = [array_of(each) for each in (x, *tensors)]
    y = arrays[0].copy()
    grad_x = torch.randn(32, 64, requires_grad=True)

    def on_arrays(x: Any, mean: Any, var: Any, weight: Any, bias: Any) -> None:
        fastbn.batch_norm(x, mean, var, weight, bias, True)

    def on_tensors() -> None:
        fastbn.torch.batch_norm(x, mean, var, weight, bias, True)

    def without_graph() -> None:
        with torch.no_grad():
            on_tensors()

    parts: dict[str, Callable[[], Any]] = {
        "fastbn.batch_norm on arrays": lambda: on_arrays(*arrays),
        "five tensors to arrays, one back": lambda: ([array_of(each) for each in (x, *tensors)], tensor_like(y, x)),
        "fastbn.torch.batch_norm, no gradients": without_graph,
        "fastbn.torch.batch_norm, gradients": on_tensors,
        "fastbn.torch.BatchNorm1d": lambda: ours(x),
        "torch.nn.BatchNorm1d": lambda: theirs(x),
        "fastbn.torch.BatchNorm1d, forward and backward": lambda: ours(grad_x).backward(x),
        "torch.nn.BatchNorm1d, forward and backward": lambda: theirs(grad_x).backward(x),
    }
    for name, found in timing.measure(parts, effort).items():
        yield [name, time(found.median), f"{time(found.low)} to {time(found.high)}"]


def network() -> Any:
    """Return a network with the blocks of ResNet-18."""
    import torch
    from torch import nn

    class Block(nn.Module):  # type: ignore[misc]  # of no known type
        """Two convolutions, and a connection around them."""

        def __init__(self, n_in: int, n_out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
            self.bn1, self.relu = nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(n_out)
            self.down = None
            if stride != 1 or n_in != n_out:
                self.down = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return the block's output."""
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(y + (x if self.down is None else self.down(x)))

    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    n_in = 64
    for n_out in (64, 128, 256, 512):
        layers += [Block(n_in, n_out, 1 if n_out == 64 else 2), Block(n_out, n_out, 1)]
        n_in = n_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def whole_network(quick: bool, effort: timing.Effort) -> Iterator[list[str]]:
    """Yield a training step's time before and after ``convert``, after ``fuse``, and of a copy: the noise."""
    import torch

    import fastbn.torch

    for channels_last in (False, True):
        order = torch.channels_last if channels_last else torch.contiguous_format
        x = torch.randn(4 if quick else 16, 3, *((96, 96) if quick else (160, 160))).to(memory_format=order)
        model = network().to(memory_format=order)
        models = {
            THEIRS: model,
            OURS: fastbn.torch.convert(copy.deepcopy(model)),
            FUSED_NETWORK: fastbn.torch.fuse(copy.deepcopy(model), x),
            COPY: copy.deepcopy(model),
        }

        def step(module: Any, x: Any = x) -> Callable[[], Any]:
            optimizer = torch.optim.SGD(module.parameters(), 1e-4)

            def call() -> None:
                optimizer.zero_grad()
                module(x).square().mean().backward()
                optimizer.step()

            return call

        steps = {name: step(each) for name, each in models.items()}
        found = timing.measure(steps, dataclasses.replace(effort, min_rounds=30))
        medians = {name: each.median for name, each in found.items()}
        cells = ["channels-last" if channels_last else "NCHW", "x".join(map(str, x.shape)), time(medians[THEIRS])]
        for name in (OURS, FUSED_NETWORK, COPY):
            cells += [time(medians[name]), f"{medians[THEIRS] / medians[name]:.2f}"]
        yield cells


def table(columns: list[str], rows: Iterator[list[str]]) -> list[str]:
    """Return a table's lines, each printed as soon as it is known."""
    lines = [row(columns), row(["---"] * len(columns))]
    print("\n" + "\n".join(lines), flush=True)
    for cells in rows:
        lines.append(row(cells))
        print(lines[-1], flush=True)
    return ["", *lines]


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the time, and two shapes of each kind")
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--markdown", type=Path, default=native.BUILD / "torch_modules.md", help="where the tables go")
    options = parser.parse_args()
    # Read by every OpenMP library when it is loaded.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    import torch

    import fastbn

    torch.set_num_threads(options.threads)
    effort = timing.QUICK_EFFORT if options.quick else timing.Effort()
    groups = [Group(g.name, g.shapes[:2] if options.quick else g.shapes, g.channels_last, g.aims) for g in GROUPS]
    where = records.environment(options.threads, {OURS: fastbn.__version__, THEIRS: torch.__version__})
    lines = ["# fastbn.torch", "", f"{where['cpu']}, {where['threads']} thread(s), torch {torch.__version__}, commit "]
    lines[-1] += f"{where['commit']}, {where['date']}, load {where['load_at_start']} at the start."
    print("\n".join(lines), flush=True)
    lines += table(["", "", "input", OURS, THEIRS, "times as fast", "aim"], compared(groups, effort))
    lines += table(["a call on 32x64", "time", "quartiles"], small_parts(effort))
    columns = ["ResNet-18, a training step", "input", "torch.nn"]
    columns += [cell for name in ("convert", FUSED_NETWORK, COPY) for cell in (name, "times as fast")]
    lines += table(columns, whole_network(options.quick, effort))
    options.markdown.parent.mkdir(parents=True, exist_ok=True)
    options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
