"""How skl2onnx converts `StandardScaler`: subtract, divide and clip in float64, and round once, as fastbn does."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastbn.sklearn._tables import features_are_columns

__all__ = ["register_with_skl2onnx"]

_ALIAS = "FastbnStandardScaler"


def register_with_skl2onnx() -> None:
    """Let skl2onnx convert `StandardScaler`, alone and in pipelines.

    Importing `fastbn.sklearn` does this where skl2onnx has been imported before; importing skl2onnx itself takes long,
    and is left to who needs it. Registering twice does no harm.

    The converted model computes as fastbn does, in float64 with one rounding to the type of the result, and clips. It
    takes tables of float32, float64 or int64.

    Raises
    ------
    ImportError
        If skl2onnx is not installed.

    See Also
    --------
    StandardScaler : What is converted; its `axis`, if given, must be 1 or -1.

    Examples
    --------
    >>> import numpy as np, fastbn.sklearn
    >>> import skl2onnx  # doctest: +SKIP
    >>> fastbn.sklearn.register_with_skl2onnx()  # doctest: +SKIP
    >>> x = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    >>> scaler = fastbn.sklearn.StandardScaler(clip=3.0).fit(x)
    >>> model = skl2onnx.to_onnx(scaler, x)  # doctest: +SKIP
    """
    try:
        from skl2onnx import update_registered_converter
    except ImportError as error:
        raise ImportError('register_with_skl2onnx needs skl2onnx: pip install "fastbn[interop]"') from error
    from skl2onnx.shape_calculators.scaler import calculate_sklearn_scaler_output_shapes

    from fastbn.sklearn import StandardScaler

    update_registered_converter(StandardScaler, _ALIAS, calculate_sklearn_scaler_output_shapes, convert)


def register_if_imported() -> None:
    """Register where skl2onnx has been imported, which costs nothing."""
    if "skl2onnx" in sys.modules:
        register_with_skl2onnx()


def convert(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes of one scaler to a model that skl2onnx is making."""
    from skl2onnx.algebra.onnx_ops import OnnxCast, OnnxClip, OnnxDiv, OnnxIdentity, OnnxSub
    from skl2onnx.common.data_types import guess_proto_type
    from skl2onnx.operator_converters.common import concatenate_variables
    from skl2onnx.proto import onnx_proto

    scaler, version = operator.raw_operator, container.target_opset
    if not features_are_columns(scaler):
        raise ValueError(f"axis must be 1 or -1 of a scaler to be converted, got {scaler.axis!r}")
    name = operator.inputs[0].full_name
    if len(operator.inputs) > 1:
        name = concatenate_variables(scope, operator.inputs, container)
    node = OnnxCast(name, to=onnx_proto.TensorProto.DOUBLE, op_version=version)
    if scaler.with_mean:
        node = OnnxSub(node, scaler.mean_.astype(np.float64), op_version=version)
    if scaler.with_std:
        node = OnnxDiv(node, scaler.scale_.astype(np.float64), op_version=version)
    if scaler.clip is not None:
        node = OnnxClip(node, np.array(-scaler.clip, np.float64), np.array(scaler.clip, np.float64), op_version=version)
    kind = guess_proto_type(operator.outputs[0].type)
    node = OnnxCast(node, to=kind, op_version=version)
    OnnxIdentity(node, op_version=version, output_names=[operator.outputs[0].full_name]).add_to(scope, container)
