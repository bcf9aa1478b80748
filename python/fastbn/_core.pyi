# The functions on arrays take the parameters of fastbn's functions of the same names, by position or by name; what they
# are called, and their defaults, the extension itself says (inspect.signature).
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Float64 = NDArray[np.float64]

version: str
openmp: bool
compiler: str
build_type: str

batch_norm: Callable[..., NDArray[Any]]
batch_norm_train: Callable[..., tuple[NDArray[Any], _Float64, _Float64, _Float64, int | _Float64]]
batch_norm_backward: Callable[..., tuple[NDArray[Any], ...]]
gradient_sums: Callable[..., tuple[_Float64, _Float64]]
input_gradient: Callable[..., tuple[NDArray[Any], ...]]
moments: Callable[..., tuple[int | _Float64, _Float64, _Float64, _Float64, _Float64 | None, _Float64 | None]]
normalize: Callable[..., NDArray[Any]]
value_range: Callable[..., tuple[_Float64, _Float64]]
check_weights: Callable[..., None]

def from_dlpack(value: object) -> NDArray[Any] | None: ...
def from_exchange_api(value: object) -> NDArray[Any] | None: ...
def set_num_threads(n: object) -> None: ...
def get_num_threads() -> int: ...
def pool_info() -> tuple[int, int, int, int]: ...
def set_pool_limit(nbytes: object) -> None: ...
def clear_pool() -> None: ...
def isas() -> tuple[str, ...]: ...
def get_isa() -> str: ...
def set_isa(name: str) -> None: ...
