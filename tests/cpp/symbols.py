"""Fail unless an instruction set's objects define exactly one external symbol, ``fastbn::<isa>::kernels``.

Any other one, weak and inline ones above all, could be the copy that the linker keeps for the whole module, and then
code compiled for one processor runs on all of them.

    symbols.py NM ISA OBJECT...
"""

from __future__ import annotations

import subprocess
import sys


def external_symbols(nm: str, objects: list[str]) -> list[str]:
    """Return one 'type demangled-name' line for each external symbol that the objects define.

    ``--extern-only`` keeps strong, weak (W, V), unique (u) and COMDAT symbols alike; ELF visibility plays no part, for
    a hidden symbol is merged between objects like any other.
    """
    command = [nm, "--extern-only", "--defined-only", "--demangle", "--no-sort", *objects]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = (line.split(maxsplit=2) for line in listing.splitlines())
    return [f"{row[1]} {row[2]}" for row in rows if len(row) == 3 and len(row[1]) == 1]


def main(nm: str, isa: str, *objects: str) -> int:
    """Print what is wrong with the objects of one instruction set; 0 when nothing is."""
    if not objects:
        print(f"{isa}: no object file was given")
        return 1
    wanted = f"fastbn::{isa}::kernels"
    symbols = external_symbols(nm, list(objects))
    tables = [symbol for symbol in symbols if symbol.split(maxsplit=1)[1] == wanted]
    leaks = [symbol for symbol in symbols if symbol not in tables]
    for leak in leaks:
        print(f"{isa}: must not export {leak}")
    if len(tables) != 1:
        print(f"{isa}: must export {wanted} once, found {len(tables)}")
    if leaks or len(tables) != 1:
        return 1
    print(f"{isa}: {tables[0]} is the only external symbol")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
