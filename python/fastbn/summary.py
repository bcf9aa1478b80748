"""What `Moments` hold: statistics and options, checked, shown, compared and copied. Knows neither data nor files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from fastbn.checks import LARGEST, Shape, checked_choice, checked_flag, checked_real
from fastbn.given import checked_range, checked_sums
from fastbn.merging import Array, Count, Sums

Held = TypeVar("Held", bound="Summary")


class Summary:
    """The half of `fastbn.Moments` that does not compute: what it holds, and how that is shown and compared."""

    __hash__ = None  # type: ignore[assignment]  # a value that changes

    _sums: Sums | None
    _range: tuple[Array, Array] | None  # extremes
    _nan: Literal["propagate", "omit"]
    _extremes: bool

    def __init__(
        self,
        count: Any = 0,
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
        self._sums = checked_sums(count, mean, m2)
        self._range = checked_range(min, max, self.shape)

    @property
    def count(self) -> Count:
        """How many values there are of each feature."""
        count = 0 if self._sums is None else self._sums.count
        return count if isinstance(count, int) else _shown(count)

    @property
    def mean(self) -> Array:
        """Mean of each feature."""
        return np.empty(0) if self._sums is None else _shown(self._sums.mean)

    @property
    def m2(self) -> Array:
        """Sum of squares about the mean of each feature."""
        return np.empty(0) if self._sums is None else _shown(self._sums.m2)

    @property
    def min(self) -> Array | None:
        """Least value of each feature."""
        return None if self._range is None else _shown(self._range[0])

    @property
    def max(self) -> Array | None:
        """Largest value of each feature."""
        return None if self._range is None else _shown(self._range[1])

    @property
    def shape(self) -> Shape | None:
        """The feature shape, None while nothing was seen."""
        return None if self._sums is None else self._sums.mean.shape

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
        freedom = np.asarray(self.count - correction, np.float64)
        with np.errstate(over="ignore"):  # of weights whose sum is tiny
            return np.asarray(self.m2 / np.where(freedom > 0, freedom, np.nan))

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

    def copy(self: Held) -> Held:
        """Return an independent one of the same statistics and options."""
        return self._holding(self._sums, self._range, self._nan, self._extremes)  # arrays are never written to

    @classmethod
    def _holding(
        cls: type[Held],
        sums: Sums | None,
        extent: tuple[Array, Array] | None = None,
        nan: Literal["propagate", "omit"] = "propagate",
        extremes: bool = False,
    ) -> Held:
        self = cls.__new__(cls)
        self._sums, self._range, self._nan, self._extremes = sums, extent, nan, extremes
        return self

    def __iter__(self) -> Iterator[Any]:
        """Unpack into count, mean and m2."""
        return iter((self.count, self.mean, self.m2))

    def __eq__(self, other: object) -> bool:
        """Whether both have the same features and statistics."""
        if not isinstance(other, Summary):
            return NotImplemented
        pairs = zip((*self, self.min, self.max), (*other, other.min, other.max), strict=True)
        return self.shape == other.shape and all(_same(a, b) for a, b in pairs)

    def __repr__(self) -> str:
        """Return count, mean and standard deviation, and the extremes, shortened where there are many features."""
        shown: dict[str, Any] = (
            {} if self._sums is None else {"count": self.count, "mean": self.mean, "std": self.std()}
        )
        if self._range is not None:
            shown |= {"min": self.min, "max": self.max}
        return f"Moments({', '.join(f'{name}={_brief(value)}' for name, value in shown.items())})"


def dividing(var: Array) -> Array:
    """Return variances that data are to be divided by: one that float64 does not hold is NaN, as y is then, not 0."""
    return np.where(np.isinf(var), np.nan, var)


def _shown(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _same(a: Any, b: Any) -> bool:
    return a is b if a is None or b is None else bool(np.all((a == b) | ((a != a) & (b != b))))


def _brief(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return np.array2string(value, precision=3, threshold=8, edgeitems=2, separator=" ").replace("\n", "")
