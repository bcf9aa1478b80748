from typing import Any

import numpy as np
from numpy.typing import NDArray

version: str
openmp: bool
compiler: str
build_type: str

def batch_norm(
    x: object,
    running_mean: object,
    running_var: object,
    weight: object,
    bias: object,
    training: object,
    momentum: object,
    eps: object,
    axis: object,
    correction: object,
    dtype: object,
    out: object,
    where: object,
    weights: object,
    residual: object,
    activation: object,
    negative_slope: object,
    /,
) -> NDArray[Any]: ...
def batch_norm_train(
    x: object,
    weight: object,
    bias: object,
    eps: object,
    axis: object,
    dtype: object,
    out: object,
    where: object,
    weights: object,
    residual: object,
    activation: object,
    negative_slope: object,
    running_mean: object,
    running_var: object,
    momentum: object,
    correction: object,
    skip_nonfinite: object,
    allow_single: object,
    /,
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int | NDArray[np.float64]]: ...
def batch_norm_backward(
    dy: object,
    x: object,
    weight: object,
    bias: object,
    mean: object,
    invstd: object,
    count: object,
    axis: object,
    training: object,
    out: object,
    where: object,
    weights: object,
    residual: object,
    activation: object,
    negative_slope: object,
    allow_single: object,
    /,
) -> tuple[NDArray[Any], ...]: ...
def moments(
    x: object,
    axis: object,
    where: object,
    weights: object,
    /,
) -> tuple[int | NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
def normalize(
    x: object,
    mean: object,
    var: object,
    weight: object,
    bias: object,
    eps: object,
    axis: object,
    dtype: object,
    out: object,
    residual: object,
    activation: object,
    negative_slope: object,
    refuse_infinity: object,
    /,
) -> NDArray[Any]: ...
def check_counting(x: object, axis: object, where: object, weights: object, /) -> None: ...
def set_num_threads(n: object, /) -> None: ...
def get_num_threads() -> int: ...
def pool_info() -> tuple[int, int, int, int]: ...
def set_pool_limit(nbytes: object, /) -> None: ...
def clear_pool() -> None: ...
def isas() -> tuple[str, ...]: ...
def get_isa() -> str: ...
def set_isa(name: str, /) -> None: ...
