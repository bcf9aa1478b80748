"""Fail unless an instruction set's objects define its six tables of kernels and no other external symbol.

Any other one, weak and inline ones above all, could be the copy that the linker keeps for the whole module, and then
code compiled for one processor runs on all of them.

    symbols.py NM ISA OBJECT...
"""

from __future__ import annotations

import subprocess
import sys

TABLES = ("convert_table", "gradient_table", "integers_table", "moments_table", "normalize_table", "pack_table")


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
    wanted = [f"fastbn::{isa}::{table}" for table in TABLES]
    symbols = external_symbols(nm, list(objects))
    names = [symbol.split(maxsplit=1)[1] for symbol in symbols]
    leaks = [symbol for symbol, name in zip(symbols, names, strict=True) if name not in wanted]
    not_once = [table for table in wanted if names.count(table) != 1]
    for leak in leaks:
        print(f"{isa}: must not export {leak}")
    for table in not_once:
        print(f"{isa}: must export {table} once, found {names.count(table)}")
    if leaks or not_once:
        return 1
    print(f"{isa}: {', '.join(wanted)} are the only external symbols")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
