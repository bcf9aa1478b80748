"""Entry point of the `fastbn` command and of ``python -m fastbn``. The command itself is in `fastbn.command.cli`."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; SystemExit with 0, with 1 if data are wrong, with 2 if the arguments are wrong."""
    _stand_in()
    try:
        with _quiet_interrupts():
            from fastbn.command.cli import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("fastbn"):
            raise
        print('fastbn: error: the command needs click and rich: pip install "fastbn[cli]"', file=sys.stderr)
        raise SystemExit(1) from error
    run(arguments)


@contextmanager
def _quiet_interrupts() -> Iterator[None]:
    """Let Ctrl-C end the process at once, with 130 as later: a module that it interrupts would raise an ImportError."""
    usual = signal.getsignal(signal.SIGINT)
    changed = usual is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if changed:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        if changed:
            signal.signal(signal.SIGINT, usual)


def _stand_in() -> None:
    """Open os.devnull in the place of standard streams that are closed, or the next file to be opened would get theirs.

    Output to a closed stdout is an error, because it would be lost; messages to a closed stderr are lost in silence.
    """
    for name, access in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            raw = io.FileIO(os.open(os.devnull, access), "r" if name == "stdin" else "w")
            # Unbuffered: Python would try to write what is in the buffer once more as it ends.
            setattr(sys, name, io.TextIOWrapper(raw, write_through=True))


if __name__ == "__main__":  # pragma: no cover (a process of its own)
    main()
