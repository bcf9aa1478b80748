"""Promise: pickles of earlier versions are loaded, and pickles of today name no file of the package."""

from __future__ import annotations

import base64
import pickle
import pickletools
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest

import fastbn

# Where earlier versions had the classes whose objects may be in pickles.
OLD_NAMES = {
    "BatchNorm": "fastbn.layer",
    "Moments": "fastbn.statistics",
    "PoolInfo": "fastbn.pool",
    "TrainResult": "fastbn.results",
    "Gradients": "fastbn.results",
    "ResidualGradients": "fastbn.results",
    "StandardScaler": "fastbn.dask.scaler",
}
NEW_NAMES = {"StandardScaler": "fastbn.dask.StandardScaler"}
X = np.array([[1.0, 10.0], [3.0, 30.0]])
# Pickles of an earlier version (protocol 4): of BatchNorm(2, activation="relu") after a call on X, and of
# Moments(extremes=True, nan="omit").update(X).
OLD_LAYER = (
    "eNqdUr2KFEEQ3n/vZxFlRcxETM5kIwMDccULFhyYwBdoemZrdgZnuofqntW9Q1DwcBc62zLwHsLMwEfwMUQx9jIzrZ651UQUraC7qrq/+qqo73"
    "nv9X63VZsbJtLYSI1zuQQkt/tA2jgNNRa0oVsv6BkduJ58mhkK2q4LpaHpvc/f3q0+pWdup9AFKFsVNJ28f+Pt1A1kkmQKaOVGFmX8WGClVKbm"
    "wlhpDaf3Yo0Isc208iX3JLsLWYeuh5BX5C4qmHNmAcLkugSu/vLo4/TtlWM31EoorZghs8DNlqhLyX+9z0+GiXL2+4CoeZj+zC5LH6uqKJc/4w"
    "25TnKH1qtX9IgOgq5r36UwDB9+Z6uPoGUpckNGiQSkrRB4/I4bPIFsnlpyV+t6Y8GjwLiocptJRMkEQ8GjaWUsVrFlnnTkLqhZ87ihoHVCh+2I"
    "Gtp20Dmh9Nr68FKzia+T7U2evRdl0lB6Pb3hYenN34N+WQ3an6OcifM2/xG7W2P/h3W43XEBUv0BfFpr5MP5nK37Tctb8ELiX7Fnk8Tbl9sNdu"
    "Q3FHnBghG13GDmRbXDfuaLst4GCeojULR2lxtPlBJlARbQcLIvctY/hVU0/gE05CIX"
)
OLD_MOMENTS = (
    "eNqdkbFqwzAQhh0nJi6UtqHQJWuHTB5Chw6lNWSraYa+gJEdpRZEUpBOEA+FLmkT0JbLe/YNWskOpdAh0H/Qwf333c+ht95+GAaNbFwYtgAmNN"
    "r+CwUCoHCHdjAnGgqRaNdhGljp/SfJqQDt/ZO5kjyfsRLwHZ/xFUc2KqURgFloe5wSgfZKGL6sk7yUiibcuBSiFKnRnuaKllJoUMbxblvUTLoE"
    "MWtHdpgFa5x0Cvxw20dZJwvXWJ3baAb1knoknN/idtO6Xdu5w+l0+vjl1DxZAFhsJxftkUHalpsUXduGfIzVWTXwEdXl74DhH4S1SN9flC/kce"
    "5HDRfx8T+oLmfiKPP50Nbr9MCQ1VEmPlx1f2CE/6ae5AzQxnQFinKqcWPWjk6+AV2usbk="
)


def loaded(text: str) -> Any:
    return pickle.loads(zlib.decompress(base64.b64decode(text)))


@pytest.mark.parametrize("name", OLD_NAMES)
def test_classes_are_found_where_they_were(name: str) -> None:
    pickled = f"c{OLD_NAMES[name]}\n{name}\n.".encode()
    code = f"import pickle; print(pickle.loads({pickled!r}))"
    # In a new process, in which fastbn is first imported by pickle.
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == f"<class '{NEW_NAMES.get(name, f'fastbn.{name}')}'>\n"


def test_what_else_was_pickled_is_found() -> None:
    keys = fastbn.BatchNorm(2).load_state_dict({"weight": [1, 2]}, strict=False)
    assert pickle.loads(b"cfastbn.checks\nIncompatibleKeys\n.") is type(keys)
    assert pickle.loads(b"cfastbn.scaling\nAttributes\n.")(1, 2, 3, 4)._asdict() == {
        "n_samples_seen_": 1,
        "mean_": 2,
        "var_": 3,
        "scale_": 4,
    }


def test_modules_that_are_gone_hold_nothing_else() -> None:
    with pytest.raises(AttributeError, match=r"fastbn\.layer"):
        pickle.loads(b"cfastbn.layer\nLayerModes\n.")
    with pytest.raises(AttributeError, match=r"fastbn\.results"):
        pickle.loads(b"cfastbn.results\nSums\n.")


def test_a_layer_of_an_earlier_version() -> None:
    layer, again = loaded(OLD_LAYER), fastbn.BatchNorm(2, activation="relu")
    again(X)
    assert repr(layer) == repr(again)
    np.testing.assert_equal(layer.state_dict(), again.state_dict())
    np.testing.assert_array_equal(layer(X), again(X))
    np.testing.assert_array_equal(layer.backward(X), again.backward(X))


def test_moments_of_an_earlier_version() -> None:
    moments = loaded(OLD_MOMENTS)
    assert moments == fastbn.Moments(extremes=True).update(X)
    assert (moments.nan, moments.extremes) == ("omit", True)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_name_public_modules_alone(protocol: int) -> None:
    objects = [fastbn.BatchNorm(2), fastbn.Moments().update(X), fastbn.pool_info(), fastbn.batch_norm_train(X)]
    scalers = {f"fastbn.{name}": getattr(fastbn, name).StandardScaler().fit(X) for name in ("sklearn", "dask")}
    for module, each in [*(("fastbn", each) for each in objects), *scalers.items()]:
        pickled = pickle.dumps(each, protocol)
        strings = [str(argument) for _, argument, _ in pickletools.genops(pickled) if isinstance(argument, str)]
        names = {word for string in strings for word in string.split() if word.startswith("fastbn")}
        assert names == {module}
        assert type(pickle.loads(pickled)) is type(each)
