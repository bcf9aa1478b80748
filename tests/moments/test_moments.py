"""Statistics that grow and merge agree with those of all data at once, whatever the parts, their order and grouping."""

from __future__ import annotations

import copy
import functools
import io
import json
import math
import operator
import pathlib
import pickle
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbn
from fastbn import BatchNorm, Moments
from support import oracle

Array = npt.NDArray[Any]

# What is promised of merging, relative to all data at once.
PROMISED = 1e-12
# m2 may be off by the roundings of a dozen operations, whatever the number of parts.
CLOSE = 12 * 2.0**-53

OFFSETS = [0.0, 1.0, 1e5, -1e8, 3e12]


def exact(x: Array) -> tuple[Array, Array]:
    """Return mean and m2 of each column, as fractions rounded once."""
    found = [oracle.exact_moments(column) for column in x.T]
    return np.array([float(mean) for mean, _ in found]), np.array([float(m2) for _, m2 in found])


def table(rng: np.random.Generator, rows: int = 600) -> Array:
    return rng.standard_normal((rows, len(OFFSETS))) * [1.0, 1e-3, 1.0, 5.0, 1e3] + OFFSETS


def assert_mean(found: Moments, mean: Array, m2: Array) -> None:
    # A step between two means is rounded in proportion to their distance, which the deviation tells.
    error = np.abs(found.mean - mean)
    assert (error <= 2.0**-52 * (np.abs(mean) + np.sqrt(m2 / np.asarray(found.count)))).all()


def left_to_right(parts: list[Moments]) -> Moments:
    return sum(parts, start=Moments())


def right_to_left(parts: list[Moments]) -> Moments:
    return functools.reduce(lambda total, part: part + total, reversed(parts), Moments())


def by_halves(parts: list[Moments]) -> Moments:
    middle = len(parts) // 2
    return by_halves(parts[:middle]) + by_halves(parts[middle:]) if middle else left_to_right(parts)


def even_before_odd(parts: list[Moments]) -> Moments:
    return left_to_right(parts[::2]) + left_to_right(parts[1::2])


GROUPINGS = [left_to_right, right_to_left, by_halves, even_before_odd]


@pytest.mark.parametrize("group", GROUPINGS)
@pytest.mark.parametrize("pieces", [1, 2, 7, 200, 600])
def test_merging_agrees_with_exact_arithmetic(
    group: Callable[[list[Moments]], Moments], pieces: int, rng: np.random.Generator
) -> None:
    x = table(rng)
    cuts = np.sort(rng.choice(np.arange(1, len(x)), pieces - 1, replace=False))
    found = group([fastbn.moments(part) for part in np.split(x, cuts)])
    mean, m2 = exact(x)
    assert found.count == len(x)
    assert_mean(found, mean, m2)
    np.testing.assert_allclose(found.m2, m2, rtol=CLOSE)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_parts_in_any_order(data: st.DataObject) -> None:
    offset = data.draw(st.sampled_from(OFFSETS))
    values = data.draw(st.lists(st.integers(-1000, 1000), min_size=1, max_size=40))
    x = np.array(values, np.float64)[:, np.newaxis] + offset
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=8)))
    parts = data.draw(st.permutations([Moments().update(part) for part in np.split(x, cuts)]))
    found = data.draw(st.sampled_from(GROUPINGS))(parts)
    mean, m2 = exact(x)
    assert found.count == len(x)
    assert_mean(found, mean, m2)
    np.testing.assert_allclose(found.m2, m2, rtol=CLOSE)


def test_equal_parts_leave_no_drift() -> None:
    # Without what rounding leaves over, the additions to m2 would each round the same way: 1e-12 by now.
    part, found = fastbn.moments(np.array([[0.1], [0.4], [0.2]])), Moments()
    for _ in range(20_000):
        found.merge(part)
    values = [Fraction(v) for v in (0.1, 0.4, 0.2)]
    mean = sum(values) / 3
    m2 = 20_000 * sum((v - mean) ** 2 for v in values)
    np.testing.assert_allclose(found.mean, [float(mean)], rtol=2.0**-53)
    # the part's own m2 is rounded, by at most CLOSE, and so is what lies between means that agree
    np.testing.assert_allclose(found.m2, [float(m2)], rtol=CLOSE)


def test_merging_is_commutative_to_the_bit(rng: np.random.Generator) -> None:
    kept = np.arange(50)[:, np.newaxis] % np.arange(1, 6) == 0
    for cut in [1, 20, *[25] * 20, 49]:
        x = table(rng, 50)
        a, b = fastbn.moments(x[:cut]), fastbn.moments(x[cut:])
        assert (a + b).to_bytes() == (b + a).to_bytes()
        a, b = (fastbn.moments(x[half], where=kept[half]) for half in (slice(0, cut), slice(cut, 50)))
        assert (a + b).to_bytes() == (b + a).to_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e-30, 1e30, 16777217.0])
def test_constant_data_have_no_variance(value: float, dtype: type) -> None:
    found = Moments()
    for rows in (1, 3, 1000, 7, 2):
        found.update(np.full((rows, 2), value, dtype))
    np.testing.assert_array_equal(found.mean, float(dtype(value)))
    np.testing.assert_array_equal(found.m2, 0.0)


def test_opposite_ends_of_float64_have_a_finite_mean() -> None:
    low, high = (fastbn.moments(np.full((2, 1), end)) for end in (-1.7e308, 1.7e308))
    assert (low + high).mean == [0.0]
    assert (low + high).m2 == [math.inf]
    assert (low + high + high).mean == pytest.approx(1.7e308 / 3, rel=1e-15)


def test_large_values_do_not_overflow() -> None:
    x = np.array([[1e150], [3e150], [-2e150], [5e150]])
    found = left_to_right([fastbn.moments(row[np.newaxis]) for row in x])
    np.testing.assert_allclose(found.m2, exact(x)[1], rtol=CLOSE)


def test_empty_is_the_identity(rng: np.random.Generator) -> None:
    m = Moments(extremes=True).update(table(rng, 20))
    for empty in (Moments(), Moments(extremes=True), Moments(nan="omit")):
        assert empty + m == m == m + empty
    assert Moments() + Moments() == Moments() != m
    assert (Moments().shape, Moments().count, Moments().mean.shape, Moments().var().shape) == (None, 0, (0,), (0,))


def test_features_without_values_leave_the_others_alone(rng: np.random.Generator) -> None:
    x = table(rng, 30)
    nothing = Moments().update(x[:0])
    assert (nothing.count, nothing.shape) == (0, (5,))
    assert np.isnan([nothing.mean, nothing.std()]).all()
    m = Moments(extremes=True).update(x)
    assert nothing + m == m + nothing == fastbn.moments(x)
    kept = np.zeros_like(x, bool)
    kept[:, 1] = True
    mixed = Moments(extremes=True).update(x, where=kept).update(x[:10], where=~kept[:10])
    np.testing.assert_array_equal(mixed.count, [10, 30, 10, 10, 10])
    np.testing.assert_allclose(mixed.m2[1], exact(x)[1][1], rtol=CLOSE)
    np.testing.assert_array_equal(mixed.max, [*x[:10, :1].max(0), *x[:, 1:2].max(0), *x[:10, 2:].max(0)])


@pytest.mark.parametrize(
    ("shape", "axis", "cut"),
    [
        ((12, 3), 1, 0),
        ((3, 12), 0, 1),
        ((4, 3, 5), 1, 2),
        ((4, 3, 5), (1, 2), 0),
        ((4, 3, 5), (), 1),
        ((4, 3, 5), -1, 1),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_any_axis_and_type(shape: tuple[int, ...], axis: Any, cut: int, dtype: type, rng: np.random.Generator) -> None:
    x = (rng.standard_normal(shape) * 50 + 100).astype(dtype)
    found = Moments(extremes=True)
    for part in np.array_split(x, 3, axis=cut):
        found.update(part, axis=axis)
    kept = {a % x.ndim for a in ((axis,) if isinstance(axis, int) else axis)}
    reduced = tuple(a for a in range(x.ndim) if a not in kept)
    assert found.count == x.size / max(1, found.mean.size)
    wide = x.astype(np.longdouble)
    np.testing.assert_allclose(found.mean, wide.mean(reduced).astype(np.float64), rtol=1e-15)
    np.testing.assert_allclose(found.std(), wide.std(reduced).astype(np.float64), rtol=CLOSE)
    np.testing.assert_array_equal(found.min, x.min(reduced))
    np.testing.assert_array_equal(found.max, x.max(reduced))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("masked", ["", "where", "weights", "both"])
def test_nan_is_omitted(dtype: type, masked: str, rng: np.random.Generator) -> None:
    x = (rng.standard_normal((80, 4)) + np.array([0, 10, 100, 0])).astype(dtype)
    x[rng.random(x.shape) < 0.2] = np.nan
    x[:, 3] = np.nan
    p = np.ones(x.shape)
    weighting: dict[str, Array] = {}
    if masked in ("where", "both"):
        weighting["where"] = rng.random((80, 1)) < 0.7
        p = p * weighting["where"]
    if masked in ("weights", "both"):
        weighting["weights"] = rng.integers(0, 4, 80)[:, np.newaxis].astype(np.float64)
        p = p * weighting["weights"]
    found = Moments(nan="omit", extremes=True)
    for half in (slice(0, 50), slice(50, 80)):
        found.update(x[half], **{name: values[half] for name, values in weighting.items()})
    p[np.isnan(x)] = 0
    np.testing.assert_allclose(found.count, p.sum(0), rtol=1e-15)
    for c in range(3):
        values, weights = x[p[:, c] > 0, c].astype(np.longdouble), p[p[:, c] > 0, c].astype(np.longdouble)
        mean = (values * weights).sum() / weights.sum()
        np.testing.assert_allclose(found.mean[c], float(mean), rtol=1e-14)
        np.testing.assert_allclose(found.m2[c], float((weights * (values - mean) ** 2).sum()), rtol=PROMISED)
        assert (found.min[c], found.max[c]) == (values.min(), values.max())
    assert found.count[3] == 0
    assert np.isnan([found.mean[3], found.std()[3], found.min[3], found.max[3]]).all()


@pytest.mark.parametrize("at", [0, 1, 39])
@pytest.mark.parametrize("masked", [False, True])
def test_nan_is_omitted_wherever_it_is(at: int, masked: bool, rng: np.random.Generator) -> None:
    x = table(rng, 40)
    others = np.delete(x, at, axis=0)
    without = np.arange(40)[:, np.newaxis] != at
    x[at] = np.nan
    masks: list[dict[str, Any]] = [{"where": without}, {"weights": 1.0 * without}] if masked else [{}]
    for options in masks:
        for values, axis in ((x, 1), (x.T, 0), (x.reshape(8, 5, 5), 2), (x[::-1], 1)):
            given = {name: np.broadcast_to(mask, x.shape) for name, mask in options.items()}
            if axis == 0:
                given = {name: mask.T for name, mask in given.items()}
            elif axis == 2:
                given = {name: mask.reshape(values.shape) for name, mask in given.items()}
            elif values is not x:
                given = {name: mask[::-1] for name, mask in given.items()}
            found = Moments(nan="omit").update(values, axis=axis, **given)
            np.testing.assert_array_equal(found.count, 39)
            wide = others.astype(np.longdouble)
            np.testing.assert_allclose(found.mean, wide.mean(0).astype(np.float64), rtol=1e-14)
            np.testing.assert_allclose(found.var(), wide.var(0).astype(np.float64), rtol=PROMISED)


def test_nothing_is_taken_in_where_an_argument_is_wrong(rng: np.random.Generator) -> None:
    x = table(rng, 40)
    x[1, 2] = np.nan
    plain = np.ones((40, 1), bool)
    omitting = Moments(nan="omit")
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"axis": 2}, ValueError, "axis must be between"),
        ({"where": 1.0 * plain}, TypeError, "where must have dtype bool"),
        ({"where": plain[:3]}, ValueError, "where must be broadcastable"),
        ({"weights": -1.0 * plain}, ValueError, "weights must be finite and not negative"),
    ]
    for options, error, message in wrong:
        with pytest.raises(error, match=message):
            omitting.update(x, **options)
    assert omitting == Moments()


def test_features_of_one_value_may_be_missing() -> None:
    found = Moments(nan="omit").update([[np.nan, 3.0]], axis=(0, 1))
    np.testing.assert_array_equal(found.count, [[0, 1]])
    np.testing.assert_array_equal(found.mean, [[np.nan, 3.0]])
    np.testing.assert_array_equal(found.m2, [[0, 0]])


def test_omitting_costs_nothing_where_there_is_no_nan(rng: np.random.Generator) -> None:
    x = table(rng, 100)
    found = Moments(nan="omit").update(x)
    assert found == fastbn.moments(x)
    assert isinstance(found.count, int)


def test_nan_propagates_within_its_feature(rng: np.random.Generator) -> None:
    x = table(rng, 20)
    x[3, 1] = np.nan
    found = Moments(extremes=True).update(x).update(table(rng, 20))
    for statistic in (found.mean, found.m2, found.var(1), found.min, found.max):
        np.testing.assert_array_equal(np.isnan(statistic), [False, True, False, False, False])
    assert found.count == 40


def test_infinity_is_never_omitted(rng: np.random.Generator) -> None:
    x = table(rng, 20)
    x[3, 1], x[4, 1], x[5, 2] = np.inf, np.nan, -np.inf
    found = Moments(nan="omit", extremes=True).update(x)
    assert np.isfinite(found.mean).tolist() == [True, False, False, True, True]
    assert (found.max[1], found.min[2]) == (np.inf, -np.inf)


def test_weights_are_frequencies(rng: np.random.Generator) -> None:
    x, often = table(rng, 40), rng.integers(0, 5, 40)
    found = Moments(extremes=True)
    for part in np.split(np.arange(40), [3, 25]):
        found.update(x[part], weights=often[part, np.newaxis].astype(np.float64))
    repeated = np.repeat(x, often, axis=0)
    mean, m2 = exact(repeated)
    np.testing.assert_array_equal(found.count, len(repeated))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-15)
    np.testing.assert_allclose(found.m2, m2, rtol=PROMISED)
    np.testing.assert_allclose(
        found.var(1), repeated.var(axis=0, ddof=1, dtype=np.longdouble).astype(float), rtol=1e-12
    )
    np.testing.assert_array_equal(found.min, repeated.min(axis=0))


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (5000, 3), (3, 5000), (1366 * 32, 3), (1365 * 33 + 1, 3), (2, 4097)])
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.float16])
def test_extremes_of_rows_side_by_side(shape: tuple[int, int], dtype: type, rng: np.random.Generator) -> None:
    x = (rng.standard_normal(shape) * 100).astype(dtype)
    found = Moments(extremes=True).update(x)
    np.testing.assert_array_equal(found.min, [column.min() for column in x.T])
    np.testing.assert_array_equal(found.max, [column.max() for column in x.T])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("nan", ["omit", "propagate"])
@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"where": np.ones(3, bool)}], ids=str)
def test_extremes_beside_nan(options: dict[str, Any], nan: Any, dtype: type, rng: np.random.Generator) -> None:
    x = rng.standard_normal((200, 3)).astype(dtype)
    x[0, 0] = np.nan
    found = Moments(nan=nan, extremes=True).update(x.T if "axis" in options else x, **options)
    wide = x.astype(np.float64)
    least, largest = (np.fmin, np.fmax) if nan == "omit" else (np.minimum, np.maximum)
    np.testing.assert_array_equal(found.min, least.reduce(wide, axis=0))
    np.testing.assert_array_equal(found.max, largest.reduce(wide, axis=0))


def test_extremes_are_kept_where_both_have_them(rng: np.random.Generator) -> None:
    x = table(rng, 20)
    with_them, without = Moments(extremes=True).update(x), Moments().update(x)
    assert (without.min, (with_them + without).max, (without + with_them).min) == (None, None, None)
    np.testing.assert_array_equal((with_them + with_them).max, x.max(axis=0))


def test_features_of_no_dimension_are_merged(rng: np.random.Generator) -> None:
    x, weights = rng.normal(size=(6, 4)), rng.integers(1, 9, (6, 4)).astype(np.float64)
    parts = [Moments(extremes=True).update(x[k::2], axis=(), weights=weights[k::2]) for k in range(2)]
    found = parts[0] + parts[1]
    assert (found.count.shape, found.count) == ((), weights.sum())  # type: ignore[union-attr]
    assert (found.min, found.max) == (x.min(), x.max())
    np.testing.assert_allclose(found.mean, np.average(x, weights=weights), rtol=1e-14)


def test_merge_and_update_return_self_and_plus_a_new_one(rng: np.random.Generator) -> None:
    x = table(rng, 20)
    m = fastbn.moments(x[:10])
    before, mean = m.copy(), m.mean
    total = m + fastbn.moments(x[10:])
    assert m == before != total
    assert m.merge(fastbn.moments(x[10:])) is m == total
    np.testing.assert_array_equal(mean, before.mean)  # what was handed out does not change
    assert m.update(x) is m
    assert m.merge(m).count == 80
    with pytest.raises(ValueError, match="read-only"):
        m.mean[0] = 1.0


def test_what_is_handed_out_reaches_nothing(rng: np.random.Generator) -> None:
    m = Moments(extremes=True).update(table(rng, 20), weights=np.arange(20.0)[:, np.newaxis])
    before = m.to_bytes()
    for value in m.to_dict().values():
        if isinstance(value, np.ndarray):
            value[...] = 99.0
    for view in (m.count, m.mean, m.min):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1.0
    assert m.to_bytes() == before


def test_options_are_the_left_ones() -> None:
    a, b = Moments(nan="omit"), Moments(1, [0.0], [0.0])
    assert ((a + b).nan, (b + a).nan, (b + a).extremes) == ("omit", "propagate", False)


def test_concatenate_joins_features(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 4, 5))
    whole = Moments(extremes=True).update(x, axis=(1, 2))
    for axis in (0, 1, -1):
        parts = [Moments(extremes=True).update(p, axis=(1, 2)) for p in np.array_split(x, 2, axis=1 + axis % 2)]
        assert Moments.concatenate(parts, axis) == whole
        assert isinstance(Moments.concatenate(parts, axis).count, int)
    parts = [fastbn.moments(x[:, :2]), Moments(extremes=True).update(x[:3, 2:])]
    found = Moments.concatenate(parts)
    np.testing.assert_array_equal(found.count, [30, 30, 15, 15])
    assert found.min is None
    np.testing.assert_array_equal(found.mean, np.concatenate([p.mean for p in parts]))
    for wrong, error in (([], ValueError), ([parts[0], Moments()], ValueError), ([parts[0], 1], TypeError)):
        with pytest.raises(error, match="parts must be Moments that have seen something"):
            Moments.concatenate(wrong)


def uneven(rng: np.random.Generator) -> Moments:
    x = table(rng, 33)
    x[::4, 1:] = np.nan
    found = Moments(nan="omit", extremes=True)
    for part in np.array_split(x, 5):
        found.update(part)
    return found


ROUND_TRIPS: dict[str, Callable[[Moments], Moments]] = {
    "dict": lambda m: Moments.from_dict(m.to_dict()),
    "json": lambda m: Moments.from_dict(
        json.loads(json.dumps({key: np.asarray(value).tolist() for key, value in m.to_dict().items()}))
    ),
    "bytes": lambda m: Moments.from_bytes(m.to_bytes()),
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_round_trips_lose_nothing(way: str, rng: np.random.Generator) -> None:
    x = table(rng, 30)
    for m in (Moments(), Moments(nan="omit"), fastbn.moments(x), fastbn.moments(x[:0]), uneven(rng)):
        again = ROUND_TRIPS[way](m)
        assert again == m
        assert (again.nan, again.extremes, type(again.count)) == (m.nan, m.extremes, type(m.count))
        assert repr(again) == repr(m)
        if m.shape == (5,):  # what rounding left over is there too
            assert again.update(x) == m.copy().update(x)


def test_save_and_load(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    m, path = uneven(rng), tmp_path / "statistics"
    m.save(path)
    assert Moments.load(str(path)) == m
    with np.load(path) as members:
        np.testing.assert_array_equal(members["mean"], m.mean)
        more = {**members, "labels": np.array(["a", "b"])}
    with open(path, "wb") as file:
        np.savez(file, **more)
    assert Moments.load(path) == m
    BatchNorm(3).save(path)
    with pytest.raises(ValueError, match=r"must name a file written by Moments\.save, got '.*statistics'"):
        Moments.load(path)
    path.write_bytes(m.to_bytes()[:-30])
    with pytest.raises(ValueError, match=r"must name a file written by Moments\.save"):
        Moments.load(path)
    with pytest.raises(FileNotFoundError):
        Moments.load(tmp_path / "none")
    path.write_text('{"count": 0}')
    with pytest.raises(ValueError, match=r"got '.*statistics': it is no \.npz file"):
        Moments.load(path)
    with pytest.raises(
        ValueError, match=r"data must be a file's content written by Moments\.save, got 3 bytes: it is no"
    ):
        Moments.from_bytes(b"abc")


def test_names_of_a_data_frames_columns() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [30.0, 50.0], "income": [1.0, 3.0]})
    found = fastbn.moments(frame)
    assert found.names == fastbn.Moments().update(frame).update(frame).names == ("age", "income")
    assert fastbn.normalize(frame, found, eps=0.0).tolist() == [[-1.0, -1.0], [1.0, 1.0]]

    swapped, more = frame[["income", "age"]], frame.assign(id=[1.0, 2.0])
    rule = "x must have 'age' as column 0, as the statistics have, got 'income'"
    number = "x must have the 2 columns age, income, got 3"
    out = np.zeros((2, 2))
    for axis in 1, -1, (1,):
        with pytest.raises(ValueError, match=rule):
            fastbn.normalize(swapped, found, axis=axis, out=out)
    with pytest.raises(ValueError, match=number):
        fastbn.normalize(more, found)
    with pytest.raises(ValueError, match=rule):
        found.update(swapped)
    assert (out.any(), found.count) == (False, 2)


def test_a_column_may_be_called_column_names() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "column_names": [3.0, 4.0]})
    assert fastbn.moments(frame).names == fastbn.stream(frame).names == ("a", "column_names")


def test_columns_that_have_no_names_go_by_position() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [30.0, 50.0], "income": [1.0, 3.0]})
    plain, found = pandas.DataFrame(frame.to_numpy()), fastbn.moments(frame)
    assert fastbn.normalize(plain, found, eps=0.0).tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    assert fastbn.moments(plain).names is None
    assert fastbn.moments(frame, axis=0).names is None
    assert found.update(plain).update(frame.to_numpy()).names == ("age", "income")
    by_number = fastbn.Moments.from_dict(fastbn.moments(plain).to_dict() | {"names": ["0", "1"]})
    assert fastbn.normalize(frame, by_number, eps=0.0).tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    assert by_number.update(frame).names == ("0", "1")


def test_a_file_of_json_is_an_error_that_names_what_reads_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "stats.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"stats.json' \(Moments.from_dict\(json.load\(file\)\) reads .json, and so does fastbn.stand"
    ):
        Moments.load(tmp_path / "stats.json")


def test_nothing_else_is_saved_under_a_name_of_json(tmp_path: pathlib.Path) -> None:
    for save in (Moments(2, [1.0], [2.0]).save, fastbn.BatchNorm(1).save):
        for name in ("stats.json", "STATS.JSON"):
            with pytest.raises(ValueError, match=r"path must not end in \.json.*, got '.*(stats|STATS)"):
                save(tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_integers_are_refused_where_statistics_are_of_scaled_values() -> None:
    pixels = np.array([[0, 51], [255, 102]], np.uint8)
    scaled = Moments.from_dict(fastbn.moments(pixels / 255).to_dict() | {"scale": 255.0})
    assert repr(scaled).endswith("scale=255)")
    before = scaled.copy()
    for values in (pixels, pixels.tolist(), pixels > 100, pixels.astype(np.int64)):
        with pytest.raises(ValueError, match=r"divided by 255: give x / 255, got (u?int|bool)"):
            fastbn.normalize(values, scaled)
    np.testing.assert_allclose(fastbn.normalize(pixels / 255, scaled, eps=0.0), [[-1, -1], [1, 1]], rtol=2.0**-50)
    assert scaled == before
    unscaled = Moments.from_dict(fastbn.moments(pixels).to_dict() | {"scale": 1.0})
    assert unscaled.update(pixels).count == 4
    np.testing.assert_array_equal(fastbn.normalize(pixels, unscaled, eps=0.0), np.float32([[-1, -1], [1, 1]]))


def test_statistics_that_others_update_meanwhile_are_read_once() -> None:
    class Shared(Moments):
        """As if another thread merged just after each look at it."""

        def var(self, correction: float = 0) -> Array:
            found = super().var(correction)
            shared.merge(more)
            return found

        @property
        def mean(self) -> Array:
            found = super().mean
            shared.merge(more)
            return found

    x, more = np.array([[-1.0], [1.0]]), fastbn.moments(np.full((100, 1), 1e6))
    shared = Shared().update(x)
    np.testing.assert_array_equal(fastbn.normalize(x, shared, eps=0.0), x)
    shared = Shared().update(x)
    layer = fastbn.BatchNorm(1, correction=0).load_moments(shared)
    assert (layer.running_mean.tolist(), layer.running_var.tolist()) == ([0.0], [1.0])


def test_bfloat16_is_taken_where_statistics_and_states_are_given() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    mean, m2 = (np.array(values, ml_dtypes.bfloat16) for values in ([1.5, -2.0], [0.5, 3.0]))
    found = Moments(2, mean, m2)
    assert (found.mean.tolist(), found.m2.tolist()) == ([1.5, -2.0], [0.5, 3.0])
    layer = fastbn.BatchNorm(2, affine=False)
    layer.load_state_dict({"running_mean": mean, "running_var": m2}, strict=False)
    assert layer.running_mean.tolist() == [1.5, -2.0]


def test_memory_that_is_not_there_is_no_wrong_type() -> None:
    class Large:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            raise MemoryError("8 PiB")

    with pytest.raises(MemoryError, match="8 PiB"):
        Moments().update(Large())  # type: ignore[arg-type]


def test_moments_take_the_options_of_moments() -> None:
    x = np.array([[1.0, np.nan], [3.0, 5.0], [5.0, 9.0]])
    found = fastbn.moments(x, nan="omit", extremes=True)
    assert (found.nan, found.extremes) == ("omit", True)
    assert found.count.tolist() == [3.0, 2.0]
    assert (found.mean.tolist(), found.m2.tolist()) == ([3.0, 7.0], [8.0, 8.0])
    assert (found.min.tolist(), found.max.tolist()) == ([1.0, 5.0], [5.0, 9.0])
    assert fastbn.moments(x, extremes=True).nan == "propagate"
    with pytest.raises(ValueError, match="nan must be 'propagate' or 'omit', got 'drop'"):
        fastbn.moments(x, nan="drop")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="nan must be 'propagate' or 'omit', got array"):
        fastbn.moments(x, nan=np.ones(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="extremes must be"):
        fastbn.moments(x, extremes=1)  # type: ignore[arg-type]


def test_sum_begins_with_zero() -> None:
    parts = [fastbn.moments(np.arange(6.0).reshape(3, 2)), fastbn.moments(np.ones((4, 2)))]
    assert sum(parts) == parts[0] + parts[1]
    assert sum(parts[:1]) == parts[0]
    assert sum(parts[:1]) is not parts[0]
    with pytest.raises(TypeError, match="unsupported operand"):
        1 + parts[0]


def test_a_directory_that_hides_members_is_no_file_of_moments() -> None:
    data = Moments(extremes=True).update([[1e6, 5.0], [1e6 + 0.1, 7.0], [1e6 + 0.3, 9.0]]).to_bytes()
    entries = [i for i in range(len(data)) if data.startswith(b"PK\x01\x02", i)]
    assert len(entries) > 4
    for entry in entries[:-1]:
        for extra in (31, 33):  # the high bytes of the lengths of what follows a name: 256 more, or 16 entries
            changed = bytearray(data)
            changed[entry + extra] = 1
            with pytest.raises(ValueError, match=r"data must be a file's content written by Moments\.save"):
                Moments.from_bytes(bytes(changed))


def test_a_file_with_options_that_cannot_be_is_an_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "moments.npz"
    fastbn.moments(np.ones((3, 2))).save(path)
    with np.load(path) as archive:
        held = dict(archive)
    (name,) = (key for key, value in held.items() if value.dtype.kind == "U")
    held[name] = np.array(str(held[name]).replace("propagate", "never"))
    np.savez(path, **held)
    with pytest.raises(ValueError, match=r"written by Moments\.save, got '.*': nan must be"):
        fastbn.Moments.load(path)


def test_a_file_with_objects_runs_no_code() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("code in the file was run",)

    with io.BytesIO() as file:
        np.savez(file, config=np.array('{"format": 1}'), count=np.array([Trap()], object))
        with pytest.raises(ValueError, match=r"written by Moments\.save"):
            Moments.from_bytes(file.getvalue())


def test_counts_beyond_int64() -> None:
    many = Moments(2**62, [1.0], [2.0**62])
    total = many + many + many.copy().merge(many) + Moments(1, [1.0], [0.0])
    assert total.count == [2.0**64]  # float64's nearest
    np.testing.assert_array_equal(total.var(), [1.0])
    for way in ROUND_TRIPS.values():
        for one in (total, Moments(2**63 - 1, [1.0], [2.0]), Moments(np.uint64(2**63), [1.0], [2.0])):
            assert way(one) == one
    assert type((many + Moments(2**62 - 1, [1.0], [0.0])).count) is int
    for huge in (2**63, 2**64 + 1, 10**300):
        np.testing.assert_array_equal(Moments(huge, [1.0], [2.0]).count, [float(huge)])
    for wrong in (-(2**64), 10**400):
        with pytest.raises(ValueError, match="count must be finite and >= 0, got"):
            Moments(wrong, [1.0], [2.0])
    most = Moments(1e308, [1.0], [2.0], min=[0.0], max=[2.0])
    before = most.to_bytes()
    with pytest.raises(ValueError, match=r"count must be finite and >= 0, got inf$"):
        most.merge(most)
    assert most.to_bytes() == before


def test_a_variance_beyond_float64_is_infinity() -> None:
    assert Moments([1e-300], [0.0], [1e10]).var() == [np.inf]


def test_equality(rng: np.random.Generator) -> None:
    x = table(rng, 10)
    m = fastbn.moments(x)
    assert m == fastbn.moments(x) != fastbn.moments(x[:, :4])
    assert m == Moments(np.full(5, 10.0), m.mean, m.m2)
    assert m != Moments(11, m.mean, m.m2) != m
    assert m != Moments(10, m.mean + 1, m.m2)
    assert m != Moments(extremes=True).update(x)
    assert m != (10, m.mean, m.m2)
    with pytest.raises(TypeError, match="unhashable"):
        hash(m)


def test_repr() -> None:
    assert repr(Moments()) == "Moments()"
    m = Moments(3, [1.0, 2.5], [6.0, 0.0], min=[-1, 2.5], max=[3, 2.5])
    assert repr(m) == "Moments(count=3, mean=[1.  2.5], std=[1.414 0.   ], min=[-1.   2.5], max=[3.  2.5])"
    many = Moments(np.arange(100), np.zeros(100), np.zeros(100))
    assert repr(many) == "Moments(count=[ 0.  1. ... 98. 99.], mean=[0. 0. ... 0. 0.], std=[nan  0. ...  0.  0.])"


# Finite where the type is wider than float64, and infinite in it; elsewhere infinite at once.
BEYOND = np.longdouble(2) ** 2000 if np.finfo(np.longdouble).max > np.finfo(np.float64).max else np.longdouble(np.inf)


def test_statistics_are_checked() -> None:
    ones = np.ones(2)
    for arguments, options, error, message in [
        ((3,), {}, ValueError, "count must be 0 without mean and m2, got 3"),
        ((True,), {}, ValueError, "count must be 0 without mean and m2, got True"),
        ((), {"mean": ones, "m2": ones}, ValueError, "count must be given with mean and m2, got mean and m2 alone$"),
        ((np.ones((100, 3)),), {}, ValueError, r"count must .* \(fastbn.moments\(x\) .*, got ndarray alone$"),
        (([[1.0], [2.0]],), {}, ValueError, r"count must .* Moments\(\).update\(x\) .*, got list alone$"),
        ((3, ones), {}, ValueError, "mean and m2 must both be given, got mean alone"),
        ((3,), {"m2": ones}, ValueError, "mean and m2 must both be given, got m2 alone"),
        ((3, ones, [1.0]), {}, ValueError, r"m2 must have mean's shape \(2,\), got \(1,\)"),
        ((3, ones, [1.0, -2.0]), {}, ValueError, r"m2 must be >= 0, got -2.0"),
        ((-1, ones, ones), {}, ValueError, "count must be finite and >= 0, got -1"),
        (([1, np.inf], ones, ones), {}, ValueError, "count must be finite and >= 0"),
        ((BEYOND, ones, ones), {}, ValueError, "count must be finite and >= 0, got"),
        (([1, BEYOND], ones, ones), {}, ValueError, "count must be finite and >= 0, got"),
        (([1], ones, ones), {}, ValueError, r"count must have mean's shape \(2,\), got \(1,\)"),
        (("3", ones, ones), {}, TypeError, "count must hold real numbers, got '3'"),
        ((3, ["a", "b"], ones), {}, TypeError, "mean must hold real numbers, got dtype <U1"),
        ((3, ones, ones), {"min": ones}, ValueError, "min and max must be .* with mean and m2, got min alone"),
        ((), {"min": ones, "max": ones}, ValueError, "min and max must be .*, got min and max alone"),
        ((3, ones, ones), {"min": ones, "max": [1]}, ValueError, "max must have mean's shape"),
        ((), {"nan": "skip"}, ValueError, "nan must be 'propagate' or 'omit', got 'skip'"),
        ((), {"extremes": 1}, TypeError, "extremes must be True or False, got 1"),
    ]:
        with pytest.raises(error, match=message):
            Moments(*arguments, **options)
    with pytest.raises(TypeError, match="mapping must be a mapping of names to values, got int"):
        Moments.from_dict(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mapping must have a count, got the keys \['mean'\]"):
        Moments.from_dict({"mean": ones})
    with pytest.raises(ValueError, match="count must be a number, or one for each feature, got None"):
        Moments.from_dict({"count": None, "mean": ones, "m2": ones})
    with pytest.raises(ValueError, match="mean_lo must have mean's shape"):
        Moments.from_dict({"count": 3, "mean": ones, "m2": ones, "mean_lo": [0.0]})
    for key, value, shown in [
        ("mean_lo", [0.0, 1e-3], "mean_lo must be what float64 rounds off mean, 1.0, got 0.001"),
        ("m2_lo", [-1.0, 0.0], "m2_lo must be what float64 rounds off m2, 1.0, got -1.0"),
        ("m2_lo", [0.0, np.nan], "m2_lo must be what float64 rounds off m2, 1.0, got nan"),
        ("mean_lo", [np.inf, 0.0], "mean_lo must be what float64 rounds off mean, 1.0, got inf"),
        ("mean_lo", ["a", "b"], "mean_lo must hold real numbers, got dtype <U1"),
    ]:
        with pytest.raises((TypeError, ValueError), match=shown):
            Moments.from_dict({"count": 3, "mean": ones, "m2": ones, key: value})
    for correction in (-1, np.inf):
        with pytest.raises(ValueError, match="correction must be finite and >= 0"):
            Moments(3, ones, ones).var(correction)


def test_an_array_beside_moments_is_an_error_that_says_update(rng: np.random.Generator) -> None:
    m, x = Moments(2, [1.0], [2.0]), table(rng, 4)
    says = r"^other must be Moments \(moments\.update\(x\) takes in the values of an array\), got "
    for wrong in (x, x.tolist(), np.float64(1), np.array([m, m])):
        for add in (lambda: m + wrong, lambda: wrong + m):  # noqa: B023 (called at once)
            with pytest.raises(TypeError, match=says + type(wrong).__name__):
                add()
    for other in (1, "a", None):
        with pytest.raises(TypeError, match="unsupported operand type"):
            m + other
    with pytest.raises(TypeError, match=says + "ndarray"):
        m.merge(x)  # type: ignore[arg-type]
    assert (m == x) is False
    assert (x == m) is False
    with pytest.raises(TypeError, match=r"parts must be a list of Moments \(Moments.concatenate\(\[a, b\]\)\), got M"):
        Moments.concatenate(m, m)


def test_how_data_were_read_is_known(rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
    assert (Moments().scale, Moments().axis, Moments().mode) == (None, None, None)
    m = fastbn.stream(x, axis=-1, scale=255)
    assert (m.scale, m.axis, m.mode) == (255.0, -1, None)
    assert repr(m).endswith("scale=255)")
    assert "scale" not in repr(fastbn.stream(x, axis=-1))
    with pytest.raises(AttributeError):
        m.scale = 1.0


def test_what_fails_changes_nothing(rng: np.random.Generator) -> None:
    x = table(rng, 20)
    m = Moments(extremes=True, nan="omit").update(x)
    before = m.copy()
    for wrong, options, error, message in [
        (x[:, :3], {}, ValueError, r"x must have features of shape \(5,\) along axis 1, got \(3,\)"),
        (
            x[0],
            {},
            ValueError,
            r"x must have at least 2 dimensions \(one feature: x\[:, None\], of .*, one sample: x\[None, :\]\), got 1",
        ),
        (x.astype(str), {}, TypeError, "x must have dtype"),
        (x, {"axis": 2}, ValueError, "axis"),
        (x, {"axis": 1.0}, TypeError, "axis must be an int or a tuple of ints"),
        (x, {"where": np.ones((20, 5))}, TypeError, "where must have dtype bool"),
        (x, {"where": np.ones((3, 5), bool)}, ValueError, "where must be broadcastable"),
        (x, {"weights": -np.ones((20, 1))}, ValueError, "weights must be finite"),
    ]:
        with pytest.raises(error, match=message):
            m.update(wrong, **options)
    for other, error in ((1, TypeError), (fastbn.moments(x[:, :3]), ValueError)):
        with pytest.raises(error, match="other must"):
            m.merge(other)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unsupported operand"):
        operator.add(m, 1)
    assert m == before


def test_normalize_by_moments_that_grow(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[Moments] = []
    var = Moments.var
    monkeypatch.setattr(Moments, "var", lambda self, correction=0: (computed.append(self), var(self, correction))[1])
    x, m = rng.normal(2.0, [1e-3, 1.0, 30.0], (40, 3)), Moments()
    for rows in (10, 25, 40):
        m.update(x[m.count if m.shape else 0 : rows])
        wide = x[:rows].astype(np.longdouble)
        for eps in (0.0, 0.5, 0.5, 0.0, 0):
            wanted = (x - wide.mean(0)) / np.sqrt(wide.var(0) + eps)
            np.testing.assert_allclose(fastbn.normalize(x, m, eps=eps), wanted, rtol=1e-12, atol=1e-12)
    assert len(computed) == 3 * 3  # not for each call: that takes longer than to normalize a few rows


@pytest.mark.parametrize("eps", [np.ones(3), np.array([]), "1e-5", None, 1e-5j], ids=repr)
def test_normalize_by_moments_and_an_eps_that_is_no_number(eps: Any) -> None:
    x = np.arange(12.0).reshape(4, 3)
    with pytest.raises(TypeError, match=re.escape(f"eps must be a real number, got {eps!r}")):
        fastbn.normalize(x, fastbn.moments(x), eps=eps)


def test_normalize_by_moments_of_nothing() -> None:
    out = np.ones((4, 3))
    with pytest.raises(ValueError, match=r"^mean must be Moments that have seen values, got Moments\(\)$"):
        fastbn.normalize(out, Moments(), out=out)
    np.testing.assert_array_equal(out, np.ones((4, 3)))


def test_normalize_by_moments(rng: np.random.Generator) -> None:
    x = table(rng, 50)
    m = fastbn.moments(x)
    y = fastbn.normalize(x, m, eps=0.0)
    wide = x.astype(np.longdouble)
    wanted = (wide - wide.mean(0)) / wide.std(0)
    lost = 2.0**-63 * np.abs(m.mean) / m.std()  # Moments know the mean better than float64; this is the oracle's
    assert (np.abs(y - wanted) <= lost + 1e-15 * (1 + np.abs(wanted))).all()
    np.testing.assert_array_equal(fastbn.normalize(x, m, None, np.full(5, 2.0), eps=0.0), 2 * y)
    with pytest.raises(TypeError, match="var must not be given where mean is Moments"):
        fastbn.normalize(x, m, m.var())


def test_a_variance_beyond_float64_gives_no_zeros() -> None:
    x = np.array([[1e200, 1.0], [-1e200, 3.0]])
    m = fastbn.moments(x)
    for _ in range(2):
        too_large = "variance of feature 0, for a standard deviation of 1e154 or more"
        with pytest.warns(RuntimeWarning, match=too_large) as seen:
            y = fastbn.normalize(x, m, eps=0.0)
        assert seen[0].filename == __file__
        np.testing.assert_array_equal(y, [[np.nan, -1.0], [np.nan, 1.0]])


def test_a_variance_below_float64_gives_no_zeros_without_a_word() -> None:
    x = np.array([[1e-200, 1.0], [-1e-200, 1.0]])
    too_small = "variance of feature 0, for a standard deviation of 1e-154 or less"
    for size in (1.0, 1e39):
        # A variance of 1e-400 is 0; of 1e-322 float64 has two digits.
        with pytest.warns(RuntimeWarning, match=too_small):
            fastbn.normalize(x, fastbn.moments(size * x), eps=0.0)
    # Weights far below 1 make m2 smaller still.
    with pytest.warns(RuntimeWarning, match=too_small):
        fastbn.normalize(x, fastbn.moments(x, weights=[[0.1], [0.1]]), eps=0.0)
    fastbn.normalize(x[:, 1:], fastbn.moments(x[:, 1:]), eps=0.0)  # a constant
    expected = x[:, 0] / np.sqrt(1e-5)  # eps is all that is left of the divisor
    np.testing.assert_allclose(fastbn.normalize(x, fastbn.moments(x))[:, 0], expected, rtol=1e-15)


@pytest.mark.parametrize("correction", [0, 1])
def test_population_statistics_of_a_layer(correction: int, rng: np.random.Generator) -> None:
    # Batches whose means differ: what the average of within-batch variances leaves out.
    batches = [rng.standard_normal((32, 3)) + 10 * rng.standard_normal(3) for _ in range(20)]
    layer = BatchNorm(3, correction=correction, momentum=None)
    population = Moments()
    for batch in batches:
        layer(batch)
        population.update(batch)
    everything = np.concatenate(batches).astype(np.longdouble)
    assert (layer.running_var < everything.var(0) / 10).all()
    assert layer.load_moments(population) is layer
    np.testing.assert_allclose(layer.running_mean, everything.mean(0).astype(np.float64), rtol=1e-13)
    np.testing.assert_allclose(layer.running_var, everything.var(0, ddof=correction).astype(np.float64), rtol=PROMISED)
    assert layer.num_batches_tracked == 20
    undecided = BatchNorm(dtype=np.float32).load_moments(population)
    assert (undecided.num_features, undecided.running_var.dtype) == (3, np.float32)


def test_a_layer_refuses_what_is_no_population(rng: np.random.Generator) -> None:
    layer = BatchNorm(5)
    x = table(rng, 4)
    before = layer.state_dict()
    for wrong, error, message in [
        (x, TypeError, "moments must be Moments, got ndarray"),
        (Moments(), ValueError, r"moments must have a finite mean and variance in every channel, got Moments\(\)"),
        (fastbn.moments(x[:1]), ValueError, r"in every channel \(which takes more than correction=1 values\), got"),
        (fastbn.moments(x[:, :3]), ValueError, r"moments must have features of shape \(5,\), .*, got \(3,\)"),
    ]:
        with pytest.raises(error, match=message):
            layer.load_moments(wrong)  # type: ignore[arg-type]
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    missing = np.where(np.arange(5) == 2, np.nan, x[:3])
    with pytest.raises(ValueError, match=r"in every channel \(nan='omit' of moments and stream leaves NaN out\), got"):
        layer.load_moments(fastbn.moments(missing))
    with pytest.raises(ValueError, match=r"in every channel \(which takes more"):  # leaving NaN out does not mend it
        layer.load_moments(fastbn.moments(missing, nan="omit"))
    with pytest.raises(ValueError, match="track_running_stats must be True for load_moments"):
        BatchNorm(5, track_running_stats=False).load_moments(fastbn.moments(x))
