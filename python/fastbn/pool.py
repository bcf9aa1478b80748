"""The memory that large results come from: recycled, because fresh memory costs more than filling it."""

from __future__ import annotations

from typing import NamedTuple

from fastbn import _core


class PoolInfo(NamedTuple):
    """State of the pool of recycled memory: the result of `pool_info`.

    Attributes
    ----------
    limit : int
        Most bytes that are kept for reuse.
    held : int
        Bytes that are kept now, in memory that no array uses.
    blocks : int
        Number of blocks they are in.
    reused : int
        Results so far that took a kept block.
    """

    limit: int
    held: int
    blocks: int
    reused: int


def pool_info() -> PoolInfo:
    """Return what the pool of recycled memory holds.

    A result of 1 MiB or more, where no ``out`` is given, is an array on a block of the pool. The block goes back when
    the last array on it, views included, is gone; until then it belongs to that array alone.

    Returns
    -------
    PoolInfo
        ``(limit, held, blocks, reused)``, in bytes where it is memory.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.pool_info().limit >> 20  # MiB
    256
    """
    return PoolInfo._make(_core.pool_info())


def set_pool_limit(nbytes: int) -> None:
    """Set how much unused memory the pool keeps; what exceeds it is freed at once.

    Parameters
    ----------
    nbytes : int
        In bytes. 0 turns recycling off. At the start it is 256 MiB.

    Raises
    ------
    TypeError, ValueError
        If `nbytes` is not an integer, or negative.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.set_pool_limit(64 << 20)
    >>> fastbn.pool_info().limit
    67108864
    >>> fastbn.set_pool_limit(256 << 20)
    """
    _core.set_pool_limit(nbytes)


def clear_pool() -> None:
    """Free all memory that the pool keeps.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.clear_pool()
    >>> fastbn.pool_info().held
    0
    """
    _core.clear_pool()
