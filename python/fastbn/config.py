"""What fastbn runs on: threads, instruction set, version."""

from __future__ import annotations

from typing import Any, Literal, overload

from fastbn import _core


def set_num_threads(n: int | None) -> None:
    """Set how many threads a call may use.

    Results do not depend on it, to the last bit.

    Parameters
    ----------
    n : int or None
        At least 1. None, as at the start, leaves the number to OpenMP, which is asked at every call:
        ``OMP_NUM_THREADS`` and ``threadpoolctl`` then count.

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

    Small arrays take fewer. In a process forked from one that had imported fastbn it is 1.

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
        num_threads, openmp, compiler and build_type.

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
        "num_threads": _core.get_num_threads(),
        "openmp": _core.openmp,
        "compiler": _core.compiler,
        "build_type": _core.build_type,
    }
    if mode == "dicts":
        return config
    for key, value in config.items():
        print(f"{key:12} {value}")
    return None
