"""fastbn itself, through its public functions and nothing else."""

from __future__ import annotations

from functools import partial
from typing import Any

import fastbn
from cases import Op, Output
from data import EPS, Array, Data, aligned_like
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
        out = aligned_like(data.x) if output == "given" else None
        affine = data.weight, data.bias
        call: Call
        if op == "train":
            call = partial(fastbn.batch_norm_train, data.x, *affine, eps=EPS, axis=axis, out=out)
            return Contestant(call, lambda r: {"y": r.y, "mean": r.mean, "var": r.var})
        if op == "eval":
            known = data.running_mean, data.running_var
            call = partial(fastbn.normalize, data.x, *known, *affine, eps=EPS, axis=axis, out=out)
            return Contestant(call, lambda y: {"y": y})
        saved = fastbn.batch_norm_train(data.x, eps=EPS, axis=axis)
        backward = partial(fastbn.batch_norm_backward, mean=saved.mean, invstd=saved.invstd, axis=axis, out=out)
        call = partial(backward, data.dy, data.x, data.weight)
        return Contestant(call, _gradients)


def _gradients(result: Any) -> dict[str, Array]:
    return {"dx": result.dx, "dweight": result.dweight, "dbias": result.dbias}


def load(threads: int) -> list[Peer]:
    """Return the peer; raises ImportError where the extension is not built."""
    return [Fastbn(threads)]
