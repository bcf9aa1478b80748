"""What else is asked of a call: types, masks, fused operations; knows no library, no arrays and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ml_dtypes  # noqa: F401  # gives NumPy the name bfloat16
import numpy as np

from cases import OPS, Case, Op

PLAIN = "plain"
Mask = Literal["sample", "position", "element", "weights", "element weights"]


@dataclass(frozen=True)
class Variant:
    """One way to ask for an operation.

    Parameters
    ----------
    name : str
        The row's title in reports.
    dtype : str
        Of ``x``; NumPy must know the name.
    mask : str or None
        What counts in the statistics: some samples, some positions (the same for every channel), some elements, or
        all, with a weight for each sample or for each element.
    residual : bool
        Whether an array of ``x``'s shape is added to the result.
    relu : bool
        Whether the result goes through max(0, .).
    ops : tuple of str
        The operations this is measured for.
    """

    name: str = PLAIN
    dtype: str = "float32"
    mask: Mask | None = None
    residual: bool = False
    relu: bool = False
    ops: tuple[Op, ...] = OPS

    @property
    def result_dtype(self) -> str:
        """The type of ``y``, ``dy``, ``dx`` and the residual: that of ``x``, float32 for integers; in native order."""
        return np.dtype(self.dtype).newbyteorder("=").name if np.dtype(self.dtype).kind not in "iub" else "float32"

    @property
    def parameter_dtype(self) -> str:
        """The type of weight, bias and running statistics: float32 for narrower data, as in mixed precision."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def itemsizes(self) -> tuple[int, int]:
        """Bytes of one element of ``x`` and of ``y``."""
        return np.dtype(self.dtype).itemsize, np.dtype(self.result_dtype).itemsize

    def suits(self, case: Case, op: Op) -> bool:
        """Whether this is measured for the operation on the case; a table has no positions beside its samples."""
        return op in self.ops and (self.mask != "position" or len(case.shape) > 2)


_WRITING: tuple[Op, ...] = ("train", "eval", "backward")
_TRAINING: tuple[Op, ...] = ("train", "backward")

# What --breadth takes; the first variant of each is what the others are compared with.
TOPICS: dict[str, tuple[Variant, ...]] = {
    "types": (
        Variant("float32", ops=_WRITING),
        Variant("bfloat16", "bfloat16", ops=_WRITING),
        Variant("float16", "float16", ops=_WRITING),
        Variant("uint8", "uint8", ops=("eval",)),
        Variant("int16", "int16", ops=("eval",)),
        Variant("bool", "bool", ops=("eval",)),
        Variant("big-endian float32", ">f4", ops=("train", "eval")),
    ),
    "masks": (
        Variant("unmasked", ops=_TRAINING),
        Variant("mask of samples", mask="sample", ops=_TRAINING),
        Variant("mask of elements", mask="element", ops=_TRAINING),
        Variant("mask of positions", mask="position", ops=_TRAINING),
        Variant("weights of samples", mask="weights", ops=_TRAINING),
    ),
    "fusion": (
        Variant(ops=_TRAINING),
        Variant("relu", relu=True, ops=_TRAINING),
        Variant("residual + relu", residual=True, relu=True, ops=_TRAINING),
    ),
}

# Arrays beyond the caches, in every type.
CASES = (
    "nchw-32x64x112x112",
    "nchw-32x256x56x56",
    "nhwc-32x112x112x64",
    "nhwc-32x56x56x256",
    "table-65536x256",
    "table-1000000x32",
)
QUICK = ("nchw-32x256x56x56", "nhwc-32x56x56x256", "table-65536x256")
