"""Sums of one array, with or without its NaN entries. Knows no other array and no class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn.checks import Axis, kept_axes
from fastbn.merging import Sums, merged, sums_of

Data: TypeAlias = npt.NDArray[Any]

# Parts whose masks are made one at a time: large enough to keep all threads busy, small beside any x that is worth it.
_PART = 1 << 20
# Arrays of which a few values are looked at first: those whose pass takes a hundred times as long as the look.
_LARGE = 1 << 18
_PEEK = 1 << 12


def measured(x: Data, axis: Axis, where: Any, weights: Any, omit_nan: bool) -> Sums:
    """Return the sums of x; a mask of NaN entries is made only where there is one."""
    omit_nan = omit_nan and x.dtype.kind not in "iu"
    if not (omit_nan and x.size >= _LARGE and _shows_nan(x, axis, where, weights)):
        sums = sums_of(*_core.moments(x, axis, where, weights))
        if not (omit_nan and x.size and np.isnan(sums.mean).any()):
            return sums
    total = None
    for counted, *part in _counted_parts(x, axis, where, weights):
        sums = sums_of(*_core.moments(part[0], axis, counted, part[1]))
        total = sums if total is None else merged(total, sums)
    assert total is not None
    return total


def _shows_nan(x: Data, axis: Axis, where: Any, weights: Any) -> bool:
    """Whether NaN that counts is among the first values; a pass over all of them, slow where it meets it, is spared."""
    _core.check_counting(x, axis, None, None)
    at = next(_cuts(x, axis, _PEEK))
    seen = np.isnan(x[at])
    if not seen.any():
        return False
    _core.check_counting(x, axis, where, weights)
    for share in (where, weights):
        if share is not None:
            seen &= np.broadcast_to(share, x.shape)[at] > 0
    return bool(seen.any())


def _counted_parts(x: Data, axis: Axis, where: Any, weights: Any) -> Iterator[tuple[Data, Data, Data | None]]:
    """Cut x into (what counts, the part itself, its weights)."""
    masks = None if where is None else np.broadcast_to(where, x.shape)
    shares = None if weights is None else np.broadcast_to(weights, x.shape)
    for at in _cuts(x, axis, _PART):
        counted = ~np.isnan(x[at])
        if masks is not None:
            counted &= masks[at]
        yield counted, x[at], None if shares is None else shares[at]


def _cuts(x: Data, axis: Axis, size: int) -> Iterator[Any]:
    """Cut x along its longest reduced axis into parts of about so many values; into one if no axis is reduced."""
    kept = kept_axes(axis, x.ndim)
    reduced = [a for a in range(x.ndim) if a not in kept]
    if not reduced:
        yield ...
        return
    along = max(reduced, key=lambda a: x.shape[a])
    step = max(1, size * x.shape[along] // x.size)
    for start in range(0, x.shape[along], step):
        yield (slice(None),) * along + (slice(start, start + step),)
