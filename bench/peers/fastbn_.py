"""fastbn itself, through its public functions and nothing else."""

from __future__ import annotations

from functools import partial
from typing import Any

import fastbn
from cases import Op, Output
from data import EPS, Data
from peers.base import Contestant, Peer

Call = partial[Any]


class Fastbn:
    """The library under test."""

    name = "fastbn"

    def __init__(self, threads: int) -> None:
        fastbn.set_num_threads(threads)
        self.version = f"{fastbn.__version__} ({fastbn.show_config('dicts')['isa']})"

    def prepare(self, op: Op, output: Output, data: Data) -> Contestant:
        """See :meth:`peers.base.Peer.prepare`."""
        axis = data.case.axis
        if op == "moments":
            return Contestant(partial(fastbn.moments, data.x, axis=axis), lambda m: {"mean": m.mean, "var": m.var()})
        out = data.result() if output == "given" else None
        affine = data.weight, data.bias
        counted, fused = _options(data)
        call: Call
        if op == "eval":
            running = data.running_mean, data.running_var
            call = partial(fastbn.normalize, data.x, *running, *affine, eps=EPS, axis=axis, out=out, **fused)
            return Contestant(call, lambda y: {"y": y})
        options = {"axis": axis, **counted, **fused}
        train: Call = partial(fastbn.batch_norm_train, data.x, data.weight, data.bias, eps=EPS, **options)
        if op == "train":
            return Contestant(partial(train, out=out), lambda r: {"y": r.y, "mean": r.mean, "var": r.var})
        saved = train()
        known = affine if fused else affine[:1]  # the bias is asked for only where an activation follows it
        backward: Call = partial(fastbn.batch_norm_backward, data.dy, data.x, *known, **options)
        call = partial(backward, mean=saved.mean, invstd=saved.invstd, out=out)
        return Contestant(call, lambda r: dict(r._asdict()))


def _options(data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments that say what counts, and those that say what follows; none of them for a plain call."""
    counted = {"where": data.where, "weights": data.weights}
    fused = {"residual": data.residual, "activation": "relu" if data.variant.relu else None}
    return _given(counted), _given(fused)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def load(threads: int) -> list[Peer]:
    """Return the peer; raises ImportError where the extension is not built."""
    return [Fastbn(threads)]
