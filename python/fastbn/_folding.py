"""`fold`: a layer in evaluation mode and the linear map beside it, as one linear map."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn._layer.batch_norm import BatchNorm, check_is_layer
from fastbn._validation import checked_int, converted, is_floating, refuse_masked

Array: TypeAlias = npt.NDArray[Any]

_SIDES = ("after", "before")


def fold(
    layer: BatchNorm,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    axis: int = 0,
    groups: int = 1,
    side: Literal["after", "before"] = "after",
) -> tuple[Array, Array]:
    """Fold a layer in evaluation mode into the linear map before it or after it.

    With the layer's ``scale = gamma / sqrt(running_var + eps)``, channel by channel (Ioffe & Szegedy 2015, section 3.2
    and Algorithm 2, line 11)::

        side="after":   layer(W u + b)    = (scale * W) u + (scale * (b - running_mean) + beta)
        side="before":  W layer(u) + b    = (W * scale) u + (b + W (beta - scale * running_mean))

    The first is the paper's z = g(BN(W u + b)): what b adds is taken away again with the running mean, so that the
    folded map has the one bias that the layer leaves.

    Parameters
    ----------
    layer : BatchNorm
        With running statistics and one feature axis. It is left as it is, whatever its mode.
    weight : array_like of a floating-point type
        Of the linear map: a matrix, or the kernel of a convolution of any rank, whose axis of the channels that the
        layer normalizes is `axis`.
    bias : array_like of a floating-point type, optional
        Of the linear map, of shape (output channels,); 0 where not given.
    axis : int, default 0
        With ``side="after"`` the output-channel axis of `weight`, with ``side="before"`` its input-channel axis. The
        default is PyTorch's order of a weight after which the layer comes. Name it for a square weight, of which a
        wrong axis cannot be told from the right one:

        =============================================  =====  ======
        `weight`                                       after  before
        =============================================  =====  ======
        (out, in): PyTorch's linear map                0      1
        (in, out): NumPy's ``x @ weight``, Keras       1      0
        (out, in / groups, ...): OIHW                  0      1
        (..., in / groups, out): HWIO                  -1     -2
        (in, out / groups, ...): transposed, PyTorch   1      0
        (..., out, in): transposed, Keras              -2     -1
        (..., in, multiplier): depthwise, Keras        -1     -2
        =============================================  =====  ======

        For the last one ``groups`` is the number of input channels.
    groups : int, default 1
        Into how many groups the channels are divided. Output channels, and input channels, of one group are
        consecutive.
    side : {"after", "before"}, default "after"
        Whether the layer comes after the map or before it.

    Returns
    -------
    weight, bias : ndarray
        Fresh arrays, weight of the shape of `weight`, bias of shape (output channels,), both of weight's dtype;
        computed in float64 and rounded once.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value, if weight's axes do not fit the layer's features and
        `groups`, if the layer has no running statistics or more than one feature axis, or, with ``side="before"``, has
        an activation, and if a result does not fit weight's dtype.
    RuntimeError
        If the layer's features are undecided.

    Notes
    -----
    ``side="after"`` is exact to rounding for every linear map, whatever its stride, padding or dilation. An activation
    of the layer comes after the folded map and is not part of it.

    ``side="before"`` is exact where every output sees all entries of the kernel, because then the layer's shift adds
    the same to every output of a channel. It is not exact:

    - with zero padding: the padding stands for zeros of the layer's output, where the folded map has the layer's output
      for an input of zero. Outputs at the border are wrong, unless the input is padded by the value that the layer maps
      to zero, ``-shift / scale`` of `BatchNorm.scale_shift`;
    - for transposed convolutions: outputs at the border, and with a stride all outputs, see some entries of the kernel
      alone, while the folded bias is the sum over all of them.

    In both cases it is exact if the shift is 0.

    A kernel has its two channel axes first or last. Its other channel axis is the other of the first two for ``axis`` 0
    or 1, and the other of the last two for an ``axis`` that is negative or 2 and more.

    Examples
    --------
    >>> import numpy as np, fastbn
    >>> rng = np.random.default_rng(0)
    >>> u, weight = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    >>> layer = fastbn.BatchNorm(2)
    >>> y = layer(u @ weight)
    >>> folded, bias = fastbn.fold(layer, weight, axis=1)
    >>> bool(np.allclose(u @ folded + bias, layer.eval()(u @ weight), rtol=0, atol=1e-14))
    True
    """
    center, scale, beta = _affine_of(layer, side)
    kernel = _checked_floating("weight", weight)
    axes = _checked_channel_axes(kernel, axis, groups, len(scale), side)
    offset = None if bias is None else _checked_floating("bias", bias)
    if offset is not None and offset.shape != (axes.outputs,):
        raise ValueError(f"bias must have shape ({axes.outputs},), got {offset.shape}")
    wide = kernel.astype(np.float64)
    added = np.zeros(axes.outputs) if offset is None else offset.astype(np.float64)
    scaled = wide * axes.spread(scale)
    if side == "after":
        folded = scale * (added - center) + beta
    else:
        folded = added + axes.summed_over_inputs(wide * axes.spread(beta - scale * center))
    return _rounded("weight", scaled, kernel.dtype), _rounded("bias", folded, kernel.dtype)


class _ChannelAxes(NamedTuple):
    """Where a kernel has the channels that are folded, and where the others."""

    axis: int  # of the channels that the layer normalizes
    other: int
    groups: int
    grouped: bool  # whether `axis` holds the channels of one group, and the groups are along `other`
    shape: tuple[int, ...]
    outputs: int  # channels of the map's output

    def spread(self, values: Array) -> Array:
        """Return one value per channel in a shape that broadcasts against the kernel."""
        sizes = [1] * len(self.shape)
        if not self.grouped:
            sizes[self.axis] = self.shape[self.axis]
            return values.reshape(sizes)
        # The group of an entry is that of its channel along the other axis.
        by_group = values.reshape(self.groups, self.shape[self.axis])
        table = np.repeat(by_group, self.shape[self.other] // self.groups, axis=0)
        sizes[self.other], sizes[self.axis] = table.shape
        return (table if self.other < self.axis else table.T).reshape(sizes)

    def summed_over_inputs(self, terms: Array) -> Array:
        """Return the sum of a kernel's entries for each output channel, the input channels being those of `axis`."""
        table = np.moveaxis(terms, (self.other, self.axis), (0, 1)).reshape(
            self.shape[self.other], self.shape[self.axis], -1
        )
        if self.grouped:
            return np.asarray(table.sum(axis=(1, 2)))
        # (outputs of a group, inputs, entries): the inputs of each group are summed by themselves.
        by_group = table.sum(axis=2).reshape(self.shape[self.other], self.groups, -1).sum(axis=2)
        return np.asarray(by_group.T.ravel())


def _affine_of(layer: Any, side: str) -> tuple[Array, Array, Array]:
    """Return what the layer subtracts, multiplies by and adds, of each channel, in float64."""
    check_is_layer("layer", layer)
    if side not in _SIDES:
        raise ValueError(f"side must be 'after' or 'before', got {side!r}")
    if not layer.track_running_stats:
        raise ValueError("layer must have running statistics, got one with track_running_stats=False")
    if side == "before" and layer.activation is not None:
        raise ValueError(f"layer must have no activation for side='before', got {layer.activation!r}")
    scale, _ = layer.scale_shift()
    if scale.ndim != 1:
        raise ValueError(f"layer must have one feature axis, got features of shape {scale.shape}")
    center = np.asarray(layer.running_mean, np.float64)
    beta = np.zeros_like(scale) if layer.bias is None else layer.bias.astype(np.float64)
    return np.where(scale == 0, 0.0, center), scale, beta


def _checked_channel_axes(kernel: Array, axis: Any, groups: Any, features: int, side: str) -> _ChannelAxes:
    ndim = kernel.ndim
    if ndim < 2:
        raise ValueError(f"weight must have two dimensions or more, got shape {kernel.shape}")
    axis, groups = checked_int("axis", axis), checked_int("groups", groups)
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis must name an axis of weight, which has {ndim} dimensions, got {axis}")
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    first, last = (0, 1), (ndim - 2, ndim - 1)
    pair = first if axis in first else last
    if axis % ndim not in pair:
        raise ValueError(f"axis must be one of weight's first two or last two axes, got {axis} of shape {kernel.shape}")
    along = axis % ndim
    other = pair[0] + pair[1] - along
    size, beside = kernel.shape[along], kernel.shape[other]
    grouped = size != features
    rule = f"{features} channels along axis {axis}"
    if groups > 1:
        rule += f", or as many in all in {groups} groups"
    if grouped and size * groups != features:
        hint = f"; axis={other} has {beside}" if beside == features else ""
        raise ValueError(f"weight must have {rule}, got {size} (shape {kernel.shape}{hint})")
    divided, name = (beside, f"axis {other}") if grouped else (features, f"axis {axis}")
    if divided % groups:
        raise ValueError(f"groups must divide the {divided} channels along weight's {name}, got {groups}")
    outputs = features if side == "after" else beside if grouped or groups == 1 else beside * groups
    return _ChannelAxes(along, other, groups, grouped, kernel.shape, outputs)


def _checked_floating(name: str, value: Any) -> Array:
    array = converted(name, value)
    refuse_masked(name, array)
    if not is_floating(array.dtype):
        raise TypeError(f"{name} must have a floating-point dtype, got {array.dtype}")
    return array


def _rounded(name: str, values: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
    lost = np.isfinite(values) & ~np.isfinite(result)
    if lost.any():
        raise ValueError(f"{name} must fit {dtype} when folded, got {values[lost][0]}")
    return result
