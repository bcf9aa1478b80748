"""ONNX: every ``BatchNormalization`` node of a model read, and a layer written as one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastbn._layer.batch_norm import BatchNorm
from fastbn.interop._common import Array, check_layer, checked_ndim, imported, layer_of, old_weight

_OP = "BatchNormalization"
_OPSET = 15
_OLDEST = 7  # before, nodes had other attributes
_INPUTS = ("scale", "B", "input_mean", "input_var")


def from_onnx(model: Any) -> dict[str, BatchNorm]:
    """Return the batch normalizations of a model as layers.

    ONNX's ``momentum`` m is the weight of the old statistics, and its running variance is biased: a layer has momentum
    ``1 - m`` and ``correction=0``. ``epsilon`` is the float32 that the model holds.

    Parameters
    ----------
    model : onnx.ModelProto, bytes or path
        Of operator set 7 or later, with scale, bias, mean and variance of each node as initializers or constants,
        or copies of these by Identity.

    Returns
    -------
    dict of str to BatchNorm
        In the order of the nodes, those of subgraphs (of If, Loop, Scan) where they stand; by the node's name, or that
        of its first output where it has no name. With copies of all arrays, in float32 where these are of half
        precision; in training mode where a node has ``training_mode=1``, else in evaluation mode.

    Raises
    ------
    TypeError, ValueError
        If `model` is something else, is of an older operator set, has two such nodes of one name, or a node whose
        arrays are computed in the model.
    """
    onnx = imported("onnx")
    loaded = _loaded(onnx, model)
    opset = next((each.version for each in loaded.opset_import if each.domain in ("", "ai.onnx")), 1)
    layers: dict[str, BatchNorm] = {}
    for node, constants in _nodes(onnx, loaded.graph, {}):
        if opset < _OLDEST:
            raise ValueError(f"model must be of operator set {_OLDEST} or later, got {opset}")
        name = node.name or node.output[0]
        if name in layers:
            raise ValueError(f"model must have one {_OP} of each name, got two of {name!r}")
        layers[name] = _layer_of_node(onnx, name, node, constants)
    return layers


def to_onnx(layer: BatchNorm, *, ndim: int, name: str = "batch_norm") -> Any:
    """Return an ONNX model that is a layer.

    Parameters
    ----------
    layer : BatchNorm
        With the features on axis 1 of an x of `ndim` dimensions (``axis=-1`` is that where `ndim` is 2), running
        statistics and a number for its momentum; in training mode with ``correction=0`` too.
    ndim : int
        How many dimensions x has, which a model says of its inputs: 4 for images.
    name : str, default "batch_norm"
        Of the node; the names of initializers begin with it.

    Returns
    -------
    onnx.ModelProto
        Of operator set 15, with input ``x`` and output ``y`` of the layer's dtype: the node, with its initializers,
        and one for the activation if there is one. In training mode (and not frozen) the node has ``training_mode=1``,
        and the model the outputs ``running_mean`` and ``running_var``: the updated statistics. ``epsilon`` and
        ``momentum`` are rounded to float32, in which ONNX holds them.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If ONNX has no such node (see `fastbn.interop`), or the layer's features are undecided.
    """
    training = isinstance(layer, BatchNorm) and layer.training and not layer.frozen
    check_layer(layer, "ONNX", correction=0 if training else None, activation=True)
    ndim = checked_ndim(ndim, layer.axis)
    if layer.axis not in (1, 1 - ndim):
        raise ValueError(f"layer's axis must be 1 for ONNX, got {layer.axis} of {ndim} dimensions")
    onnx = imported("onnx")
    kind = onnx.helper.np_dtype_to_tensor_dtype(layer.dtype)
    ones, zeros = np.ones_like(layer.running_var), np.zeros_like(layer.running_var)
    weight, bias = ones if layer.weight is None else layer.weight, zeros if layer.bias is None else layer.bias
    arrays = (weight, bias, layer.running_mean, layer.running_var)
    names = [f"{name}.{each}" for each in _INPUTS]
    initializers = [onnx.numpy_helper.from_array(array, each) for array, each in zip(arrays, names, strict=True)]
    result = "y" if layer.activation is None else f"{name}.y"
    outputs = ["running_mean", "running_var"] if training else []
    attributes = {"epsilon": layer.eps, "momentum": old_weight(layer.momentum), "training_mode": int(training)}
    nodes = [onnx.helper.make_node(_OP, ["x", *names], [result, *outputs], name=name, **attributes)]
    if layer.activation == "relu":
        nodes.append(onnx.helper.make_node("Relu", [result], ["y"]))
    elif layer.activation == "leaky_relu":
        nodes.append(onnx.helper.make_node("LeakyRelu", [result], ["y"], alpha=layer.negative_slope))
    shape = ["n", layer.num_features, *(f"d{i}" for i in range(2, ndim))]
    infos = {each: onnx.helper.make_tensor_value_info(each, kind, shape) for each in ("x", "y")}
    infos |= {each: onnx.helper.make_tensor_value_info(each, kind, [layer.num_features]) for each in outputs}
    graph = onnx.helper.make_graph(
        nodes, name, [infos["x"]], [infos[each] for each in ("y", *outputs)], initializer=initializers
    )
    opset = onnx.helper.make_opsetid("", _OPSET)
    oldest = onnx.helper.find_min_ir_version_for([opset])  # which older runtimes read too
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=oldest, producer_name="fastbn")
    onnx.checker.check_model(model)
    return model


def _loaded(onnx: Any, model: Any) -> Any:
    if isinstance(model, onnx.ModelProto):
        return model
    if isinstance(model, bytes):
        return onnx.load_from_string(model)
    if isinstance(model, (str, os.PathLike)):
        return onnx.load(os.fspath(model))
    raise TypeError(f"model must be an onnx.ModelProto, bytes or a path, got {type(model).__name__}")


def _nodes(onnx: Any, graph: Any, outer: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield every node of batch normalization, and the constants that it can see."""
    constants = outer | {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            held = {each.name: each for each in node.attribute}
            if "value" in held:
                constants[node.output[0]] = held["value"].t
        elif node.op_type == "Identity" and node.input[0] in constants:  # PyTorch writes equal arrays once
            constants[node.output[0]] = constants[node.input[0]]
        if node.op_type == _OP and node.domain in ("", "ai.onnx"):
            yield node, constants
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            for each in graphs:
                yield from _nodes(onnx, each, constants)


def _layer_of_node(onnx: Any, name: str, node: Any, constants: dict[str, Any]) -> BatchNorm:
    arrays: list[Array] = []
    for role, given in zip(_INPUTS, node.input[1:], strict=True):
        if given not in constants:
            raise ValueError(f"{role} of node {name!r} must be an initializer or a constant, got {given!r}")
        array = onnx.numpy_helper.to_array(constants[given])
        arrays.append(array if array.dtype in (np.float32, np.float64) else array.astype(np.float32))
    options = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    layer = layer_of(
        *arrays,
        eps=float(options.get("epsilon", np.float32(1e-5))),
        momentum=old_weight(options.get("momentum", np.float32(0.9))),
        correction=0,
    )
    return layer.train(bool(options.get("training_mode", 0)))
