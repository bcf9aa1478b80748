"""The `fastbn` command's way in, also as ``python -m fastbn``. The command itself is in `cli`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; SystemExit with 0, 1 for what is wrong with data, 2 for what is wrong with the arguments."""
    try:
        from fastbn.command.cli import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("fastbn"):
            raise
        print('fastbn: error: the command needs typer and rich: pip install "fastbn[cli]"', file=sys.stderr)
        raise SystemExit(1) from error
    app(arguments, prog_name="fastbn")


if __name__ == "__main__":  # pragma: no cover (a process of its own)
    main()
