"""fastbn itself, through its public functions and nothing else."""

from __future__ import annotations

from typing import Any

import fastbn
from cases import Op, Output
from data import Array, Data
from operations import arrays_of, call_of
from peers.base import Contestant, Peer


class Fastbn:
    """The library under test."""

    name = "fastbn"

    def __init__(self, threads: int) -> None:
        fastbn.set_num_threads(threads)
        self.version = f"{fastbn.__version__} ({fastbn.show_config('dicts')['isa']})"

    def prepare(self, op: Op, output: Output, data: Data) -> Contestant:
        """See :meth:`peers.base.Peer.prepare`."""
        out = data.result() if output == "given" and op != "moments" else None
        return Contestant(call_of(fastbn, op, data, out), lambda result: _arrays(op, result))


def _arrays(op: Op, result: Any) -> dict[str, Array]:
    found = arrays_of(op, result)
    if op == "moments":
        return {"mean": found["mean"], "var": result.var()}
    found.pop("invstd", None)
    found.pop("count", None)
    return found


def load(threads: int) -> list[Peer]:
    """Return the peer; raises ImportError where the extension is not built."""
    return [Fastbn(threads)]
