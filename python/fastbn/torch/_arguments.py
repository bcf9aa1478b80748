"""A call's arguments, as they go from `batch_norm` to whatever serves it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastbn.torch._calls import Epilogue


class Arguments(NamedTuple):
    """Those that autograd need not know: it is given x, weight, bias and residual beside them."""

    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool
    momentum: float
    eps: float
    where: Tensor | None
    weights: Tensor | None
    epilogue: Epilogue
