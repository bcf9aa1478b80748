"""What fastbn runs on: threads, instruction set, version, and the pool of memory that large results come from."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

from fastbn import _core


def set_num_threads(n: int | None) -> None:
    """Set how many threads a call may use.

    Results do not depend on it, to the last bit. A call takes fewer where the array is small, where the affinity, the
    container's quota or other calls leave fewer processors, and where calls before it were slowed down by threads that
    the system did not run.

    Parameters
    ----------
    n : int or None
        At least 1. None, as at the start, leaves the number to OpenMP, which is asked at every call:
        ``OMP_NUM_THREADS`` and ``threadpoolctl`` then have their effect.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or less than 1.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.set_num_threads(1)
    >>> fastbn.get_num_threads()
    1
    >>> fastbn.set_num_threads(None)
    """
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """Return how many threads a call may use.

    A call may take fewer (see `set_num_threads`). In a process forked from one that had imported fastbn it is 1.

    Returns
    -------
    int
        What `set_num_threads` was given, or else OpenMP's number now.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...


def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Show what this build of fastbn is and what it runs on here.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Print it, or return it.

    Returns
    -------
    dict or None
        With ``mode="dicts"``: version, the instruction set in use (isa), those that can be used here (isas),
        the bytes that a core's second-level and the third-level cache are taken to have (caches), num_threads,
        processors (how many of them the affinity and the container's quota leave), openmp, compiler and build_type.

    Raises
    ------
    ValueError
        If `mode` is neither of the two.

    Examples
    --------
    >>> import fastbn
    >>> "generic" in fastbn.show_config("dicts")["isas"]
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    config = {
        "version": _core.version,
        "isa": _core.get_isa(),
        "isas": list(_core.isas()),
        "caches": dict(zip(("l2", "l3"), _core.get_caches(), strict=True)),
        "num_threads": _core.get_num_threads(),
        "processors": _core.processors(),
        "openmp": _core.openmp,
        "compiler": _core.compiler,
        "build_type": _core.build_type,
    }
    if mode == "dicts":
        return config
    for key, value in config.items():
        print(f"{key:12} {value}")
    return None


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

    Examples
    --------
    >>> import fastbn
    >>> limit, held, blocks, reused = fastbn.pool_info()
    >>> held <= limit
    True
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
        ``(limit, held, blocks, reused)``, the first two in bytes.

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
