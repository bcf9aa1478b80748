"""The epilogue of y (residual, activation) as arguments of fastbn and of the oracle."""

from __future__ import annotations

from typing import Any

from support.oracle import Array

SLOPE = 0.3


def epilogue(
    activation: str | None, residual: Array | None, slope: float = SLOPE
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of fastbn and those of the oracle that mean the same."""
    both = {"activation": activation, "residual": residual}
    return both | {"negative_slope": slope}, both | {"slope": slope}
