"""The `fastbn` command's way in, also as ``python -m fastbn``. The command itself is in `cli`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; SystemExit with 0, 1 for what is wrong with data, 2 for what is wrong with the arguments."""
    _stand_in()
    try:
        from fastbn.command.cli import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("fastbn"):
            raise
        print('fastbn: error: the command needs typer and rich: pip install "fastbn[cli]"', file=sys.stderr)
        raise SystemExit(1) from error
    run(arguments)


def _stand_in() -> None:
    """Open something in the place of standard streams that are closed, or the next file to be opened takes it.

    What cannot be printed is an error, and what cannot be said is not.
    """
    for name, access in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            raw = io.FileIO(os.open(os.devnull, access), "r" if name == "stdin" else "w")
            # Nothing is kept back: Python would try to write it once more as it ends.
            setattr(sys, name, io.TextIOWrapper(raw, write_through=True))


if __name__ == "__main__":  # pragma: no cover (a process of its own)
    main()
