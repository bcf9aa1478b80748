"""What tests of activations and residuals share; it knows no function of fastbn."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
SLOPE = 0.3


def options(
    activation: str | None, residual: Array | None, slope: float = SLOPE
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments that mean the same to fastbn and to the oracle."""
    both = {"activation": activation, "residual": residual}
    return both | {"negative_slope": slope}, both | {"slope": slope}
