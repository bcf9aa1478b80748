"""The .npz files of layers and statistics: one member for each array, and one that holds the options as JSON.

json is imported where it is used, because importing it takes long beside the rest of fastbn.
"""

from __future__ import annotations

import _thread
import os
import struct
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CONFIG = "config"
_FORMAT = 1
_RULE = "path must name a file"
_ZIP = b"PK\x03\x04"
_END = struct.Struct("<4s4H2IH")  # of a zip file's directory: the fourth number counts all its entries
_END_SIGNATURE = b"PK\x05\x06"

# NumPy reads an array's header by ast.literal_eval, whose depth of recursion CPython 3.11 counts for all threads
# together: of several at once, one now and then ends in a SystemError (github.com/python/cpython/issues/106905).
_READING = _thread.allocate_lock()
if hasattr(os, "register_at_fork"):  # or a child might find it taken by a thread that it does not have
    os.register_at_fork(before=_READING.acquire, after_in_parent=_READING.release, after_in_child=_READING.release)


def save_npz(path: str | os.PathLike[str], config: dict[str, Any], arrays: dict[str, Array], instead: str) -> None:
    """Write arrays and options to exactly this path, whole or not at all.

    Raises ValueError for a name that ends in .json, under which the file would be taken for what it is not: `instead`
    says what gives JSON.
    """
    from fastbn._atomic import replacing  # it takes long to import

    name = os.fspath(path)
    if name.lower().endswith(".json"):
        raise ValueError(f"path must not end in .json, since the file is an .npz one ({instead}), got {name!r}")
    with replacing(path) as temporary, open(temporary, "wb") as file:
        write_npz(file, config, arrays)


def write_npz(file: BinaryIO, config: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Write arrays and options."""
    import json

    members: dict[str, Any] = {_CONFIG: np.array(json.dumps({"format": _FORMAT, **config})), **arrays}
    np.savez(file, **members)


def read_npz(file: BinaryIO, writer: str, shown: str, rule: str = _RULE) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the options and arrays that `write_npz` wrote. Nothing in the file is executed.

    Errors say that the file was not written by `writer`: `rule` says what is expected of the argument, `shown` is what
    was given.
    """
    import json

    try:
        if file.read(len(_ZIP)) != _ZIP:  # of other files NumPy's error advises to unpickle them
            raise ValueError("it is no .npz file")
        file.seek(0)
        with _READING, np.load(file, allow_pickle=False) as archive:
            _check_directory(file, len(archive.files))
            arrays = {key: archive[key] for key in archive.files}
        config: dict[str, Any] = json.loads(str(arrays.pop(_CONFIG)))
        if config.pop("format") != _FORMAT:
            raise ValueError("its format is not known to this version")
    except Exception as error:  # damaged files raise errors of zipfile, zlib, tokenize, RecursionError, ...
        raise not_written(writer, shown, error, rule) from error
    return config, arrays


def _check_directory(file: BinaryIO, members: int) -> None:
    """Raise ValueError if the directory at a file's end says another number of members than were found in it.

    Where the length of an entry is wrong, the next ones are taken for a part of it, and only that number tells.
    """
    position = file.tell()
    file.seek(-_END.size, os.SEEK_END)
    signature, *_, entries, _, _, _ = _END.unpack(file.read(_END.size))
    file.seek(position)
    if signature == _END_SIGNATURE and entries != members:  # else there is a comment, which NumPy does not write
        raise ValueError(f"{entries} members are listed and {members} found")


def check_kind(kind: str, config: dict[str, Any], writer: str, shown: str, rule: str = _RULE) -> None:
    """Raise ValueError where a file's options are those of "BatchNorm" and not of "Moments", or the reverse."""
    held = "BatchNorm" if "num_features" in config else "Moments" if "extremes" in config else kind
    if held != kind:
        raise not_written(writer, shown, ValueError(f"it holds {held}, which fastbn.{held}.load reads"), rule)


def not_written(writer: str, shown: str, reason: Exception, rule: str = _RULE) -> ValueError:
    """Return the error for a file that `writer` has not written, with the reason."""
    missing = f"without {reason}" if isinstance(reason, KeyError) else reason
    return ValueError(f"{rule} written by {writer}, got {shown}: {missing}")
