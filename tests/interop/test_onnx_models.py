"""Promise: nodes of ONNX models become layers and layers models that ONNX Runtime runs, in both modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn.interop import from_onnx, to_onnx
from support.oracle import Array
from support.random_arrays import batch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

helper = onnx.helper
NAMES = ("scale", "B", "input_mean", "input_var")


def run(model: Any, x: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: list[Array] = session.run(None, {session.get_inputs()[0].name: x})
    return result


def used(**options: Any) -> BatchNorm:
    layer = BatchNorm(3, **({"correction": 0, "dtype": np.float32} | options))
    layer(batch(6, 3, 4, seed=1))
    for array in layer.parameters():
        array += np.random.default_rng(2).normal(size=3)
    return layer


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (4, 3, 5, 2), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"use_weight": False}, {"affine": False}])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
def test_onnx_runtime_evaluates_what_was_exported(
    options: dict[str, Any], shape: tuple[int, ...], activation: str | None
) -> None:
    layer, x = used(activation=activation, negative_slope=0.3, **options).eval(), batch(*shape, dtype=np.float32)
    (y,) = run(to_onnx(layer, ndim=len(shape)), x)
    np.testing.assert_allclose(y, layer(x), rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_onnx_runtime_trains_what_was_exported(dtype: Any) -> None:
    layer, x = used(dtype=dtype, momentum=0.25), batch(6, 3, 4, dtype=dtype)
    model = to_onnx(layer, ndim=np.int64(3))  # type: ignore[arg-type]
    # In float64 the difference is that of epsilon, which ONNX holds in float32: 3e-8 of 1e-5, beside a variance of 1.
    close = {"rtol": 5e-6, "atol": 5e-6} if dtype == np.float32 else {"rtol": 1e-7, "atol": 1e-7}
    again = from_onnx(model)["batch_norm"]
    assert again.training
    assert again.momentum == 0.25
    y, mean, var = run(model, x)
    for each in (layer, again):
        assert each.dtype == dtype
        np.testing.assert_allclose(y, each(x), **close)
        np.testing.assert_allclose(mean, each.running_mean, **close)
        np.testing.assert_allclose(var, each.running_var, **close)


def test_there_and_back(tmp_path: Path) -> None:
    layer = used(eps=0.25, momentum=0.5).eval()
    model = to_onnx(layer, ndim=4, name="norm")
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    for source in (model, model.SerializeToString(), path, str(path)):
        ((name, again),) = from_onnx(source).items()
        assert name == "norm"
        assert repr(again) == repr(layer)
        assert not again.training
        state = layer.state_dict() | {"num_batches_tracked": np.array(0)}
        np.testing.assert_equal(again.state_dict(), state)
    assert from_onnx(to_onnx(layer.train().freeze(), ndim=2))["batch_norm"].training is False


def model_of(nodes: list[Any], arrays: dict[str, Array], opset: int = 15) -> Any:
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph(nodes, "graph", [x], [y], initializer=initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def arrays_of(prefix: str, dtype: Any = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(len(prefix))
    return {f"{prefix}{name}": rng.uniform(0.5, 2.0, 3).astype(dtype) for name in NAMES}


def node_of(prefix: str, given: str, made: str, **options: Any) -> Any:
    return helper.make_node("BatchNormalization", [given, *(f"{prefix}{name}" for name in NAMES)], [made], **options)


def test_every_node_of_a_model() -> None:
    nodes = [
        node_of("a", "x", "h", name="first"),
        helper.make_node("Relu", ["h"], ["g"]),
        node_of("bb", "g", "y", epsilon=0.5),
    ]
    model = model_of(nodes, arrays_of("a") | arrays_of("bb"))
    layers = from_onnx(model)
    assert list(layers) == ["first", "y"]
    assert layers["first"].eps == float(np.float32(1e-5))
    assert layers["first"].momentum == 1 - float(np.float32(0.9))
    assert layers["y"].eps == 0.5
    x = batch(6, 3, dtype=np.float32)
    y = layers["y"](np.maximum(layers["first"](x), 0))
    np.testing.assert_allclose(run(model, x)[0], y, rtol=5e-6, atol=5e-6)


def test_older_operator_sets_constants_and_half_precision() -> None:
    arrays = arrays_of("a")
    mean = onnx.numpy_helper.from_array(arrays.pop("ainput_mean"))
    constant = helper.make_node("Constant", [], ["ainput_mean"], value=mean)
    for opset in (9, 14):
        (layer,) = from_onnx(model_of([constant, node_of("a", "x", "y")], arrays, opset)).values()
        np.testing.assert_array_equal(layer.running_mean, onnx.numpy_helper.to_array(mean))
    (layer,) = from_onnx(model_of([node_of("a", "x", "y")], arrays_of("a", np.float16))).values()
    assert layer.dtype == np.float32
    np.testing.assert_array_equal(layer.running_var, arrays_of("a", np.float16)["ainput_var"])
    with pytest.raises(ValueError, match="model must be of operator set 7 or later, got 6"):
        from_onnx(model_of([node_of("a", "x", "y")], arrays_of("a"), 6))


def test_arrays_that_serve_twice() -> None:
    arrays = arrays_of("a")
    given = {f"b{name}": helper.make_node("Identity", [f"a{name}"], [f"b{name}"]) for name in NAMES}
    copied_again = helper.make_node("Identity", ["bB"], ["cB"])
    nodes = [node_of("a", "x", "h", name="first"), *given.values(), copied_again, node_of("b", "h", "y", name="second")]
    nodes[-1].input[2] = "cB"
    model = model_of(nodes, arrays)
    first, second = from_onnx(model).values()
    for name, layer in (("first", first), ("second", second)):
        held = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
        for each, array in zip(held, arrays.values(), strict=True):
            np.testing.assert_array_equal(each, array, err_msg=name)
    x = batch(6, 3, dtype=np.float32)
    np.testing.assert_allclose(second(first(x)), run(model, x)[0], rtol=5e-6, atol=5e-6)
    nodes[1].input[0] = "x"  # a copy of what is computed
    with pytest.raises(ValueError, match="scale of node 'second' must be an initializer or a constant, got 'bscale'"):
        from_onnx(model_of(nodes, arrays))


def test_subgraphs() -> None:
    y = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["n", 3])
    branches = [helper.make_graph([node_of("a", "x", "z", name=name)], name, [], [y]) for name in ("then", "else")]
    condition = onnx.numpy_helper.from_array(np.array(True), "c")
    node = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    model = model_of([node], arrays_of("a"))
    model.graph.initializer.append(condition)
    assert sorted(from_onnx(model)) == ["else", "then"]


def test_what_cannot_be_read() -> None:
    with pytest.raises(TypeError, match=r"model must be an onnx\.ModelProto, bytes or a path, got int"):
        from_onnx(3)
    arrays = arrays_of("a")
    del arrays["aB"]
    with pytest.raises(ValueError, match="B of node 'y' must be an initializer or a constant, got 'aB'"):
        from_onnx(model_of([node_of("a", "x", "y")], arrays))
    twice = [node_of("a", "x", "h", name="same"), node_of("a", "h", "y", name="same")]
    with pytest.raises(ValueError, match="model must have one BatchNormalization of each name, got two of 'same'"):
        from_onnx(model_of(twice, arrays_of("a")))
    assert from_onnx(model_of([helper.make_node("Relu", ["x"], ["y"])], {})) == {}


REFUSED = [
    (BatchNorm(3), "layer's correction must be 0 for ONNX, which remembers the biased variance, got 1"),
    (BatchNorm(3, axis=-1, correction=0), "layer's axis must be 1 for ONNX, got -1 of 4 dimensions"),
    (BatchNorm(3, axis=0, correction=0), "layer's axis must be 1 for ONNX, got 0 of 4 dimensions"),
    (BatchNorm(3, momentum=None, correction=0), "layer's momentum must be a number for ONNX, got None"),
]


@pytest.mark.parametrize(("layer", "message"), REFUSED)
def test_what_onnx_does_not_have(layer: BatchNorm, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_onnx(layer, ndim=4)


def test_in_evaluation_mode_the_correction_does_not_matter() -> None:
    layer, x = BatchNorm(3, dtype=np.float32), batch(6, 3, dtype=np.float32)
    layer(x)
    np.testing.assert_allclose(run(to_onnx(layer.eval(), ndim=2), x)[0], layer(x), rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize(("axis", "shape"), [(-1, (6, 3)), (-2, (6, 3, 4)), (-3, (2, 3, 5, 4))])
def test_axis_1_counted_from_the_end(axis: int, shape: tuple[int, ...]) -> None:
    layer, x = BatchNorm(3, axis=axis, correction=0, dtype=np.float32), batch(*shape, dtype=np.float32)
    layer(x)
    np.testing.assert_allclose(run(to_onnx(layer.eval(), ndim=len(shape)), x)[0], layer(x), rtol=5e-6, atol=5e-6)
