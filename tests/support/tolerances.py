"""How far a result may be from the oracle's, and why so far."""

from __future__ import annotations

import numpy as np

from support.dtypes import NARROW

# 16 ulp of y: subtract the mean, subtract its low part, scale by a rounded product, shift. Each of these is off by half
# an ulp, some of them doubled where y is smaller than its terms; the remainder is margin.
Y_ULPS = 16
# The variance's tolerances are tighter than what is promised (1e-6 and 1e-11): the error bounds of the kernels' chunked
# sums, 1e-9 for float32 and, of at most 512 additions in a row, 6e-14 for float64, doubled for the merging. Types whose
# values float32 holds exactly have float32's bound, int32 has float64's.
VAR_RTOL = dict.fromkeys((np.dtype(np.float32), *NARROW), 2e-9) | dict.fromkeys(
    (np.dtype(np.float64), np.dtype(np.int32)), 1.2e-13
)
# 2e-6 is some thirty roundings of float32; in float64 no figure is promised, and 1e-12 allows for a plain sum of
# 1e5 terms of either sign.
GRAD_RTOL = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-12}
# A handful of float64 operations (a square root, a quotient, a product) at half an ulp each.
FLOAT64_RTOL = 1e-15
# The layer's tests hold float64 against long double: sums over at most 500 values of size 1 to 10 lose some hundred ulp
# at worst.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
