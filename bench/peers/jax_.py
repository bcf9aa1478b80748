"""JAX on the CPU: mean, variance and transform as one jitted function, each call waited for."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from cases import Op, Output
from data import EPS, Array, Data
from peers.base import Contestant, Peer

JaxArray = Any


class Jax:
    """XLA's fusion of the same arithmetic, in the case's own layout."""

    name = "JAX"

    def __init__(self, jax: Any) -> None:
        self._jax = jax
        self.version = str(jax.__version__)

    def prepare(self, op: Op, output: Output, data: Data) -> Contestant | None:
        """See :meth:`peers.base.Peer.prepare`; JAX arrays are immutable, its results are always fresh."""
        if output == "given":
            return None
        jax, axes, count = self._jax, data.reduced, data.case.count

        def put(values: Array, spread: bool = True) -> JaxArray:
            return jax.device_put(data.spread(values) if spread else values)

        weight, bias, x = put(data.weight), put(data.bias), put(data.x, spread=False)

        def moments(x: JaxArray) -> tuple[JaxArray, JaxArray]:
            mean = x.mean(axes, keepdims=True)
            return mean, ((x - mean) ** 2).mean(axes, keepdims=True)

        def transform(x: JaxArray, mean: JaxArray, var: JaxArray) -> JaxArray:
            return (x - mean) * (weight * jax.lax.rsqrt(var + EPS)) + bias

        def train(x: JaxArray) -> tuple[JaxArray, JaxArray, JaxArray]:
            mean, var = moments(x)
            return mean, var, transform(x, mean, var)

        def backward(dy: JaxArray, x: JaxArray, mean: JaxArray, invstd: JaxArray) -> tuple[JaxArray, ...]:
            xhat = (x - mean) * invstd
            dbias, dweight = dy.sum(axes, keepdims=True), (dy * xhat).sum(axes, keepdims=True)
            return weight * invstd * (dy - dbias / count - xhat * (dweight / count)), dweight, dbias

        if op == "moments":
            return self._contestant(moments, (x,), ("mean", "var"))
        if op == "train":
            return self._contestant(train, (x,), ("mean", "var", "y"))
        if op == "eval":
            known = put(data.running_mean), put(data.running_var)
            return self._contestant(lambda *a: (transform(*a),), (x, *known), ("y",))
        mean, var = jax.jit(moments)(x)
        dy = put(data.dy, spread=False)
        return self._contestant(backward, (dy, x, mean, jax.lax.rsqrt(var + EPS)), ("dx", "dweight", "dbias"))

    def _contestant(self, function: Any, arguments: tuple[Any, ...], names: tuple[str, ...]) -> Contestant:
        compiled, wait = self._jax.jit(function), self._jax.block_until_ready

        def arrays(result: Any) -> dict[str, Array]:
            host = {name: np.asarray(value) for name, value in zip(names, result, strict=True)}
            return {name: value if name in ("y", "dx") else value.ravel() for name, value in host.items()}

        return Contestant(lambda: wait(compiled(*arguments)), arrays)


def load(threads: int) -> list[Peer]:
    """Return the peer; XLA reads its number of threads once, when it starts."""
    os.environ["NPROC"] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    return [Jax(jax)]
