"""Parametrizations that tests of several folders have in common."""

from __future__ import annotations

import pytest

from support.dtypes import FLOAT_TYPES, FLOATS, HALVES
from support.layouts import LAYOUTS, layout_id

every_isa = pytest.mark.usefixtures("isa")
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
every_dtype = pytest.mark.parametrize("dtype", FLOATS)
every_half = pytest.mark.parametrize("dtype", HALVES, ids=str)
every_float = pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
