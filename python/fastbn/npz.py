"""How layers and statistics lie in an .npz file: arrays as its members, options as JSON in one more. Knows neither.

What only files need is imported where they are read and written: it takes three times as long as the rest of fastbn.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CONFIG = "config"
_FORMAT = 1
_RULE = "path must name a file"
_ZIP = b"PK\x03\x04"


def write_npz(file: BinaryIO, config: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Write arrays and configuration as .npz, with the configuration in JSON."""
    import json

    members: dict[str, Any] = {_CONFIG: np.array(json.dumps({"format": _FORMAT, **config})), **arrays}
    np.savez(file, **members)


def read_npz(file: BinaryIO, writer: str, shown: str, rule: str = _RULE) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return configuration and arrays of what `write_npz` wrote for ``writer``; nothing in the file is executed."""
    import json

    try:
        if file.read(len(_ZIP)) != _ZIP:  # what NumPy would say of other files is advice to unpickle them
            raise ValueError("it is no .npz file")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        config: dict[str, Any] = json.loads(str(arrays.pop(_CONFIG)))
        if config.pop("format") != _FORMAT:
            raise ValueError("its format is not known to this version")
    except Exception as error:  # what a damaged archive raises has no end: zipfile, zlib, tokenize, recursion, memory
        raise not_written(writer, shown, error, rule) from error
    return config, arrays


def not_written(writer: str, shown: str, reason: Exception, rule: str = _RULE) -> ValueError:
    """Return the error for a file that holds something else."""
    missing = f"without {reason}" if isinstance(reason, KeyError) else reason
    return ValueError(f"{rule} written by {writer}, got {shown}: {missing}")
