"""Files that nobody wrote, for as long as is asked: refused, or read so that they can be saved and read again.

    python tests/fuzz/files.py TARGET [options of libFuzzer and folders]    as -max_total_time=600 build/fuzz/TARGET
    python tests/fuzz/files.py --seeds FOLDER                               what to begin with, a folder for each target

Any exception but those by which a file is refused, a crash, half a minute or two gigabytes are findings, which atheris
leaves in the working folder. `targets.py` has the targets. Wants atheris and what `pip install "fastbn[files]"` adds.
"""

from __future__ import annotations

import sys
from pathlib import Path


def write_seeds(folder: Path) -> None:
    """Write the files that a fuzzer begins with."""
    import targets

    for target, name, content in targets.seeds():
        (folder / target).mkdir(parents=True, exist_ok=True)
        (folder / target / name).write_bytes(content)
    targets.clear()


def fuzz(target: str, options: list[str]) -> None:
    """Feed a target until the time is over."""
    import atheris

    with atheris.instrument_imports(include=["fastbn", "targets"]):
        import targets
    for name, _, content in targets.seeds():  # so that no file waits for a library to be imported
        if name == target:
            targets.read(target, content)
    limits = ["-timeout=30", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, *options], lambda data: targets.read(target, data))
    try:
        atheris.Fuzz()
    finally:
        targets.clear()


if __name__ == "__main__":
    if sys.argv[1] == "--seeds":
        write_seeds(Path(sys.argv[2]))
    else:
        fuzz(sys.argv[1], sys.argv[2:])
