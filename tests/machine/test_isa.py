"""Promise: every instruction set gives the same bits, and the environment decides which is used."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
from support.bits import bits, bits_of_everything, differing
from support.dtypes import FLOATS
from support.interpreters import run_python
from support.isas import using_isa
from support.layouts import LARGE, LAYOUTS, Layout, layout_id
from support.random_arrays import parameters

pytestmark = pytest.mark.untraced

KNOWN = ("generic", "avx2", "avx512", "neon")
ISAS = fastbn._core.isas()


def test_names() -> None:
    assert isinstance(ISAS, tuple)
    assert set(ISAS) <= set(KNOWN)
    assert len(set(ISAS)) == len(ISAS)
    assert "generic" in ISAS
    assert fastbn._core.get_isa() in ISAS


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86 only")
def test_all_that_the_processor_has() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    assert ("avx2" in ISAS) == ({"avx2", "fma", "f16c"} <= flags)
    assert ("avx512" in ISAS) == ({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags)


@pytest.mark.skipif(platform.machine() not in ("aarch64", "arm64"), reason="AArch64 only")
def test_all_that_every_arm_has() -> None:
    assert ISAS == ("generic", "neon")


def test_choice() -> None:
    for name in ISAS:
        with using_isa(name):
            assert fastbn._core.get_isa() == name
            assert fastbn.show_config("dicts")["isa"] == name
    before = fastbn._core.get_isa()
    for bad in ("", "AVX2", "avx", "sse2", "avx512 ", "generic\0"):
        with pytest.raises(ValueError, match="generic"):
            fastbn._core.set_isa(bad)
        assert fastbn._core.get_isa() == before
    for bad in (None, 1, ["avx2"]):
        with pytest.raises(TypeError):
            fastbn._core.set_isa(bad)


def results(layout: Layout, dtype: Any, scale: float = 2.0, offset: float = 3.0) -> dict[str, dict[str, bytes]]:
    rng = np.random.default_rng(29)
    x = layout.fill(rng, dtype, scale, offset)
    dy = layout.fill(rng, dtype)
    weight, bias = parameters(rng, layout.features)
    found = {}
    for name in ISAS:
        with using_isa(name):
            found[name] = bits_of_everything(x, dy, weight, bias, layout.axis)
    return found


@pytest.mark.parametrize("layout", LAYOUTS + LARGE, ids=layout_id)
@pytest.mark.parametrize("dtype", FLOATS)
def test_same_bits(layout: Layout, dtype: Any) -> None:
    found = results(layout, dtype)
    for name in ISAS[1:]:
        assert differing(found[name], found[ISAS[0]]) == []


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", [1e6, -1e30, 1e-30])
def test_same_bits_of_unusual_numbers(dtype: Any, offset: float) -> None:
    for layout in LAYOUTS[:20]:
        found = results(layout, dtype, abs(offset) / 3, offset)
        for name in ISAS[1:]:
            assert differing(found[name], found[ISAS[0]]) == []


@pytest.mark.parametrize("dtype", FLOATS)
def test_same_bits_with_nan_and_infinity(dtype: Any) -> None:
    rng = np.random.default_rng(31)
    x = rng.standard_normal((33, 19, 5)).astype(dtype)
    for channel, value in enumerate((np.nan, np.inf, -np.inf)):
        x[7 + channel, channel * 5, 2] = value
    dy = rng.standard_normal(x.shape).astype(dtype)
    for axis in (1, 0, (0, 2)):
        found = {}
        for name in ISAS:
            with using_isa(name):
                found[name] = bits_of_everything(x, dy, None, None, axis)
        for name in ISAS[1:]:
            assert differing(found[name], found[ISAS[0]]) == []


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("form", ["NCL", "CN", "NC"])
def test_same_bits_of_every_size(dtype: Any, form: str) -> None:
    rng = np.random.default_rng(37)
    for n in [*range(2, 140), 255, 256, 257, 511, 513, 1023, 1025, 4095, 4097]:
        shape, axis = {"NCL": ((2, 3, n), 1), "CN": ((3, n), 0), "NC": ((n, 5), 1)}[form]
        x, dy = rng.standard_normal((2, *shape)).astype(dtype)
        found = []
        for name in ISAS:
            with using_isa(name):
                found.append(bits_of_everything(x, dy, None, None, axis))
        for other in found[1:]:
            assert differing(other, found[0]) == [], n


DIGEST = """
import hashlib, numpy as np, fastbn
x = np.random.default_rng(41).standard_normal((17, 19, 5)).astype(np.float32)
y, mean, var, invstd, _ = fastbn.batch_norm_train(x)
dx = fastbn.batch_norm_backward(x[::-1], x, mean=mean, invstd=invstd).dx
print(fastbn._core.get_isa(), hashlib.sha256(b"".join(a.tobytes() for a in (y, mean, var, invstd, dx))).hexdigest())
"""


def test_environment_chooses() -> None:
    x = np.random.default_rng(41).standard_normal((17, 19, 5)).astype(np.float32)
    y, mean, var, invstd, _ = fastbn.batch_norm_train(x)
    dx = fastbn.batch_norm_backward(x[::-1], x, mean=mean, invstd=invstd).dx
    digest = hashlib.sha256(b"".join(bits(a) for a in (y, mean, var, invstd, dx))).hexdigest()
    for name in ISAS:
        done = run_python(DIGEST, FASTBN_ISA=name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [name, digest]
    # Left alone, it is the best there is: the last of the list.
    done = run_python(DIGEST)
    assert done.stdout.split() == [ISAS[-1], digest]


@pytest.mark.parametrize("bad", ["avx1024", "AVX2", "generic,avx2", "0", " avx2", *(set(KNOWN) - set(ISAS))])
def test_environment_with_a_bad_value(bad: str) -> None:
    done = run_python("import fastbn", FASTBN_ISA=bad)
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert "FASTBN_ISA" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert bad in last
    for name in ISAS:
        assert name in last
