"""Print the memory that a call needs beside its arguments and results, as the system measures it (Linux).

    python tests/support/peak_memory.py [threads]

Each figure is a fresh process: x, dy and the output are touched, threads started and code loaded by a call on a small
array; then the peak of the resident set over one call is read, less what was resident before it.
"""

from __future__ import annotations

import subprocess
import sys

SHAPES = (
    ((32, 64, 112, 112), 1),
    ((32, 1024, 14, 14), 1),
    ((32, 2048, 7, 7), 1),
    ((1_000_000, 32), 1),
    ((65_536, 256), 1),
    ((16_384, 1024), 1),
    ((1024, 16_384), 1),
    ((256, 65_536), 1),
    ((4_000_000, 3), 1),
)
OPS = ("train", "eval", "backward", "moments")

# What a process asks the system about itself, in KiB: goes before what it runs. The peak that getrusage tells will
# not do, for a process begins with that of the one that started it.
RESIDENT = """
def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1])

def resident_from_now():  # what is resident now; VmHWM is the peak from here on
    open("/proc/self/clear_refs", "w").write("5")
    return resident("VmRSS")
"""

MEASURE = (
    RESIDENT
    + """
import sys
import numpy as np
import fastbn
shape, axis, op, threads, options = eval(sys.argv[1])
fastbn.set_num_threads(threads)

def call(x, dy, out, mean, var, **more):
    if op == "train":
        return fastbn.batch_norm_train(x, axis=axis, out=out, **more)
    if op == "eval":
        return fastbn.normalize(x, mean, var, axis=axis, out=out, **more)
    if op == "backward":
        return fastbn.batch_norm_backward(dy, x, mean=mean, invstd=var, axis=axis, out=out, **more)
    return fastbn.moments(x, axis=axis, **more)

def arrays(shape):
    channels = shape[axis]
    return [np.ones(shape, np.float32) for _ in range(3)] + [np.ones(channels), np.ones(channels)]

call(*arrays((4096, 64)))
given = arrays(shape)
more = {name: np.ones(size, dtype) for name, (size, dtype) in options.items()}
call(*(a[:2] if a.ndim == len(shape) else a for a in given), **{name: a[:2] for name, a in more.items()})
before = resident_from_now()
kept = call(*given, **more)
print(resident("VmHWM") - before)
"""
)


Options = dict[str, tuple[tuple[int, ...], str]]


def kibibytes(shape: tuple[int, ...], axis: int, op: str, threads: int, options: Options | None = None) -> int:
    """Return the KiB that one call adds to the resident set of a fresh process, statistics it returns included.

    `options` are more arguments of the call, arrays of ones of the shape and dtype given.
    """
    command = [sys.executable, "-c", MEASURE, repr((shape, axis, op, threads, options or {}))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the table."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    print(f"KiB beyond arguments and output, {threads} thread(s), float32\n")
    print(f"| shape | axis | {' | '.join(OPS)} |")
    print("|---|---|" + "---:|" * len(OPS))
    for shape, axis in SHAPES:
        found = (str(kibibytes(shape, axis, op, threads)) for op in OPS)
        print(f"| {shape} | {axis} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
