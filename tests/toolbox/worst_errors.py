"""The worst errors of folding, renormalization, population statistics, ranks and conversions against references.

    python tests/toolbox/worst_errors.py

prints the table of docs/toolbox.md, and the time of a step on ranks beside a local one. What needs a library that is
not installed is left out. References are in long double, or the other library itself.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from test_ranks import Data, network, trained

import fastbn
from fastbn import BatchNorm
from support import oracle
from support.oracle import Array
from support.ranks import ThreadComm, on_ranks

os.environ.setdefault("KERAS_BACKEND", "torch")


class Row(NamedTuple):
    """One line of the table: what was compared, with what, how far it was off at worst, and how far it may be."""

    section: str
    what: str
    reference: str
    error: float
    bound: float


def off(found: Any, wanted: Any) -> float:
    """Return the largest difference, relative to the size of what is wanted where that is above 1."""
    want = np.asarray(wanted, np.longdouble)
    return float(np.max(np.abs(np.asarray(found, np.longdouble) - want) / np.maximum(1, np.abs(want)), initial=0))


def layer_of(features: int, **options: Any) -> BatchNorm:
    """Return a layer with weights of either sign and of 0, and variances near 0 and near 1."""
    rng = np.random.default_rng(features)
    layer = BatchNorm(features, **options)
    for array in layer.parameters():
        array[...] = rng.normal(size=features)
    if layer.weight is not None:
        layer.weight[::3] = 0.0
    layer.running_mean[...] = rng.normal(size=features)
    layer.running_var[...] = np.where(np.arange(features) % 4 == 1, 1e-12, rng.uniform(0.5, 2.0, features))
    return layer


# 1. Parts of the layer.


def parts() -> Iterator[Row]:
    layer, x, dy = layer_of(4, renorm=(1.5, 0.3)), *np.random.default_rng(0).normal(3.0, 2.0, (2, 20, 4, 5))
    plain = oracle.train(x)
    std, running = (np.sqrt(np.asarray(v, np.longdouble) + layer.eps) for v in (plain.biased, layer.running_var))
    r = np.clip(std / running, 1 / np.longdouble(1.5), 1.5)[:, None]
    d = np.clip((plain.mean - layer.running_mean) / running, -0.3, 0.3)[:, None]
    y, dx = layer(x), layer.backward(dy)
    want = oracle.backward(dy, x, layer.weight * r.ravel(), plain.mean, plain.invstd)
    section = "batch renormalization"
    formula = "the paper's formulas, long double"
    yield Row(section, "y", formula, off(y, layer.weight[:, None] * (r * plain.y + d) + layer.bias[:, None]), 1e-13)
    yield Row(section, "dx", formula, off(dx, want.dx), 1e-13)
    yield Row(section, "grad_weight", formula, off(layer.grad_weight, (dy * (r * plain.y + d)).sum((0, 2))), 1e-12)
    scale, shift = layer.scale_shift()
    evaluated = oracle.normalize(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
    yield Row(
        "scale_shift", "scale * x + shift", "long double", off(scale[:, None] * x + shift[:, None], evaluated), 1e-12
    )


# 2. Folding.


def folds() -> Iterator[Row]:
    u, w, b = (np.random.default_rng(n).normal(size=shape) for n, shape in enumerate([(50, 8), (8, 12), (12,)]))
    exact = (u.astype(np.longdouble), w.astype(np.longdouble))
    for side, layer in (("after", layer_of(12)), ("before", layer_of(8))):
        statistics = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        folded, shift = fastbn.fold(layer, w, b, axis=int(side == "after"), side=side)
        if side == "after":
            want = oracle.normalize(exact[0] @ exact[1] + b, *statistics)
        else:
            want = oracle.normalize(u, *statistics) @ exact[1] + b
        yield Row("fold", f"matrix, {side}", "long double", off(u @ folded + shift, want), 1e-12)
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    for transposed in (False, True):
        for groups, kind in ((1, ""), (2, "grouped "), (6, "depthwise ")):
            rng = np.random.default_rng(groups)
            shape = (6, 12 // groups) if transposed else (12, 6 // groups)
            kernel, offset, x = rng.normal(size=(*shape, 3, 3)), rng.normal(size=12), rng.normal(size=(2, 6, 9, 9))
            layer = layer_of(12).eval()
            run = torch.nn.functional.conv_transpose2d if transposed else torch.nn.functional.conv2d
            how: dict[str, Any] = {"stride": 2, "padding": 1, "groups": groups}

            def convolved(*arrays: Array, run: Any = run, how: Any = how) -> Array:
                result: Array = run(*map(torch.from_numpy, arrays), **how).numpy()
                return result

            folded = fastbn.fold(layer, kernel, offset, axis=int(transposed), groups=groups)
            what = f"{kind}{'transposed ' * transposed}convolution, after"
            yield Row(
                "fold", what, "PyTorch, float64", off(convolved(x, *folded), layer(convolved(x, kernel, offset))), 1e-12
            )


# 3. Population statistics.


def populations() -> Iterator[Row]:
    batches = [1e4 * i + np.random.default_rng(i).normal(size=(3 + 7 * i, 4)) for i in range(8)]
    layer, averaged = BatchNorm(4), BatchNorm(4, momentum=None)
    with fastbn.population_statistics(layer):
        for x in batches:
            layer(x)
            averaged(x)
    want = oracle.moments(np.concatenate(batches))
    var = want.m2 / (want.count - 1)
    yield Row("population_statistics", "running_mean", "long double", off(layer.running_mean, want.mean), 1e-15)
    yield Row("population_statistics", "running_var", "long double", off(layer.running_var, var), 1e-14)


# 4. Ranks.


def ranks() -> Iterator[Row]:
    for sizes in ((1, 7, 4), (2, 0, 5, 1, 4)):
        data = Data(sizes, masked=True)
        whole = copy.copy(data)
        whole.sizes = (len(data.x),)
        found = on_ranks(len(sizes), lambda comm, data=data: trained(comm, comm.rank, data, {}))
        alone = trained(None, 0, whole, {})
        shown = f"{len(sizes)} ranks of {', '.join(map(str, sizes))} rows: "
        for name in ("y", "dx", "evaluated"):
            error = off(np.concatenate([part[name] for part in found]), alone[name])
            yield Row("comm", shown + name, "one process", error, 1e-13)
        for name in ("running_mean", "running_var"):
            yield Row("comm", shown + name, "one process", off(found[0][name], alone[name]), 1e-14)

    def run(comm: ThreadComm) -> list[Array]:
        return network(comm, comm.rank, 3, lambda mine: sum(comm.allgather(mine)))

    single = network(None, 0, 1, lambda mine: mine)
    error = max(off(one, other) for found in on_ranks(3, run) for one, other in zip(found, single, strict=True))
    yield Row("comm", "weights of a network after 100 steps on 3 ranks", "one process", error, 1e-10)


# 5. Other libraries.


def conversions() -> Iterator[Row]:
    x = np.random.default_rng(0).normal(3.0, 2.0, (64, 6)).astype(np.float32)
    layer = BatchNorm(6, correction=0, dtype=np.float32)
    layer(x)
    after = copy.deepcopy(layer)
    y = after(x)

    def rows(name: str, *found: Any) -> Iterator[Row]:
        wanted = (y, after.running_mean, after.running_var)
        for what, got, want in zip(("y", "running_mean", "running_var"), found, wanted, strict=True):
            yield Row("interop", f"{name}: {what} of a training step", f"{name}, float32", off(got, want), 1e-5)

    if importlib.util.find_spec("torch") is not None:
        import torch

        layer.correction = after.correction = 1
        unbiased = copy.deepcopy(layer)
        module = fastbn.interop.to_torch(unbiased, torch.nn.BatchNorm1d)
        result = module(torch.from_numpy(x)).detach().numpy()
        want = (unbiased(x), unbiased.running_mean, unbiased.running_var)
        got = (result, module.running_mean.numpy(), module.running_var.numpy())
        for what, one, other in zip(("y", "running_mean", "running_var"), got, want, strict=True):
            yield Row("interop", f"PyTorch: {what} of a training step", "PyTorch, float32", off(one, other), 1e-5)
        layer.correction = after.correction = 0
    if all(importlib.util.find_spec(each) for each in ("keras", "torch")):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Keras, which converts PyTorch's tensors in an old way
            theirs = fastbn.interop.to_keras(layer, ndim=2)
            arrays = [theirs(x, training=True), theirs.moving_mean, theirs.moving_variance]
            import keras

            yield from rows("Keras", *(keras.ops.convert_to_numpy(each) for each in arrays))
    if importlib.util.find_spec("flax") is not None:
        module, variables = fastbn.interop.to_flax(layer)
        result, changed = module.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        yield from rows("Flax", result, changed["batch_stats"]["mean"], changed["batch_stats"]["var"])
    if all(importlib.util.find_spec(each) for each in ("onnx", "onnxruntime")):
        yield from rows("ONNX Runtime", *run_onnx(fastbn.interop.to_onnx(layer, ndim=2), x))
    if all(importlib.util.find_spec(each) for each in ("skl2onnx", "onnxruntime")):
        import skl2onnx

        from fastbn.sklearn import StandardScaler, register_with_skl2onnx

        register_with_skl2onnx()
        far = x + np.float32(1e5)
        scaler = StandardScaler(clip=2.0).fit(far)
        (result,) = run_onnx(skl2onnx.to_onnx(scaler, far), far)
        yield Row(
            "StandardScaler",
            "clip=2, at mean 1e5, by skl2onnx",
            "ONNX Runtime",
            off(result, scaler.transform(far)),
            1e-6,
        )


def run_onnx(model: Any, x: Array) -> list[Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: list[Array] = session.run(None, {session.get_inputs()[0].name: x})
    return result


SECTIONS: tuple[Callable[[], Iterator[Row]], ...] = (parts, folds, populations, ranks, conversions)


def table() -> list[str]:
    """Return the table in Markdown."""
    lines = ["| section | what | against | worst error | asserted |", "|---|---|---|---|---|"]
    for section in SECTIONS:
        lines += [f"| {r.section} | {r.what} | {r.reference} | {r.error:.1e} | {r.bound:.0e} |" for r in section()]
    return lines


def step_times(rows: int = 8192, channels: int = 64, ranks: int = 2) -> tuple[float, float]:
    """Return milliseconds of a local step (forward and backward), and of one on ranks that are threads, at best."""
    x = np.random.default_rng(0).normal(size=(rows, channels)).astype(np.float32)

    def best(comm: Any) -> float:
        layer, found = BatchNorm(channels, comm=comm), []
        for _ in range(15):
            start = time.perf_counter()
            layer(x)
            layer.backward(x)
            found.append(time.perf_counter() - start)
        return 1e3 * min(found)

    alone = best(None)
    return alone, max(on_ranks(ranks, best))


if __name__ == "__main__":
    print("\n".join(table()))
    local, shared = step_times()
    shown = f"local {local:.2f} ms; each of two ranks, threads of one process, {shared:.2f} ms"
    print(f"\nstep on (8192, 64) float32: {shown}")
