"""Statistics and gradients over all ranks of a communicator: one collective forward, one backward.

A communicator is anything with ``allgather(obj) -> list``, the objects of all ranks in the order of ranks. What a rank
sends is small, some 40 bytes per channel, and every rank computes the same from what it receives, so all have the same
bits. A rank whose arguments are wrong sends its error in place of its numbers, in the same collective: then all ranks
raise it, none waits for ever, and nothing has been written on any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._moments.statistics import Statistics, measured, merged
from fastbn._validation import Axis, kept_axes
from fastbn.functional import normalize

Array: TypeAlias = npt.NDArray[Any]

# Squares below this have lost digits, or all of them: they are next to the smallest numbers of float64.
_TINY = 1e-290
_ERRORS = {error.__name__: error for error in (TypeError, ValueError, RuntimeError, MemoryError)}


class RankStatistics(NamedTuple):
    """What all ranks together have of each channel."""

    merged: Statistics
    total: Array  # number of values, or the sum of their weights
    values: int  # per channel, whatever their weights
    alike: bool  # masks and weights are the same in all channels
    mean: Array  # this and var, which is biased: 0 in a channel without values
    var: Array
    invstd: Array


def checked_comm(comm: Any) -> Any:
    """Return a communicator, or None where there is none."""
    if comm is not None and not callable(getattr(comm, "allgather", None)):
        raise TypeError(f"comm must be None or have allgather(obj) -> list, got {comm!r}")
    return comm


def gathered(comm: Any, call: str, make: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what `make` returns on every rank, or raise the same error on every rank.

    All ranks must make the same `call`, and agree in what `make` has under the key "same".
    """
    cause: Exception | None = None
    try:
        mine = {"call": call, **make()}
    except Exception as error:
        cause = error
        kind = next((name for name, each in _ERRORS.items() if isinstance(error, each)), "RuntimeError")
        mine = {"call": call, "refused": (kind, str(error))}
    offers = comm.allgather(mine)
    for rank, offer in enumerate(offers):
        if offer["call"] != offers[0]["call"]:
            got = f"{offers[0]['call']} on rank 0 and {offer['call']} on rank {rank}"
            raise RuntimeError(f"all ranks must make the same calls of a layer, got {got}") from cause
    for rank, offer in enumerate(offers):
        if "refused" in offer:
            kind, message = offer["refused"]
            raise _ERRORS[kind](f"{message} (rank {rank} of {len(offers)})") from cause
    for rank, offer in enumerate(offers):
        for name, value in offer["same"].items():
            first = offers[0]["same"][name]
            if value != first:
                got = f"{first!r} on rank 0 and {value!r} on rank {rank}"
                raise ValueError(f"{name} must be the same on every rank, got {got}")
    return list(offers)


def refuse(comm: Any, call: str, error: Exception) -> None:
    """Take part in a collective by this error, and raise it, or that of a lower rank."""

    def make() -> dict[str, Any]:
        raise error

    gathered(comm, call, make)


def statistics_offer(x: Array, axis: Axis, where: Any, weights: Any, eps: float) -> dict[str, Any]:
    """Return what a rank says about its batch."""
    own, _ = measured(x, axis, where, weights)
    if eps < _TINY and (own.m2 < _TINY).any():
        arrays = (None if each is None else np.asarray(each) for each in (where, weights))
        _, extremes = measured(x, axis, *arrays, extremes=True)
        if extremes is not None:
            _refuse_tiny((extremes.max > extremes.min) & (own.m2 < _TINY))
    values = x.size // max(1, own.mean.size)
    alike = all(each is None or _is_same_in_channels(np.shape(each), x, axis) for each in (where, weights))
    return {"statistics": tuple(own), "values": values, "alike": alike}


def _is_same_in_channels(shape: tuple[int, ...], x: Array, axis: Axis) -> bool:
    """Whether a mask or weights of this shape are broadcast along x's feature axes."""
    sizes = (1,) * (x.ndim - len(shape)) + shape
    return all(sizes[a] == 1 for a in kept_axes(axis, x.ndim))


def statistics_of(offers: list[dict[str, Any]], eps: float) -> RankStatistics:
    """Merge what all ranks have said, in the order of ranks."""
    parts = [Statistics(*offer["statistics"]) for offer in offers]
    total = reduce(merged, parts)
    count = np.broadcast_to(np.asarray(total.count, np.float64), total.mean.shape)
    with np.errstate(all="ignore"):
        mean = np.where(count > 0, total.mean, 0.0)
        var = np.where(count > 0, total.m2 / count, 0.0)
        added = var + eps
        invstd = np.where((count > 0) & (added != 0), 1 / np.sqrt(added), 0.0)
    overflown = np.isfinite(mean) & np.isinf(var)
    if overflown.any():
        raise ValueError(f"x must have a variance that float64 holds where comm is given, got {var[overflown][0]}")
    if eps < _TINY:
        means = np.array([np.where(np.asarray(each[0]) > 0, each[1], mean) for each in parts])
        _refuse_tiny((means != means[0]).any(axis=0) & (total.m2 < _TINY))
    values, alike = sum(offer["values"] for offer in offers), all(offer["alike"] for offer in offers)
    return RankStatistics(total, count, values, alike, mean, var, invstd)


def check_trainable(found: RankStatistics, *, correction: float | None, single: bool) -> None:
    """Raise ValueError where the batch of all ranks is too small; with a `correction`, to be remembered too."""
    most = found.total.max(initial=0.0)
    if single or found.values == 0 or found.total.size == 0:
        return
    if found.values == 1 and most <= 1:
        instead = "one is enough after eval() or with on_single='biased'"
        rule = f"more than one value per channel in training ({instead})"
        raise ValueError(f"x must hold {rule}, got 1 on all ranks together")
    if correction is None or most > correction or most == 0:
        return
    if (found.total == found.values).all():
        rule = f"be less than the {found.values} values per channel on all ranks together"
        raise ValueError(f"correction must {rule}, got {correction}")
    if not found.alike:  # channels that are left too little of keep their running statistics
        return
    rule = "where must leave" if most == np.floor(most) else "weights must sum to"
    raise ValueError(f"{rule} more than the correction of {correction} on all ranks together, got {most:g}")


def transformed(
    x: Array,
    found: RankStatistics,
    weight: Array | None,
    bias: Array | None,
    *,
    eps: float,
    axis: Axis,
    **epilogue: Any,
) -> Array:
    """Return y of this rank's batch, by the statistics of all ranks."""
    empty = found.total == 0
    if empty.any():
        weight = np.where(empty, 0.0, 1.0 if weight is None else weight)  # xhat is 0 where there are no values
    options = {"eps": eps, "axis": axis, "mean_lo": found.merged.mean_lo, **epilogue}
    return _core.normalize(x, found.mean, found.var, weight, bias, **options)


def means_of(offers: list[dict[str, Any]], total: Array) -> tuple[Array, Array]:
    """Return sum(dz) and sum(dz * xhat) over all ranks, divided by the count.

    0 where the count is 0, or a sum of weights so small beside other channels' that float64 does not hold the quotient.
    """
    sum_dy_xhat, sum_dy = (reduce(np.add, sums) for sums in zip(*(offer["sums"] for offer in offers), strict=True))
    divisor = np.where(total > 0, total, 1.0)
    with np.errstate(over="ignore"):
        means = sum_dy / divisor, sum_dy_xhat / divisor
    lost = (total > 0) & (total < 1) & (np.isinf(means[0]) | np.isinf(means[1]))
    return np.where(lost, 0.0, means[0]), np.where(lost, 0.0, means[1])


def updated(old: Array, new: Array, momentum: float, remembered: Array) -> Array:
    """Return running statistics moved towards a batch's, in float64, where the batch is to be remembered."""
    wide = old.astype(np.float64)
    with np.errstate(all="ignore"):
        return np.where(remembered, (1 - momentum) * wide + momentum * new, wide)


def _refuse_tiny(underflown: Array) -> None:
    if underflown.any():
        raise ValueError("x must have a variance that float64 holds where comm is given, got one below 1e-290")


# Checks before the collective.


def check_output(x: Array, out: Any, residual: Array | None, others: tuple[Any, ...]) -> None:
    """Raise where the engine would refuse the output or the residual, without writing anything."""
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual must have x's shape {x.shape}, got {residual.shape}")
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, got {type(out).__name__}")
    if out.shape != x.shape:
        raise ValueError(f"out must have x's shape {x.shape}, got {out.shape}")
    for name, source in (("x", x), ("residual", residual)):
        if source is not None and not _identical(out, source) and np.shares_memory(out, source):
            raise ValueError(f"out must be {name} itself or share no memory with it, got a part of it")
    for other in others:
        if isinstance(other, np.ndarray) and np.shares_memory(out, other):
            raise ValueError("out must share no memory with other arguments, got an array that does")


def check_parameters(
    x: Array, weight: Array | None, bias: Array | None, running: list[Array], *, eps: float, axis: Axis, **epilogue: Any
) -> None:
    """Raise where the engine would refuse anything but x, the mask and the weights: on a part of x without values."""
    for array in running:
        if not array.flags.writeable:
            raise ValueError("running_mean and running_var must be writable, got a read-only array")
    kept = kept_axes(axis, x.ndim)
    reduced = [a for a in range(x.ndim) if a not in kept]
    # Where no axis is reduced, a channel has one value, and the whole is as good.
    nothing = (slice(None),) * reduced[0] + (slice(0, 0),) if reduced else ...
    shape = tuple(x.shape[a] for a in kept)
    parts = {name: value[nothing] for name, value in epilogue.items() if isinstance(value, np.ndarray)}
    if not reduced:
        parts.pop("out", None)
        epilogue = epilogue | {"out": None}
    normalize(x[nothing], np.zeros(shape), np.ones(shape), weight, bias, eps=eps, axis=axis, **(epilogue | parts))


def _identical(a: Array, b: Array) -> bool:
    same = (a.dtype, a.shape, a.strides) == (b.dtype, b.shape, b.strides)
    return same and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
