"""Statistics as a value that grows and merges: `Moments`. Leaves the arithmetic to `measuring` and `merging`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastbn.checks import Axis, checked_axis, converted
from fastbn.extremes import extremes, merged_extremes
from fastbn.measuring import measured
from fastbn.merging import Sums, merged
from fastbn.saving import SavedSummary


class Moments(SavedSummary):
    """Count, mean and centred sum of squares of each feature, over all the data seen so far.

    A value that grows with `update`, merges with others, and does not remember how it came about: parts that are
    measured one by one, on other days or machines, and merged in any order and grouping, give what one pass over all
    data gives, to rounding. ``Moments()`` has seen nothing and is the identity of merging.

    Parameters
    ----------
    count : int or array_like, default 0
        Statistics to begin with: how many values there are, for all features or for each.
    mean, m2 : array_like, optional
        Mean, and ``sum((x - mean)**2)``, of each feature; both of the same shape. Not given: nothing was seen.
    min, max : array_like, optional
        Extremes of each feature, both or neither.
    nan : {"propagate", "omit"}, default "propagate"
        What `update` does with NaN entries: the feature's statistics become NaN, or the entries do not count.
    extremes : bool, default False
        Whether `update` looks for the least and the largest value too, which takes a pass of its own over the data.

    Attributes
    ----------
    count : int or ndarray of float64
        Number of values per feature; where features differ, values were weighted, or int64 would end, an array.
    mean, m2 : ndarray of float64
        Of the feature shape, read-only; a mean is NaN where ``count`` is 0. Of shape (0,) while nothing was seen.
    min, max : ndarray of float64 or None
        Likewise; None where they were not asked for, of all that was merged.
    shape : tuple of int or None
        The feature shape; None while nothing was seen.
    nan, extremes
        The options.

    Notes
    -----
    Merging is Chan, Golub & LeVeque 1983, eq. 1.5, in float64, with the rounding errors of mean and m2 carried along.
    The relative error of the variance is that of `fastbn.moments`, whatever mean / std is; data that are constant have
    an m2 of exactly 0. Values beyond 1e150 may have an infinite m2.

    ``count, mean, m2 = moments`` unpacks. ``==`` compares count, mean, m2, min and max, NaN being equal to itself.

    Examples
    --------
    >>> from fastbn import Moments
    >>> a, b = Moments().update([[1.0, 5.0], [3.0, 5.0]]), Moments().update([[8.0, 5.0]])
    >>> a + b
    Moments(count=3, mean=[4. 5.], std=[2.944 0.   ])
    >>> a + b == sum([b, a], start=Moments()) == Moments().update([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]])
    True
    >>> (a + b).var(correction=1)
    array([13.,  0.])
    """

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
            Which values count, and how much (see `fastbn.batch_norm`).

        Returns
        -------
        Moments
            self

        Raises
        ------
        TypeError, ValueError
            As `fastbn.moments`, and if x has not the features seen before. Nothing is taken in then.

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
        where = None if where is None else converted("where", where)
        weights = None if weights is None else converted("weights", weights)
        axis = checked_axis(axis)
        omit = self._nan == "omit"
        sums = measured(data, axis, where, weights, omit)
        extent = extremes(data, axis, where, weights, omit, sums.count) if self._extremes else None
        part = Moments._holding(sums, extent)
        if self.shape not in (None, part.shape):
            raise ValueError(f"x must have features of shape {self.shape} along axis {axis}, got {part.shape}")
        return self.merge(part)

    def merge(self, other: Moments) -> Moments:
        """Take in what another has seen, and return self.

        Extremes are kept where both have them.

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
            If `other` is something else, has other features, or the two more values than float64 can count. Nothing is
            taken in then.

        Examples
        --------
        >>> from fastbn import Moments
        >>> Moments(2, [1.0], [2.0]).merge(Moments(1, [4.0], [0.0]))
        Moments(count=3, mean=[2.], std=[1.633])
        """
        if not isinstance(other, Moments):
            raise TypeError(f"other must be Moments, got {type(other).__name__}")
        if other._sums is None:
            return self
        if self._sums is None:
            self._sums, self._range = other._sums, other._range
            return self
        if self.shape != other.shape:
            raise ValueError(f"other must have features of shape {self.shape}, got {other.shape}")
        sums, extent = merged(self._sums, other._sums), None
        if np.isinf(sums.count).any():
            raise ValueError(f"count must be finite and >= 0, got {sums.count}")
        if self._range is not None and other._range is not None:
            extent = merged_extremes(self._range, self.count, other._range, other.count)
        self._sums, self._range = sums, extent
        return self

    def __add__(self, other: Moments) -> Moments:
        """Return what both have seen; the options are the left one's."""
        return self.copy().merge(other) if isinstance(other, Moments) else NotImplemented

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
            New ones, with the first part's options. Extremes are kept where all parts have them.

        Raises
        ------
        TypeError, ValueError
            If there are no parts, one is not Moments or has seen nothing, or their shapes do not fit along `axis`.

        Examples
        --------
        >>> from fastbn import Moments
        >>> Moments.concatenate([Moments(2, [1.0], [2.0]), Moments(2, [3.0], [0.0])])
        Moments(count=2, mean=[1. 3.], std=[1. 0.])
        """
        sums = [part._sums for part in parts if isinstance(part, Moments) and part._sums is not None]
        if not sums or len(sums) < len(parts):
            error = ValueError if all(isinstance(part, Moments) for part in parts) else TypeError
            raise error(f"parts must be Moments that have seen something, at least one, got {parts!r}")
        counts = [part.count for part in parts]
        if not all(isinstance(count, int) and count == counts[0] for count in counts):
            counts[0] = np.concatenate([np.broadcast_to(part.count, part.mean.shape) for part in parts], axis) * 1.0
        joined = [np.concatenate(arrays, axis) for arrays in zip(*(part[1:] for part in sums), strict=True)]
        ranges = [part._range for part in parts if part._range is not None]
        extent = None
        if len(ranges) == len(parts):
            low, high = (np.concatenate(arrays, axis) for arrays in zip(*ranges, strict=True))
            extent = low, high
        return cls._holding(Sums(counts[0], *joined), extent, parts[0].nan, parts[0].extremes)
