"""The libraries that are measured, a file each; this one only finds those that are installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from peers.base import Contestant, Peer, UnavailableError

__all__ = ["NAMES", "Contestant", "Peer", "UnavailableError", "load_peers"]

# What --peers takes, and the module that serves it. fastbn and torch come first: what they load is shared by the rest.
MODULES = {
    "fastbn": "fastbn_",
    "pytorch": "pytorch",
    "numpy": "numpy_",
    "onednn": "onednn",
    "sklearn": "sklearn_",
    "jax": "jax_",
    "onnxruntime": "onnxruntime_",
}
NAMES = tuple(MODULES)


def load_peers(names: Iterable[str], threads: int) -> tuple[list[Peer], list[str]]:
    """Return the peers that can be used here, and one line for each that cannot."""
    peers: list[Peer] = []
    left_out: list[str] = []
    for name in names:
        try:
            module = importlib.import_module(f"peers.{MODULES[name]}")
            peers.extend(module.load(threads))
        except (ImportError, UnavailableError) as error:
            left_out.append(f"{name} left out: {str(error).splitlines()[0]}")
    return peers, left_out
