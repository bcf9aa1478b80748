"""`Moments`: count, mean and centred sum of squares as a value that grows with data, merges and is saved.

`statistics` computes those of one array, and of two sets together.
"""

from __future__ import annotations

import _thread
import io
import numbers
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from fastbn._moments.provenance import (
    UNKNOWN,
    Provenance,
    check_columns,
    check_coordinates,
    check_scales,
    check_units,
    checked_provenance,
    from_json,
    provenance_of,
)
from fastbn._moments.statistics import Array, Count, Extremes, Statistics, measured, merged_with_extremes
from fastbn._npz import check_kind, not_written, read_npz, save_npz, write_npz
from fastbn._validation import (
    LARGEST,
    Axis,
    Shape,
    abridged,
    checked_axis,
    checked_choice,
    checked_extremes,
    checked_flag,
    checked_low_part,
    checked_real,
    checked_statistics,
    converted,
    warn,
)

M = TypeVar("M", bound="Moments")

_WRITER = "Moments.save"
# What files hold as JSON, not as arrays.
_CONFIG = ("nan", "extremes", "scale", "axis", "mode", "coords", "nodata", "texts")


# Held by whoever replaces what Moments have seen, for one comparison and one assignment. A fork waits for it, or the
# child could inherit it from a thread that it does not have; so there is one for all Moments.
_replacing = _thread.allocate_lock()  # what `threading` has, whose import takes a millisecond
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_replacing.acquire, after_in_parent=_replacing.release, after_in_child=_replacing.release
    )


class _Seen(NamedTuple):
    """All that Moments have seen, never written to: copies share it, and a thread that reads it has one state."""

    statistics: Statistics | None = None  # this and extremes: None until data were seen
    extremes: Extremes | None = None
    provenance: Provenance = UNKNOWN

    def merged(self, other: _Seen) -> _Seen:
        if other.statistics is None:
            return self
        if self.statistics is None:
            return other
        shape, other_shape = self.statistics.mean.shape, other.statistics.mean.shape
        if shape != other_shape:
            raise ValueError(f"other must have features of shape {shape}, got {other_shape}")
        provenance = self.provenance.merged(other.provenance)
        statistics, extremes = merged_with_extremes(self.statistics, self.extremes, other.statistics, other.extremes)
        return _Seen(statistics, extremes, provenance)


class Moments:
    """Count, mean and centred sum of squares of each feature, over all the data seen so far.

    A value that grows with `update` and merges with others: parts that are measured one by one, on other days or
    machines, and merged in any order and grouping, give what one pass over all data gives, to rounding. ``Moments()``
    has seen nothing and is the identity of merging.

    Parameters
    ----------
    count : int or array_like, optional
        Statistics to begin with: how many values there are, for all features or for each.
    mean, m2 : array_like, optional
        Mean, and ``sum((x - mean)**2)``, of each feature; both of the same shape, and with `count`. Not given: nothing
        was seen. (`fastbn.moments` and `update` measure an array.)
    min, max : array_like, optional
        Extremes of each feature, both or neither.
    nan : {"propagate", "omit"}, default "propagate"
        What `update` does with NaN entries: the feature's statistics become NaN, or the entries are left out.
    extremes : bool, default False
        Whether `update` looks for the least and the largest value too, in the same reading of the data.

    Attributes
    ----------
    count : int or ndarray of float64
        Number of values per feature; where features differ, values were weighted, or int64 would end, an array.
    mean, m2 : ndarray of float64
        Of the feature shape, read-only; a mean is NaN where ``count`` is 0. Of shape (0,) while nothing was seen.
    min, max : ndarray of float64 or None
        Likewise; None unless every part that was merged has them.
    shape : tuple of int or None
        The feature shape; None while nothing was seen.
    names : tuple of str or None
        What the features are called, where a data frame or a file named them; in C order of the feature shape.
    nan, extremes
        The options.
    scale, axis, mode
        How `fastbn.stream` read the data: what values were divided by, the feature axes, the mode of images; None where
        that is not known. Read-only.

    Notes
    -----
    Merging is Chan, Golub & LeVeque 1983, eq. 1.5, in float64, with the rounding errors of mean and m2 carried along.
    The relative error of the variance is that of `fastbn.moments`, whatever mean / std is; data that are constant have
    an m2 of exactly 0. Values beyond 1e150 may have an infinite m2.

    Names go with the statistics, into files and dicts and out of them, and so do the coordinates of arrays of xarray
    along the feature axes, and the options that `fastbn.stream` was given and `fastbn.standardize` goes by: ``scale``,
    ``axis``, ``mode``, ``nodata`` and the spelling of texts. Merging refuses other names, coordinates and no-data
    values, and another scale (see `merge`); what else differs is forgotten.

    Threads may `update` and `merge` into the same Moments at once: nothing is lost, and who unpacks them, or asks for a
    variance, meets the state before an update or after it. The last bits depend on the order in which the threads come.

    ``count, mean, m2 = moments`` unpacks. ``==`` compares count, mean, m2, min and max, NaN being equal to itself.

    Examples
    --------
    >>> from fastbn import Moments
    >>> a, b = Moments().update([[1.0, 5.0], [3.0, 5.0]]), Moments().update([[8.0, 5.0]])
    >>> a + b
    Moments(count=3, mean=[4. 5.], std=[2.944 0.   ])
    >>> a + b == sum([b, a]) == Moments().update([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]])
    True
    >>> (a + b).var(correction=1)
    array([13.,  0.])
    """

    __hash__ = None  # type: ignore[assignment]  # a value that changes
    __array_ufunc__ = None  # NumPy leaves `array + moments` and `array == moments` to this class

    _seen: _Seen
    _nan: Literal["propagate", "omit"]
    _extremes: bool

    _divisor: _Divisor | None = None  # of the last call of `normalize`

    def __init__(
        self,
        count: Any = None,
        mean: npt.ArrayLike | None = None,
        m2: npt.ArrayLike | None = None,
        *,
        min: npt.ArrayLike | None = None,
        max: npt.ArrayLike | None = None,
        nan: Literal["propagate", "omit"] = "propagate",
        extremes: bool = False,
    ) -> None:
        self._nan = checked_choice("nan", nan)
        self._extremes = checked_flag("extremes", extremes) or min is not None
        given = checked_statistics(count, mean, m2)
        statistics = None if given is None else Statistics(*given, *map(np.zeros_like, given[1:]))  # low parts of 0
        extremes_given = checked_extremes(min, max, None if statistics is None else statistics.mean.shape)
        self._seen = _Seen(statistics, None if extremes_given is None else Extremes(*extremes_given))

    # What was seen.

    @property
    def count(self) -> Count:
        """How many values there are of each feature."""
        statistics = self._seen.statistics
        count = 0 if statistics is None else statistics.count
        return count if isinstance(count, int) else _read_only(count)

    @property
    def mean(self) -> Array:
        """Mean of each feature."""
        statistics = self._seen.statistics
        return np.empty(0) if statistics is None else _read_only(statistics.mean)

    @property
    def _mean_lo(self) -> Array:
        statistics = self._seen.statistics
        return np.empty(0) if statistics is None else statistics.mean_lo

    @property
    def m2(self) -> Array:
        """Sum of squares about the mean of each feature."""
        statistics = self._seen.statistics
        return np.empty(0) if statistics is None else _read_only(statistics.m2)

    @property
    def min(self) -> Array | None:
        """Least value of each feature."""
        extremes = self._seen.extremes
        return None if extremes is None else _read_only(extremes.min)

    @property
    def max(self) -> Array | None:
        """Largest value of each feature."""
        extremes = self._seen.extremes
        return None if extremes is None else _read_only(extremes.max)

    @property
    def shape(self) -> Shape | None:
        """The feature shape, None while nothing was seen."""
        statistics = self._seen.statistics
        return None if statistics is None else statistics.mean.shape

    @property
    def names(self) -> tuple[str, ...] | None:
        """What the features are called, None where they have no names."""
        return self._seen.provenance.names

    @property
    def scale(self) -> float | None:
        """What `fastbn.stream` divided the values by, None where that is not known."""
        return self._seen.provenance.scale

    @property
    def axis(self) -> Axis | None:
        """The feature axis or axes of the arrays that `fastbn.stream` read, None where they are not known."""
        return self._seen.provenance.axis

    @property
    def mode(self) -> str | None:
        """What `fastbn.stream` converted images to, None where that is not known."""
        return self._seen.provenance.mode

    @property
    def nan(self) -> Literal["propagate", "omit"]:
        """What `update` does with NaN entries."""
        return self._nan

    @property
    def extremes(self) -> bool:
        """Whether `update` looks for the least and the largest value too."""
        return self._extremes

    def var(self, correction: float = 0) -> Array:
        """Return the variance, ``m2 / (count - correction)``.

        Parameters
        ----------
        correction : float, default 0
            0 for the biased variance, which normalizes; 1 for the unbiased one.

        Returns
        -------
        ndarray of float64
            One value per feature; NaN where ``count - correction`` is not positive.
        """
        correction = checked_real("correction", correction, 0, LARGEST)
        count, _, m2 = self
        freedom = np.asarray(count - correction, np.float64)
        with np.errstate(over="ignore"):  # where the sum of the weights is tiny
            return np.asarray(m2 / np.where(freedom > 0, freedom, np.nan))

    def std(self, correction: float = 0) -> Array:
        """Return the standard deviation, the square root of `var`.

        Parameters
        ----------
        correction : float, default 0
            As for `var`.

        Returns
        -------
        ndarray of float64
            One value per feature; NaN where ``count - correction`` is not positive.
        """
        return np.asarray(np.sqrt(self.var(correction)))

    def __iter__(self) -> Iterator[Any]:
        """Unpack into count, mean and m2."""
        now = self.copy()
        return iter((now.count, now.mean, now.m2))

    def __eq__(self, other: object) -> bool:
        """Whether both have the same features and statistics."""
        if not isinstance(other, Moments):
            return NotImplemented
        one, another = self.copy(), other.copy()
        pairs = zip((*one, one.min, one.max), (*another, another.min, another.max), strict=True)
        return one.shape == another.shape and all(_equal(a, b) for a, b in pairs)

    def __repr__(self) -> str:
        """Return count, mean and standard deviation, extremes if known, a scale but 1; many features are shortened."""
        now = self.copy()
        shown: dict[str, Any] = {} if now.shape is None else {"count": now.count, "mean": now.mean, "std": now.std()}
        if now.min is not None:
            shown |= {"min": now.min, "max": now.max}
        if now.scale is not None and now.scale != 1:
            shown["scale"] = now.scale
        return f"Moments({', '.join(f'{name}={_brief(value)}' for name, value in shown.items())})"

    # Growing and merging.

    def update(
        self,
        x: npt.ArrayLike,
        *,
        axis: Axis = 1,
        where: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
    ) -> Moments:
        """Take in the values of an array, and return self.

        Parameters
        ----------
        x : array_like
            Two dimensions or more, of a type that `fastbn.moments` takes, in any memory layout.
        axis : int or tuple of ints, default 1
            The feature axis or axes, of the same sizes in every call; all others are reduced.
        where, weights : array_like, optional
            Which values are taken in, and with what weight (see `fastbn.batch_norm`).

        Returns
        -------
        Moments
            self

        Raises
        ------
        TypeError, ValueError
            As `fastbn.moments`, and if x has not the features seen before, or a data frame other columns, or the values
            seen before were divided by a scale: the units of an array are not known, and `merge` takes what
            `fastbn.stream` measured with the same scale. Nothing is taken in then.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import Moments
        >>> m = Moments(nan="omit")
        >>> for batch in np.array([[[1.0], [2.0]], [[np.nan], [6.0]]]):
        ...     m = m.update(batch)
        >>> m.count, m.mean
        (array([3.]), array([3.]))
        """
        data = converted("x", x)
        if self._seen.statistics is not None:
            check_scales("x", self.scale, None)
        where = None if where is None else converted("where", where)
        weights = None if weights is None else converted("weights", weights)
        axis = checked_axis(axis)
        omit_nan = self._nan == "omit"
        measurement = measured(data, axis, where, weights, omit_nan=omit_nan, extremes=self._extremes)
        part = Moments._of(*measurement, provenance_of(x, axis) if self.names is None else UNKNOWN)
        if self.shape not in (None, part.shape):
            raise ValueError(f"x must have features of shape {self.shape} along axis {axis}, got {part.shape}")
        check_columns(x, axis, self.names)
        check_coordinates(x, axis, self._seen.provenance.coords)
        return self.merge(part)

    def merge(self, other: Moments) -> Moments:
        """Take in what another has seen, and return self.

        Extremes are kept where both have them, names where one of them has them. Statistics of values that were divided
        by a scale merge with those of the same scale alone; no scale, and one that is not known, are taken for 1. So it
        is in ``a + b``, ``sum``, `concatenate`, `update` and ``fastbn merge``.

        Parameters
        ----------
        other : Moments
            Of the same features, or of nothing. It stays as it is.

        Returns
        -------
        Moments
            self

        Raises
        ------
        TypeError, ValueError
            If `other` is something else, has other features, other names of them or another scale, or the sum of the
            two counts is beyond float64. Nothing is taken in then.

        Examples
        --------
        >>> from fastbn import Moments
        >>> Moments(2, [1.0], [2.0]).merge(Moments(1, [4.0], [0.0]))
        Moments(count=3, mean=[2.], std=[1.633])
        """
        if not isinstance(other, Moments):
            _refuse_array(other)
            raise TypeError(f"other must be Moments, got {type(other).__name__}")
        part = other._seen
        while True:
            before = self._seen
            after = before.merged(part)
            with _replacing:
                if self._seen is before:
                    self._seen, self._divisor = after, None
                    return self

    def __add__(self, other: Moments) -> Moments:
        """Return what both have seen; the options are the left one's."""
        if isinstance(other, Moments):
            return self.copy().merge(other)
        _refuse_array(other)
        return NotImplemented

    def __radd__(self, other: int) -> Moments:
        """Return a copy where `other` is the 0 that ``sum`` begins with."""
        if isinstance(other, int) and other == 0:
            return self.copy()
        _refuse_array(other)
        return NotImplemented

    @classmethod
    def concatenate(cls, parts: Sequence[Moments], axis: int = 0) -> Moments:
        """Return the statistics of data whose features are those of the parts, side by side.

        Parameters
        ----------
        parts : sequence of Moments
            At least one; of feature shapes that differ along `axis` alone.
        axis : int, default 0
            Of the feature shape.

        Returns
        -------
        Moments
            New ones, with the first part's options. Extremes are kept where all parts have them, and so are names of
            features of one dimension.

        Raises
        ------
        TypeError, ValueError
            If there are no parts, one is not Moments or has seen nothing, their shapes do not fit along `axis`, or
            their scales differ.

        Examples
        --------
        >>> from fastbn import Moments
        >>> Moments.concatenate([Moments(2, [1.0], [2.0]), Moments(2, [3.0], [0.0])])
        Moments(count=2, mean=[1. 3.], std=[1. 0.])
        """
        if isinstance(parts, Moments):
            raise TypeError(f"parts must be a list of Moments (Moments.concatenate([a, b])), got {parts!r}")
        seen = [part._seen for part in parts if isinstance(part, Moments)]
        statistics = [found.statistics for found in seen if found.statistics is not None]
        if not statistics or len(statistics) < len(parts):
            error = ValueError if all(isinstance(part, Moments) for part in parts) else TypeError
            raise error(f"parts must be Moments that have seen something, at least one, got {abridged(parts)}")
        counts = [part.count for part in statistics]
        if not all(isinstance(count, int) and count == counts[0] for count in counts):
            each = [np.broadcast_to(part.count, part.mean.shape) for part in statistics]
            counts[0] = np.concatenate(each, axis) * 1.0
        joined = [np.concatenate(arrays, axis) for arrays in zip(*(part[1:] for part in statistics), strict=True)]
        ranges = [found.extremes for found in seen if found.extremes is not None]
        extremes = None
        if len(ranges) == len(seen):
            extremes = Extremes(*(np.concatenate(arrays, axis) for arrays in zip(*ranges, strict=True)))
        provenance = Provenance.side_by_side([found.provenance for found in seen])
        if joined[0].ndim > 1:
            provenance = provenance._replace(names=None)
        return cls._of(Statistics(counts[0], *joined), extremes, provenance, like=parts[0])

    def copy(self: M) -> M:
        """Return an independent one of the same statistics, names and options."""
        return self._of(*self._seen, like=self)

    # Saving and loading.

    def to_dict(self) -> dict[str, Any]:
        """Return a dict of which `from_dict` makes an equal one.

        ``{key: np.asarray(value).tolist() for key, value in d.items()}`` can be written as JSON, exactly; and the files
        .json of the `fastbn` command are such dicts. mean_lo and m2_lo are what the float64 of mean and m2 left over in
        merging.

        Returns
        -------
        dict
            Count and options, and arrays of float64, which are copies; where they are known, the names of the features
            and the coordinates along their axes (``coords``), and the scale, axis and mode, the values that are no data
            (``nodata``) and the spelling of texts (``texts``) with which `fastbn.stream` read the data.

        Examples
        --------
        >>> from fastbn import Moments
        >>> Moments(2, [1.0], [2.0]).to_dict()["mean"]
        array([1.])
        """
        statistics, extremes, provenance = self._seen
        held: dict[str, Any] = {"count": 0} if statistics is None else statistics._asdict()
        if extremes is not None:
            held |= extremes._asdict()
        copies = {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in held.items()}
        return copies | self._options() | provenance.known()

    @classmethod
    def from_dict(cls: type[M], mapping: Mapping[str, Any]) -> M:
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
        if mapping["count"] is None:
            raise ValueError("count must be a number, or one for each feature, got None")
        keys = ("count", "mean", "m2", "min", "max", "nan", "extremes")
        written = "kind" in mapping  # by the command, where a lone None is a NaN and not what is missing
        result = cls(**{key: from_json(mapping[key], written) for key in keys if key in mapping})
        statistics = result._seen.statistics
        if statistics is not None:
            high = {"mean_lo": statistics.mean, "m2_lo": statistics.m2}
            low = {
                key: checked_low_part(key, from_json(mapping[key], written), high[key])
                for key in high
                if key in mapping
            }
            statistics = statistics._replace(**low)
        provenance = checked_provenance(mapping, result.shape)
        result._seen = result._seen._replace(statistics=statistics, provenance=provenance)
        return result

    def to_bytes(self) -> bytes:
        """Return what `save` writes to a file.

        Returns
        -------
        bytes
        """
        with io.BytesIO() as file:
            write_npz(file, *self._content())
            return file.getvalue()

    @classmethod
    def from_bytes(cls: type[M], data: bytes) -> M:
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
            Of any suffix but .json; a file that is there is replaced.

        Raises
        ------
        ValueError, OSError
            If the name ends in .json, whose content `to_dict` gives; if the file cannot be written.
        """
        save_npz(path, *self._content(), "to_dict says how JSON is written")

    @classmethod
    def load(cls: type[M], path: str | os.PathLike[str]) -> M:
        """Return what `save` or the `fastbn` command wrote; members of the file that are not Moments' are ignored.

        No code in the file is run (nothing is unpickled).

        Parameters
        ----------
        path : path
            Of a file that `save` or ``fastbn stats --out`` wrote, the latter as .npz; `from_dict` reads its .json.

        Returns
        -------
        Moments

        Raises
        ------
        ValueError, OSError
            If the file holds no Moments, or cannot be read.
        """
        shown = repr(os.fspath(path))
        if shown.endswith(".json'"):
            shown += " (Moments.from_dict(json.load(file)) reads .json, and so does fastbn.standardize)"
        with open(path, "rb") as file:
            return cls._read(file, shown, "path must name a file")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a dict, which later versions can read."""
        return type(self).from_dict, (self.to_dict(),)

    # Private.

    def _normalizing(self, x: Any, axis: Axis, eps: float, correction: float = 0) -> tuple[Array, Array, Array]:
        """Return mean, variance and the mean's low part for x to be normalized by, all of one moment.

        Raises ValueError if x is a data frame of other columns, or in other units, or nothing was seen.
        """
        seen = self._seen
        if seen.statistics is None:
            raise ValueError("mean must be Moments that have seen values, got Moments()")
        check_columns(x, axis, seen.provenance.names)
        check_coordinates(x, axis, seen.provenance.coords)
        check_units(x, seen.provenance.scale)
        # eps and correction have not been checked yet: only plain numbers are compared with what is kept.
        plain = type(eps) in (int, float) and type(correction) in (int, float)
        kept = self._divisor
        if plain and kept is not None and kept.seen is seen and kept[1:3] == (correction, eps == 0):
            return seen.statistics.mean, kept.var, seen.statistics.mean_lo
        now = self._of(*seen, like=self)
        # Whatever else stands in eps's place the caller reads, or refuses.
        var, warned = _divisor_variance(now, correction, eps=eps if isinstance(eps, numbers.Real) else 1.0)
        if plain and not warned:
            self._divisor = _Divisor(seen, correction, eps == 0, var)
        return now.mean, var, now._mean_lo

    @classmethod
    def _of(
        cls: type[M],
        statistics: Statistics | None,
        extremes: Extremes | None,
        provenance: Provenance = UNKNOWN,
        *,
        like: Moments | None = None,
    ) -> M:
        """Return Moments that have seen this, with the options of `like`, or with the defaults."""
        self = cls.__new__(cls)
        self._seen = _Seen(statistics, extremes, provenance)
        self._nan, self._extremes = ("propagate", False) if like is None else (like._nan, like._extremes)
        return self

    def _options(self) -> dict[str, Any]:
        return {"nan": self._nan, "extremes": self._extremes}

    def _content(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options and the arrays of a file."""
        held = self.to_dict()
        config: dict[str, Any] = {key: held.pop(key) for key in _CONFIG if key in held}
        if "names" in held:
            held["names"] = np.array(held["names"], np.str_)
        return config, held

    @classmethod
    def _read(cls: type[M], file: BinaryIO, shown: str, rule: str) -> M:
        config, arrays = read_npz(file, _WRITER, shown, rule)
        check_kind("Moments", config, _WRITER, shown, rule)
        try:
            known = {key: config[key] for key in _CONFIG if key in config}
            return cls.from_dict({**arrays, **known, "nan": config["nan"], "extremes": config["extremes"]})
        except (KeyError, TypeError, ValueError) as error:
            raise not_written(_WRITER, shown, error, rule) from error


class _Divisor(NamedTuple):
    """The variances that data are divided by, of one state of Moments: small arrays are normalized in less time."""

    seen: _Seen
    correction: float
    adds_nothing: bool  # eps is 0
    var: Array


def divisor_variance(moments: Moments, correction: float = 0, *, scale: float = 1.0, eps: float = 0.0) -> Array:
    """Return the variances of data times `scale`, for these to be divided by ``sqrt(var + eps)``.

    NaN in place of infinity, which stands where a variance does not fit float64: data divided by infinity would be 0,
    which looks like a result. There, and where a variance is 0 or has lost digits for the same reason and nothing is
    added, a RuntimeWarning.
    """
    return _divisor_variance(moments, correction, scale=scale, eps=eps)[0]


def _divisor_variance(
    moments: Moments, correction: float = 0, *, scale: float = 1.0, eps: float = 0.0
) -> tuple[Array, bool]:
    """Return the variances, and whether there was a warning."""
    var = moments.var(correction)
    if scale != 1:
        with np.errstate(over="ignore", under="ignore"):
            var = var * scale * scale
    lost = too_large = np.isinf(var)
    size, becomes = "1e154 or more", "is taken for NaN"
    if eps == 0 and not too_large.any():
        # Rounded to fewer digits than float64 has.
        lost = (np.minimum(var, moments.m2) < sys.float_info.min) & (moments.m2 > 0)
        size, becomes = "1e-154 or less", "loses digits, or is taken for constant"
    warned = bool(lost.any())
    if warned:
        place = np.argwhere(lost)[0]
        feature = ", ".join(str(i) for i in place) if moments.names is None else repr(moments.names[place[0]])
        what = f"the variance of feature {feature}, for a standard deviation of {size}, does not fit float64"
        warn(f"{what}: the feature {becomes} (multiply the data by a power of two first)")
    return np.where(too_large, np.nan, var), warned


def _refuse_array(other: Any) -> None:
    """Raise TypeError for an array beside Moments: which of its axes has the features is not said."""
    if hasattr(other, "__array__") or isinstance(other, (list, tuple)):
        name = type(other).__name__
        raise TypeError(f"other must be Moments (moments.update(x) takes in the values of an array), got {name}")


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _equal(a: Any, b: Any) -> bool:
    """Whether two arrays or numbers, or None, are the same, NaN being equal to itself."""
    return a is b if a is None or b is None else bool(np.all((a == b) | ((a != a) & (b != b))))


def _brief(value: Any) -> str:
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return np.array2string(value, precision=3, threshold=8, edgeitems=2, separator=" ").replace("\n", "")
