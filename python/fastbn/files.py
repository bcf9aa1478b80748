"""How a layer lies in a file: arrays as members of an .npz archive, options as JSON in one more. Knows no layer.

What only files need is imported where they are read and written: it takes three times as long as the rest of fastbn.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CONFIG = "config"
_FORMAT = 1


def write_npz(path: str | os.PathLike[str], config: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Write arrays and configuration to exactly this path, as .npz with the configuration in JSON."""
    import json

    members: dict[str, Any] = {_CONFIG: np.array(json.dumps({"format": _FORMAT, **config})), **arrays}
    with open(path, "wb") as file:
        np.savez(file, **members)


def read_npz(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return configuration and arrays of a file of `write_npz`; nothing in the file is executed."""
    import json

    name = os.fspath(path)
    try:
        with open(name, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        config: dict[str, Any] = json.loads(str(arrays.pop(_CONFIG)))
        if config.pop("format") != _FORMAT:
            raise ValueError("its format is not known to this version")
    except OSError:
        raise
    except Exception as error:  # what a damaged archive raises has no end: zipfile, zlib, tokenize, recursion, memory
        raise not_a_layer(path, error) from error
    return config, arrays


def not_a_layer(path: str | os.PathLike[str], reason: Exception) -> ValueError:
    """Return the error for a file that is no saved layer."""
    return ValueError(f"path must name a file written by BatchNorm.save, got {os.fspath(path)!r}: {reason}")
