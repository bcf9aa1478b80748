"""scikit-learn's `StandardScaler` with fastbn's kernels."""

from __future__ import annotations

from fastbn._pickles import name_publicly

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError('fastbn.sklearn needs scikit-learn: pip install "fastbn[sklearn]"') from error

from fastbn.sklearn._onnx import register_if_imported, register_with_skl2onnx
from fastbn.sklearn._scaler import StandardScaler

__all__ = ["StandardScaler", "register_with_skl2onnx"]

name_publicly(StandardScaler, module="fastbn.sklearn")
register_if_imported()


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
