"""What a layer holds: options, parameters and running statistics, saved, loaded and copied. Knows no arithmetic."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from fastbn.checks import (
    COUNTER,
    LARGEST,
    IncompatibleKeys,
    Momentum,
    Shape,
    checked_axis,
    checked_choice,
    checked_dtype,
    checked_features,
    checked_flag,
    checked_momentum,
    checked_real,
    checked_state,
)
from fastbn.npz import not_written, read_npz, write_npz

Array = npt.NDArray[Any]
Layer = TypeVar("Layer", bound="LayerState")

_PARAMETERS = ("weight", "bias")
_STATISTICS = ("running_mean", "running_var")
_WRITER = "BatchNorm.save"
_MODES = ("training", "frozen", "frozen_parameters")
# Options that came after version 0.1.0. Where they have these values nothing is said of them, in repr and in files, so
# that files of layers without them are read by 0.1.0 too.
_LATER = {"activation": None, "negative_slope": 0.01, "on_nonfinite": "propagate", "on_single": "error"}


class LayerState:
    """The half of `fastbn.BatchNorm` that does not compute: what it holds, and how that is saved, loaded and copied."""

    num_features: int | tuple[int, ...] | None
    weight: Array | None
    bias: Array | None
    grad_weight: Array | None
    grad_bias: Array | None
    running_mean: Array | None
    running_var: Array | None
    _last: Any  # what `backward` needs to know of the last call

    def __init__(
        self,
        num_features: int | tuple[int, ...] | None = None,
        *,
        axis: int | tuple[int, ...] = 1,
        eps: float = 1e-5,
        momentum: Momentum = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        correction: float = 1,
        activation: Literal["relu", "leaky_relu"] | None = None,
        negative_slope: float = 0.01,
        on_nonfinite: Literal["propagate", "skip"] = "propagate",
        on_single: Literal["error", "biased"] = "error",
        dtype: npt.DTypeLike = np.float64,
    ) -> None:
        self.axis = checked_axis(axis)
        self.eps = checked_real("eps", eps, 0, LARGEST)
        self.momentum = checked_momentum(momentum)
        self.affine = checked_flag("affine", affine)
        self.track_running_stats = checked_flag("track_running_stats", track_running_stats)
        self.correction = checked_real("correction", correction, 0, LARGEST)
        self.activation = checked_choice("activation", activation)
        self.negative_slope = checked_real("negative_slope", negative_slope, -LARGEST, LARGEST)
        self.on_nonfinite = checked_choice("on_nonfinite", on_nonfinite)
        self.on_single = checked_choice("on_single", on_single)
        self.dtype = checked_dtype(dtype)
        shape = checked_features(num_features, self.axis)
        self._forget_features()
        self.num_batches_tracked = 0
        self.training, self.frozen, self.frozen_parameters = True, False, False
        self._last = None
        if shape is not None:
            self._decide_features(shape)

    def parameters(self) -> list[Array]:
        """Return ``[weight, bias]``, the layer's own arrays for an optimizer to change in place; [] without affine.

        The list can be kept: neither these arrays nor those of `gradients` are ever replaced. RuntimeError while the
        features are undecided.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import BatchNorm
        >>> layer = BatchNorm(1, eps=0.0)
        >>> y = layer(np.array([[1.0], [3.0]]))
        >>> dx = layer.backward(y)
        >>> for p, g in zip(layer.parameters(), layer.gradients()):
        ...     p -= 0.1 * g
        >>> print(layer.weight, layer.bias)
        [0.8] [0.]
        """
        return [self._require(getattr(self, key)) for key in _PARAMETERS] if self.affine else []

    def gradients(self) -> list[Array]:
        """Return ``[grad_weight, grad_bias]``, in the order of `parameters`; each `backward` overwrites them in place.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(2).gradients()
        [array([0., 0.]), array([0., 0.])]
        """
        return [self._require(getattr(self, f"grad_{key}")) for key in _PARAMETERS] if self.affine else []

    def state_dict(self) -> dict[str, Array]:
        """Return copies of parameters and running statistics under PyTorch's keys.

        ``{key: torch.from_numpy(value) for key, value in state.items()}`` is what ``torch.nn.BatchNorm2d`` loads.
        Unlike PyTorch's, the arrays do not follow the layer: a kept state is a snapshot.

        Returns
        -------
        dict of str to ndarray
            In the layer's dtype; ``num_batches_tracked`` is an int64.

        Raises
        ------
        RuntimeError
            While the features are undecided.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(1, affine=False).state_dict()
        {'running_mean': array([0.]), 'running_var': array([1.]), 'num_batches_tracked': array(0)}
        """
        counter = {COUNTER: np.array(self.num_batches_tracked, dtype=np.int64)}
        kept = {key: self._require(getattr(self, key)).copy() for key in self._state_keys() if key not in counter}
        return kept | counter if self.track_running_stats else kept

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy parameters and running statistics from ``state`` into the layer's arrays.

        Parameters
        ----------
        state : mapping of str to array_like
            As `state_dict` gives it, or ``torch.nn.BatchNorm2d(...).state_dict()``. Values are cast to the layer's
            dtype. A layer whose features are undecided takes them from here.
        strict : bool, default True
            Whether the keys must be exactly the layer's; else those of the layer that are there are taken.

        Returns
        -------
        IncompatibleKeys(missing_keys, unexpected_keys)
            Two lists, empty where ``strict``.

        Raises
        ------
        TypeError, ValueError
            Where a key is missing or too many, or a value has the wrong kind, shape or range; nothing is loaded then.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> layer = BatchNorm(affine=False)
        >>> layer.load_state_dict({"running_mean": [1, 2], "running_var": [3, 4], "num_batches_tracked": 5})
        IncompatibleKeys(missing_keys=[], unexpected_keys=[])
        >>> print(layer.num_features, layer.running_var)
        2 [3. 4.]
        """
        ndim = 1 if isinstance(self.axis, int) else len(self.axis)
        strict = checked_flag("strict", strict)
        arrays, differing = checked_state(state, self._state_keys(), self._shape(), ndim, self.dtype, strict)
        tracked = int(arrays.pop(COUNTER, self.num_batches_tracked))
        if self.num_features is None and arrays:
            self._decide_features(next(iter(arrays.values())).shape)
        targets = {key: self._require(getattr(self, key)) for key in arrays}
        for key, target in targets.items():
            if not target.flags.writeable:
                raise ValueError(f"{key} must be writable to be loaded into, got a read-only array")
        self.num_batches_tracked = tracked
        for key, target in targets.items():
            target[...] = arrays[key]
        self._last = None
        return differing

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole layer, options and mode included, to exactly this path, in NumPy's .npz format.

        Parameters
        ----------
        path : path
            Of any suffix; a file that is there is replaced.

        Raises
        ------
        RuntimeError, ValueError, OSError
            While the features are undecided; if momentum is a function, which no file can hold; if the file cannot be
            written.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from fastbn import BatchNorm
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "layer.npz")
        ...     BatchNorm(3, eps=0.001).eval().save(path)
        ...     layer = BatchNorm.load(path)
        >>> layer.num_features, layer.eps, layer.training
        (3, 0.001, False)
        """
        if callable(self.momentum):
            raise ValueError(f"momentum must be a number or None to be saved, got {self.momentum!r}")
        arrays = self.state_dict()
        modes = _MODES if self.frozen else _MODES[:1]
        config = self._options() | {name: getattr(self, name) for name in modes}
        with open(path, "wb") as file:
            write_npz(file, config, arrays)

    @classmethod
    def load(cls: type[Layer], path: str | os.PathLike[str]) -> Layer:
        """Return the layer written by `save`; see there for an example.

        No code in the file is run (nothing is unpickled).

        Parameters
        ----------
        path : path
            Of a file that `save` wrote.

        Returns
        -------
        BatchNorm
            In the mode in which it was saved.

        Raises
        ------
        ValueError, OSError
            If the file is not a saved layer, or cannot be read.
        """
        shown = repr(os.fspath(path))
        with open(path, "rb") as file:
            config, arrays = read_npz(file, _WRITER, shown)
        try:
            modes = {
                name: checked_flag(name, config.pop(name)) for name in _MODES if name in config or name == "training"
            }
            layer = cls(**config)
            layer.load_state_dict(arrays)
            vars(layer).update(modes)
        except (TypeError, ValueError, KeyError, MemoryError) as error:
            raise not_written(_WRITER, shown, error) from error
        return layer

    def __repr__(self) -> str:
        """Return the expression that makes such a layer."""
        features, *options = self._options().items()
        return f"{type(self).__name__}({features[1]}, {', '.join(f'{name}={value!r}' for name, value in options)})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the last batch: it may be large, and a copy has not been called on it."""
        return self.__dict__ | {"_last": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` gave, in version 0.1.0 too."""
        self.__dict__.update(_LATER | {"frozen": False, "frozen_parameters": False} | state)

    def _options(self) -> dict[str, Any]:
        names = ["num_features", "axis", "eps", "momentum", "affine", "track_running_stats", "correction"]
        names += [name for name, default in _LATER.items() if getattr(self, name) != default]
        return {name: getattr(self, name) for name in names} | {"dtype": self.dtype.name}

    def _state_keys(self) -> tuple[str, ...]:
        parameters = _PARAMETERS if self.affine else ()
        return parameters + ((*_STATISTICS, COUNTER) if self.track_running_stats else ())

    def _shape(self) -> Shape | None:
        return (self.num_features,) if isinstance(self.num_features, int) else self.num_features

    def _require(self, array: Array | None) -> Array:
        if array is None:
            raise RuntimeError("num_features must be given or decided by a batch in training mode first, got None")
        return array

    def _decide_features(self, shape: Shape) -> None:
        self.num_features = shape[0] if isinstance(self.axis, int) else shape
        if self.affine:
            self.weight, self.bias = np.ones(shape, self.dtype), np.zeros(shape, self.dtype)
            self.grad_weight, self.grad_bias = np.zeros(shape, self.dtype), np.zeros(shape, self.dtype)
        if self.track_running_stats:
            self.running_mean, self.running_var = np.zeros(shape, self.dtype), np.ones(shape, self.dtype)

    def _forget_features(self) -> None:
        self.num_features = None
        self.weight = self.bias = self.grad_weight = self.grad_bias = None
        self.running_mean = self.running_var = None
