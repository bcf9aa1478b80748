"""What a peer is to the benchmark: a name, a version, and calls that are ready to be timed; knows no library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cases import Op, Output
from data import Array, Data


class UnavailableError(Exception):
    """A peer that cannot be used on this machine; the message says why in one line."""


@dataclass(frozen=True)
class Contestant:
    """One call to be timed.

    Parameters
    ----------
    call : callable
        Does the operation once. It must have finished when it returns.
    arrays : callable
        Takes what ``call`` returned and gives the results as NumPy arrays in the case's own layout, by name: ``y``,
        ``mean``, ``var`` (biased), ``dx``, ``dweight``, ``dbias``, ``dresidual``. A peer leaves out what its API does
        not return.
    """

    call: Callable[[], Any]
    arrays: Callable[[Any], dict[str, Array]]


class Peer(Protocol):
    """A library, set up for a number of threads."""

    @property
    def name(self) -> str:
        """The name in tables and pictures."""

    @property
    def version(self) -> str:
        """The library's version, and its settings where they matter."""

    def prepare(self, op: Op, output: Output, data: Data) -> Contestant | None:
        """Return the best call the library has for this, or None where it has none.

        Parameters
        ----------
        op : {"train", "eval", "backward", "moments"}
            The operation.
        output : {"given", "fresh"}
            Whether the result is written to memory that exists, or the call allocates it. For ``moments``, whose
            results are small, ``fresh`` alone is asked for.
        data : Data
            The inputs; not to be written to. ``data.variant`` says what else is asked for; only the peers that
            ``run.py`` lists for --breadth ever see one that is not plain.
        """
