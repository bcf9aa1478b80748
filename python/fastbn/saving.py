"""`Moments` as dicts, bytes, files and pickles, and back. Knows no data, and of files none but its own."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, TypeVar

import numpy as np

from fastbn.given import checked_rest
from fastbn.npz import not_written, read_npz, write_npz
from fastbn.summary import Summary

_WRITER = "Moments.save"

Saved = TypeVar("Saved", bound="SavedSummary")


class SavedSummary(Summary):
    """The part of `fastbn.Moments` that goes out and in whole."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dict of which `from_dict` makes an equal one.

        ``{key: np.asarray(value).tolist() for key, value in d.items()}`` can be written as JSON, exactly; and the files
        .json of the `fastbn` command are such dicts. mean_lo and m2_lo are what the float64 of mean and m2 left over in
        merging.

        Returns
        -------
        dict
            Count and options, and arrays of float64, which are copies.

        Examples
        --------
        >>> from fastbn import Moments
        >>> Moments(2, [1.0], [2.0]).to_dict()["mean"]
        array([1.])
        """
        arrays: dict[str, Any] = {"count": 0} if self._sums is None else dict(self._sums._asdict())
        if self._range is not None:
            arrays |= {"min": self._range[0], "max": self._range[1]}
        own = {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in arrays.items()}
        return own | {"nan": self._nan, "extremes": self._extremes}

    @classmethod
    def from_dict(cls: type[Saved], mapping: Mapping[str, Any]) -> Saved:
        """Return what `to_dict` described, or the `fastbn` command's JSON; keys that are not Moments' are ignored.

        Parameters
        ----------
        mapping : mapping of str to anything
            With "count" among its keys; lists do for arrays, and in them None for NaN, "inf" and "-inf" for infinity.

        Returns
        -------
        Moments
            With arrays of its own.

        Raises
        ------
        TypeError, ValueError
            Naming the key, where a value is not what it could be.
        """
        if not isinstance(mapping, Mapping):
            raise TypeError(f"mapping must be a mapping of names to values, got {type(mapping).__name__}")
        if "count" not in mapping:
            raise ValueError(f"mapping must have a count, got the keys {list(mapping)}")
        keys = ("count", "mean", "m2", "min", "max", "nan", "extremes")
        written = "kind" in mapping  # by the command, where a lone None is a NaN and not what is missing
        result = cls(**{key: _as_number(mapping[key], written) for key in keys if key in mapping})
        if result._sums is not None:
            wholes = {"mean_lo": result._sums.mean, "m2_lo": result._sums.m2}
            rests = {
                key: checked_rest(key, _as_number(mapping[key], written), whole)
                for key, whole in wholes.items()
                if key in mapping
            }
            result._sums = result._sums._replace(**rests)
        return result

    def to_bytes(self) -> bytes:
        """Return what `save` writes to a file.

        Returns
        -------
        bytes
        """
        with io.BytesIO() as file:
            self._write(file)
            return file.getvalue()

    @classmethod
    def from_bytes(cls: type[Saved], data: bytes) -> Saved:
        """Return what `to_bytes` described.

        Parameters
        ----------
        data : bytes
            As `to_bytes` gives them, or `save` writes them.

        Returns
        -------
        Moments

        Raises
        ------
        ValueError
            If data are anything else. No code in them is run.

        Examples
        --------
        >>> from fastbn import Moments
        >>> m = Moments(2, [1.0], [2.0])
        >>> Moments.from_bytes(m.to_bytes()) == m
        True
        """
        return cls._read(io.BytesIO(data), f"{len(data)} bytes", "data must be a file's content")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to exactly this path, in NumPy's .npz format.

        Parameters
        ----------
        path : path
            Of any suffix; a file that is there is replaced.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        with open(path, "wb") as file:
            self._write(file)

    @classmethod
    def load(cls: type[Saved], path: str | os.PathLike[str]) -> Saved:
        """Return what `save` wrote; members of the file that are not Moments' are ignored.

        No code in the file is run (nothing is unpickled).

        Parameters
        ----------
        path : path
            Of a file that `save` wrote.

        Returns
        -------
        Moments

        Raises
        ------
        ValueError, OSError
            If the file holds no Moments, or cannot be read.
        """
        with open(path, "rb") as file:
            return cls._read(file, repr(os.fspath(path)), "path must name a file")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a dict, which later versions can read."""
        return type(self).from_dict, (self.to_dict(),)

    def _write(self, file: BinaryIO) -> None:
        options = {"nan": self._nan, "extremes": self._extremes}
        write_npz(file, options, {key: value for key, value in self.to_dict().items() if key not in options})

    @classmethod
    def _read(cls: type[Saved], file: BinaryIO, shown: str, rule: str) -> Saved:
        config, arrays = read_npz(file, _WRITER, shown, rule)
        try:
            return cls.from_dict({**arrays, "nan": config["nan"], "extremes": config["extremes"]})
        except (KeyError, TypeError, ValueError) as error:
            raise not_written(_WRITER, shown, error, rule) from error


def _as_number(value: Any, alone: bool) -> Any:
    """Return numbers of which NaN and infinity are spelled as JSON, which has neither, must spell them."""
    if isinstance(value, list):
        return [_as_number(item, True) for item in value]
    if value is None:
        return math.nan if alone else None
    return {"inf": math.inf, "-inf": -math.inf}.get(value, value) if isinstance(value, str) else value
