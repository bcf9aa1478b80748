"""Statistics of data that are distributed over MPI ranks: one collective call that merges the `Moments` of all."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastbn._moments.moments import Moments

try:
    import mpi4py  # noqa: F401  # its package alone: mpi4py.MPI starts MPI when it is imported, and waits for a call
except ImportError as error:
    raise ImportError('fastbn.mpi needs mpi4py: pip install "fastbn[mpi]"') from error

__all__ = ["allreduce"]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


def allreduce(moments: Moments, comm: Any = None) -> Moments:
    """Merge the statistics of all ranks, for all of them. A collective call: every rank of `comm` must make it.

    The operation of the reduction is merging: Chan, Golub & LeVeque 1983, eq. 1.5.

    Parameters
    ----------
    moments : fastbn.Moments
        What this rank has seen; the same features on every rank that has seen any. A rank without data gives
        ``Moments()``. It is left as it is.
    comm : mpi4py.MPI.Comm, optional
        ``COMM_WORLD`` unless given; MPI is started if it is not running.

    Returns
    -------
    Moments
        What all ranks have seen, with the bits and the options (those of rank 0) the same on every rank; plain
        Moments, also of a subclass's. Extremes are kept if every rank with data has them.

    Raises
    ------
    TypeError, ValueError
        The same on every rank, if any rank gives no Moments or those of other features. No rank is left waiting.

    Notes
    -----
    mpi4py merges Python objects pair by pair in the order of ranks and sends the one result to all, without the MPI
    library's own reductions, whose grouping may differ between ranks and sizes. The data sent are some 40 bytes per
    feature and rank.

    Examples
    --------
    >>> from mpi4py import MPI
    >>> import fastbn.mpi
    >>> mine = fastbn.Moments().update([[1.0, 5.0], [3.0, 5.0]])
    >>> fastbn.mpi.allreduce(mine, MPI.COMM_SELF)  # every rank for itself
    Moments(count=2, mean=[2. 5.], std=[1. 0.])
    """
    if comm is None:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    found: Moments | _Refusal = comm.allreduce(_offered(moments, comm.Get_rank()), op=_merged)
    if isinstance(found, _Refusal):
        raise found.error(found.message)
    return found


class _Refusal(NamedTuple):
    """Why there is no result, sent in its place: an exception during the reduction would leave other ranks waiting."""

    error: type[Exception]
    message: str


def _offered(moments: Any, rank: int) -> Moments | _Refusal:
    """Return what can be sent: plain Moments, since a subclass's may hold what cannot be pickled."""
    got = f"{type(moments).__name__} on rank {rank}"
    if not isinstance(moments, Moments):
        return _Refusal(TypeError, f"moments must be fastbn.Moments, got {got}")
    try:
        return Moments(nan=moments.nan, extremes=moments.extremes).merge(moments)
    except Exception as error:  # a subclass may raise anything
        said = f"{got}, which raises {type(error).__name__}"
        return _Refusal(TypeError, f"moments must be whole fastbn.Moments, got {said}")


def _merged(a: Moments | _Refusal, b: Moments | _Refusal) -> Moments | _Refusal:
    """Merge what two groups of ranks have seen, the lower ranks first."""
    if isinstance(a, _Refusal) or isinstance(b, _Refusal):
        return a if isinstance(a, _Refusal) else b
    if None not in (a.shape, b.shape) and a.shape != b.shape:
        rule = f"have the same features on every rank, got shapes {a.shape} and {b.shape}"
        return _Refusal(ValueError, f"moments must {rule}")
    try:
        return a + b
    except ValueError as error:  # the sum of the counts is beyond float64
        return _Refusal(ValueError, f"moments must merge: {error}")
