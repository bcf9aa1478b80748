"""ONNX Runtime: a model of one BatchNormalization node, inference only, channels second only."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from cases import Op, Output
from data import EPS, Array, Data, aligned_like
from peers.base import Contestant, Peer

ort: Any = importlib.import_module("onnxruntime")
onnx: Any = importlib.import_module("onnx")


class OnnxRuntime:
    """The CPU provider; a given output is bound to the NumPy array's memory."""

    name = "ONNX Runtime"

    def __init__(self, threads: int) -> None:
        ort.set_default_logger_severity(3)
        self._threads = threads
        self.version = str(ort.__version__)

    def prepare(self, op: Op, output: Output, data: Data) -> Contestant | None:
        """See :meth:`peers.base.Peer.prepare`."""
        if op != "eval" or data.case.axis != 1 or not data.x.flags.c_contiguous:
            return None
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        session = ort.InferenceSession(_model(data), options, providers=["CPUExecutionProvider"])
        if output == "fresh":
            feed = {"x": data.x}
            return Contestant(lambda: session.run(None, feed), lambda r: {"y": r[0]})
        out, binding = aligned_like(data.x), session.io_binding()
        kind = data.dtype.type
        binding.bind_input("x", "cpu", 0, kind, data.x.shape, data.x.ctypes.data)
        binding.bind_output("y", "cpu", 0, kind, out.shape, out.ctypes.data)

        def call() -> Array:
            session.run_with_iobinding(binding)
            return out

        return Contestant(call, lambda y: {"y": y})


def _model(data: Data) -> bytes:
    kind = onnx.helper.np_dtype_to_tensor_dtype(data.dtype)
    values = {
        "weight": data.weight,
        "bias": data.bias,
        "mean": data.running_mean,
        "var": data.running_var,
    }
    node = onnx.helper.make_node("BatchNormalization", ["x", *values], ["y"], epsilon=EPS)
    graph = onnx.helper.make_graph(
        [node],
        "batch_norm",
        [onnx.helper.make_tensor_value_info("x", kind, data.x.shape)],
        [onnx.helper.make_tensor_value_info("y", kind, data.x.shape)],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in values.items()],
    )
    opset = [onnx.helper.make_opsetid("", 15)]
    model: bytes = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return model


def load(threads: int) -> list[Peer]:
    """Return the peer; both ``onnxruntime`` and ``onnx``, which writes the model, must be installed."""
    return [OnnxRuntime(threads)]
