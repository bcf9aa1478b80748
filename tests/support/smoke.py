"""Use the fastbn that is installed, with NumPy alone beside it, and print what was seen as JSON.

    python -I tests/support/smoke.py

Ends with an error if a result is wrong on any instruction set of this processor, or if a free-threaded interpreter has
turned its lock on, as it does for an extension that asks for it. Knows no other file of the tests.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

import fastbn
from fastbn import _core

TOLERANCE = 16 * 2.0**-23  # 16 ulp of float32, in units of the largest |y|


def errors() -> dict[str, float]:
    """Return the largest error of y on each instruction set, by the formula in float64."""
    x = np.random.default_rng(0).normal(3.0, 2.0, (8, 5, 6, 7)).astype(np.float32)
    wide = x.astype(np.float64)
    mean, var = (f(wide, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    expected = (wide - mean) / np.sqrt(var + 1e-5)
    found: dict[str, float] = {}
    for isa in _core.isas():
        _core.set_isa(isa)
        error = np.abs(fastbn.batch_norm(x, training=True) - expected)
        found[isa] = float(error.max() / np.abs(expected).max())
    return found


def seen() -> dict[str, Any]:
    """Return errors, version, what is imported and installed, and which OpenMP is loaded."""
    found = errors()
    site = fastbn.__path__[0].removesuffix("fastbn")
    files = {name.partition(".")[0]: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    return {
        "errors": found,
        "version": fastbn.__version__,
        "imported": sorted(name for name, file in files.items() if file.startswith(site) and name != "__main__"),
        "installed": sorted(each.metadata["Name"] for each in distributions()),
        "libraries": sorted({line.split()[-1].removeprefix(site) for line in lines if "libgomp" in line}),
    }


if __name__ == "__main__":
    result = seen()
    print(json.dumps(result))
    if not all(error < TOLERANCE for error in result["errors"].values()):
        sys.exit("the results are not those of the formula")
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sysconfig.get_config_var("Py_GIL_DISABLED") and locked:
        sys.exit("the interpreter's lock was turned on")
