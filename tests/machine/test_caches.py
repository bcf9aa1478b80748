"""Promise: cache sizes come from the system or from the environment, and change no bit of any result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
from support.bits import bits_of_everything, differing
from support.caches import ENDLESS, NONE, SMALL, using_caches
from support.dtypes import FLOATS
from support.interpreters import run_python
from support.layouts import LARGE, LAYOUTS, Layout, layout_id
from support.random_arrays import parameters

pytestmark = pytest.mark.untraced

SHOW = "import fastbn; print(*fastbn.show_config('dicts')['caches'].values())"


def shown(**variables: str) -> tuple[int, ...]:
    done = run_python(SHOW, **variables)
    assert done.returncode == 0, done.stderr
    return tuple(int(size) for size in done.stdout.split())


def sizes_of_system() -> dict[str, int]:
    """Return the bytes of each level of the first processor's caches that Linux tells of."""
    found = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (folder / "type").read_text().strip() != "Instruction":
            size = (folder / "size").read_text().strip()
            found[(folder / "level").read_text().strip()] = int(size.removesuffix("K")) * 1024
    return found


@pytest.mark.skipif(not {"2", "3"} <= sizes_of_system().keys(), reason="the system does not tell")
def test_the_systems_sizes() -> None:
    l2, l3 = shown()
    assert l2 == sizes_of_system()["2"]
    # Of what all cores of a large machine share, two do not count on all.
    assert l3 == min(sizes_of_system()["3"], 14 * 1024 * 1024 * fastbn.show_config("dicts")["processors"])


def test_environment_chooses() -> None:
    usual = shown()
    assert all(size > 0 for size in usual)
    assert shown(FASTBN_L2="", FASTBN_L3="") == usual
    assert shown(FASTBN_L2="65536") == (65536, usual[1])
    assert shown(FASTBN_L3="1") == (usual[0], 1)
    assert shown(FASTBN_L2="1048576", FASTBN_L3="68719476736") == (1 << 20, 1 << 36)


@pytest.mark.parametrize("variable", ["FASTBN_L2", "FASTBN_L3"])
@pytest.mark.parametrize("bad", ["0", "-1", "1M", "1e6", " 65536", "65536 ", "0x100", "big", "1" * 30])
def test_environment_with_a_bad_value(variable: str, bad: str) -> None:
    done = run_python("import fastbn", **{variable: bad})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ImportError: {variable} must be a number of bytes from 1 on, got '{bad}'"


def test_bad_sizes() -> None:
    before = fastbn._core.get_caches()
    for sizes in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ValueError, match=r"l2|l3"):
            fastbn._core.set_caches(*sizes)
        assert fastbn._core.get_caches() == before
    with pytest.raises(TypeError):
        fastbn._core.set_caches("1", 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS + LARGE, ids=layout_id)
@pytest.mark.parametrize("dtype", FLOATS)
def test_same_bits(layout: Layout, dtype: Any) -> None:
    """Whether results are written through the caches or past them, and whether slabs are fused, is for speed alone."""
    rng = np.random.default_rng(53)
    x = layout.fill(rng, dtype, 2, 3)
    dy = layout.fill(rng, dtype)
    weight, bias = parameters(rng, layout.features)
    found = []
    for sizes in (ENDLESS, SMALL, NONE):
        with using_caches(sizes):
            found.append(bits_of_everything(x, dy, weight, bias, layout.axis))
    for other in found[1:]:
        assert differing(other, found[0]) == []
