"""`fuse`: a model whose activations, and additions before them, are part of its batch norms, found by ``torch.fx``."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from typing import Any

import torch
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm

from fastbn.torch._convert import RELU, activation_of, convert
from fastbn.torch._modules import BatchNormMixin, has_hooks

# Functions, and names of methods.
_RELUS = (torch.relu, torch.relu_, torch.nn.functional.relu, torch.nn.functional.relu_, "relu", "relu_")
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_", "__add__", "__radd__", "__iadd__")
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem, "__setitem__")


def fuse(module: torch.nn.Module, *examples: Any) -> fx.GraphModule:
    """Return a model that computes what `module` does, with fewer passes over memory: one that ``torch.fx`` has traced.

    A ReLU after a batch norm, and with ``examples`` an addition between the two, become part of the batch norm,
    wherever the forward functions of the model's modules call them::

        relu(batch_norm(x))                 relu(batch_norm(x) + residual)

    Parameters
    ----------
    module : torch.nn.Module
        A model that ``torch.fx.symbolic_trace`` takes. Its batch norms become fastbn's, as by `convert`; nothing else
        of it is changed.
    *examples : Tensor
        Arguments of a call, from which the shapes of all tensors are found in evaluation mode. Without them additions
        are left as they are, since only tensors of equal shape are added by a batch norm.

    Returns
    -------
    torch.fx.GraphModule
        With the parameters and buffers of `module` that it uses, under the same names. Both models can be used.

    Raises
    ------
    torch.fx.proxy.TraceError
        If what the model does depends on the values of tensors.
    RuntimeError
        By ``train`` and ``eval`` of the result, where its forward function was traced in the other mode and would do
        something else in this: ``torch.nn.functional.dropout(x, training=self.training)``, say, which a
        ``torch.nn.Dropout`` in its place would not. `module` may be fused once in each mode.

    See Also
    --------
    convert : Fuses an activation after a batch norm in a Sequential, and returns the model itself.

    Notes
    -----
    What ``torch.fx`` says of its graphs holds: a branch on something that is no tensor (an attribute, say) is taken as
    it was when the model was traced, and hooks of modules that hold others are not called. A batch norm that is called
    more than once or has hooks is left as it is, and so is an addition of what is changed in place elsewhere. A
    residual is cast to the type of the batch norm's input, which under autocast may be bfloat16 where torch's sum is
    float32.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> class Block(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.linear, self.norm = torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)
    ...     def forward(self, x):
    ...         return torch.relu(self.norm(self.linear(x)) + x)
    >>> fused = fastbn.torch.fuse(Block(), torch.ones(4, 3))
    >>> print(fused.code.strip())
    def forward(self, x):
        linear = self.linear(x)
        norm_1 = self.norm(linear, x);  linear = x = None
        return norm_1
    >>> fused.norm.activation
    'relu'
    """
    convert(module)
    model, mode = _traced_in_modes(module)
    if examples:
        _find_shapes(model, examples)
    nodes = [node for node in model.graph.nodes if node.op == "call_module"]
    calls = Counter(id(_called(node, model)) for node in nodes)
    for node in nodes:
        norm = _called(node, model)
        is_plain = isinstance(norm, BatchNormMixin) and norm.activation is None and not has_hooks(norm)
        if is_plain and calls[id(norm)] == 1 and len(node.args) == 1 and not node.kwargs:
            _fuse_after(node, norm, model)
    model.delete_all_unused_submodules()
    model.graph.lint()
    model.recompile()
    return model if mode is None else _of_one_mode(model, mode)


# Where a model says which mode it is for.
_MODE = "fastbn.torch.mode"


class _OfOneMode(fx.GraphModule):
    """A model that computes something else in the other mode, to which it does not go."""

    def train(self, mode: bool = True) -> Any:
        """Set the mode, unless it is the wrong one."""
        own = self.meta.get(_MODE, mode)
        if mode is not own:
            names = "training", "evaluation"
            here, there = names if own else reversed(names)
            raise RuntimeError(
                f"the model's forward function depends on its mode and was traced in {here}: for {there}, fuse the"
                " model that it was made of in that mode"
            )
        return super().train(mode)

    def __reduce__(self) -> Any:
        return _restored, (*super().__reduce__(), self.meta[_MODE])


def _of_one_mode(model: fx.GraphModule, mode: bool) -> fx.GraphModule:
    found = _OfOneMode(model, model.graph, type(model).__name__)
    found.training = model.training
    found.meta = {**model.meta, _MODE: mode}
    return found


def _restored(function: Any, arguments: tuple[Any, ...], mode: bool) -> fx.GraphModule:
    """Return what was pickled: of itself torch.fx makes it a GraphModule."""
    return _of_one_mode(function(*arguments), mode)


def _traced_in_modes(module: torch.nn.Module) -> tuple[fx.GraphModule, bool | None]:
    """Return what the module does, and the only mode in which it does that; None if it does so in both.

    Modules without batch norms, which may depend on their modes, are looked into only where it does no harm.
    """
    model = _traced(module, _Tracer())
    mode = _only_mode(module, model, _Tracer())
    if mode is not None:
        closed = _traced(module, _ClosedTracer())
        if _only_mode(module, closed, _ClosedTracer()) is None:
            return closed, None
    return model, mode


def _traced(module: torch.nn.Module, tracer: fx.Tracer) -> fx.GraphModule:
    """Return what the module does in its mode. Tensors that its forward function makes are left to the result alone."""
    own = set(vars(module))
    try:
        return fx.GraphModule(module, tracer.trace(module), type(module).__name__)
    finally:
        for name in set(vars(module)) - own:
            delattr(module, name)


def _only_mode(module: torch.nn.Module, model: fx.GraphModule, tracer: fx.Tracer) -> bool | None:
    """Return the module's mode if what was traced in it, `model`, is not what it does in the other one; else None."""
    for each in module.modules():
        if isinstance(each, _OfOneMode):  # which does the same in both
            return bool(each.meta[_MODE])
    modes = [(each, each.training) for each in module.modules()]
    mode = module.training
    for each, _ in modes:
        each.training = not mode
    try:
        return None if _traced(module, tracer).code == model.code else mode
    except Exception:  # of any kind: it cannot be traced there
        return mode
    finally:
        for each, training in modes:
            each.training = training


class _Tracer(fx.Tracer):
    """Calls of batch norms of every class are nodes, since what they compute depends on their mode."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        """Return whether a call of the module is a node."""
        return isinstance(m, _BatchNorm) or bool(super().is_leaf_module(m, module_qualified_name))


class _ClosedTracer(_Tracer):
    """So are calls of modules without batch norms, but for torch's containers."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        """Return whether a call of the module is a node."""
        has_none = not any(isinstance(each, _BatchNorm) for each in m.modules())
        is_torchs = m.__module__.startswith("torch.nn")
        return (has_none and not is_torchs) or super().is_leaf_module(m, module_qualified_name)


def _called(node: fx.Node, model: fx.GraphModule) -> Any:
    return model.get_submodule(str(node.target))


def _find_shapes(model: fx.GraphModule, examples: tuple[Any, ...]) -> None:
    """Note each tensor's shape in its node, by a call of which nothing else is left."""
    modes = [(each, each.training) for each in model.modules()]
    # Functions that were traced in training may update buffers, whatever the modules' modes are.
    buffers = [(each, each.clone()) for each in model.buffers() if not each.is_meta]
    model.eval()
    try:
        with torch.no_grad():
            ShapeProp(model).propagate(*examples)
    finally:
        for each, training in modes:
            each.training = training
        with torch.no_grad():
            for each, old in buffers:
                if not torch.equal(each, old):  # torch does not count such a change
                    each.copy_(old)


def _fuse_after(node: fx.Node, norm: Any, model: fx.GraphModule) -> None:
    """Make an activation, or an addition and an activation, part of the batch norm before it."""
    follower = _only_user(node)
    if follower is None:
        return
    last, residual = follower, _residual_of(follower, node, model)
    if residual is not None:
        last = _only_user(follower) or follower
    activation = _activation_of(last, model)
    if activation is None:
        return
    own = copy.copy(norm)  # with the same parameters and buffers; `module` goes on using the other
    for name, value in vars(own).items():
        if isinstance(value, dict):
            vars(own)[name] = value.copy()
    own.activation, own.negative_slope = activation
    model.set_submodule(str(node.target), own)
    # Where its arguments were read: they may change later.
    with model.graph.inserting_before(node if residual is None else follower):
        arguments = node.args if residual is None else (*node.args, residual)
        fused = model.graph.call_module(str(node.target), arguments)
    fused.meta.update(last.meta)
    last.replace_all_uses_with(fused)
    for each in dict.fromkeys((last, follower, node)):
        model.graph.erase_node(each)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _activation_of(node: fx.Node, model: fx.GraphModule) -> tuple[str, float] | None:
    """Return the activation and its slope; None for any other node."""
    if node.op == "call_module":
        called = _called(node, model)
        return None if has_hooks(called) else activation_of(called)
    return RELU if node.target in _RELUS else None


def _residual_of(node: fx.Node, norm: fx.Node, model: fx.GraphModule) -> fx.Node | None:
    """Return what an addition adds to the batch norm's result; None where that is not all that happens."""
    if node.target not in _ADDITIONS or node.kwargs or len(node.args) != 2 or node.args[0] is node.args[1]:
        return None
    other, x = node.args[1] if node.args[0] is norm else node.args[0], norm.args[0]
    if not (isinstance(other, fx.Node) and isinstance(x, fx.Node)):
        return None
    metas = [each.meta.get("tensor_meta") for each in (other, norm)]
    if any(getattr(each, "shape", None) is None for each in metas):
        return None
    if metas[0].shape != metas[1].shape or metas[0].dtype != metas[1].dtype:  # it may be broadcast, or decide the type
        return None
    # The batch norm is to wait until `other` is there, and keeps it for backward: neither may change.
    changed = any(_changes(user, each, model) for each in (other, x) for user in each.users)
    return None if changed else other


def _changes(node: fx.Node, argument: fx.Node, model: fx.GraphModule) -> bool:
    """Return whether the node may change an argument of its in place."""
    if node.op == "call_module":
        return bool(getattr(_called(node, model), "inplace", False))
    if node.kwargs.get("inplace", False) or node.kwargs.get("out") is argument:
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    is_in_place = name.endswith("_") or node.target in _IN_PLACE
    return is_in_place and bool(node.args) and node.args[0] is argument
