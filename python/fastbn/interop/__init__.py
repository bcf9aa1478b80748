"""Layers from and to other libraries: their arrays, and what the libraries mean by them.

A layer that was converted gives the same results in evaluation mode, and a training step moves its running statistics
as it would have moved the other library's. So conventions are converted, not only arrays:

=============  =========================  ===================  ============  =====================
library        momentum m                 running variance     feature axis  eps unless given
=============  =========================  ===================  ============  =====================
fastbn         weight of the new batch    by `correction`      `axis`        1e-5
PyTorch        the same                   unbiased             1             1e-5
Keras          1 - m: weight of the old   biased               `axis`        1e-3
Flax           1 - m                      biased               `axis`        1e-5
ONNX           1 - m                      biased               1             1e-5, of float32
=============  =========================  ===================  ============  =====================

Options that a library has nothing for (`activation`, `renorm`, a momentum that is a function) are errors when a layer
is given to it. `on_nonfinite`, `on_single` and `comm` say what happens in unusual cases; they are left out.

Each function imports the library that it serves when it is called: ``pip install "fastbn[interop]"`` brings all.
"""

from fastbn.interop._flax import from_flax, to_flax
from fastbn.interop._keras import from_keras, to_keras
from fastbn.interop._onnx import from_onnx, to_onnx
from fastbn.interop._torch import from_torch, to_torch

__all__ = ["from_flax", "from_keras", "from_onnx", "from_torch", "to_flax", "to_keras", "to_onnx", "to_torch"]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
