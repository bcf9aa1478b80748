"""What statistics remember of the data behind them: names, scale, axis and mode, through files, dicts and merging."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fastbn
from fastbn.io.statsfiles import load_stats, merged_stats, save_stats
from fastbn.sklearn import StandardScaler
from support.datafiles import Array

CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    return rng.normal([3.0, -1e3], [1.0, 2.0], (100, 2))


def standard(x: Array) -> Array:
    return np.asarray((x - x.mean(axis=0)) / x.std(axis=0))


def _saved(m: fastbn.Moments, folder: Path) -> fastbn.Moments:
    m.save(folder / "m.npz")
    return fastbn.Moments.load(folder / "m.npz")


def _in_the_commands_npz(m: fastbn.Moments, folder: Path) -> fastbn.Moments:
    m.save(folder / "m.npz")
    save_stats(load_stats(folder / "m.npz"), folder / "s.npz")
    return fastbn.Moments.load(folder / "s.npz")


def _in_the_commands_json(m: fastbn.Moments, folder: Path) -> fastbn.Moments:
    m.save(folder / "m.npz")
    save_stats(load_stats(folder / "m.npz"), folder / "s.json")
    return fastbn.Moments.from_dict(json.loads((folder / "s.json").read_text()))


def _json_of_a_dict(m: fastbn.Moments, folder: Path) -> fastbn.Moments:
    text = json.dumps({key: np.asarray(value).tolist() for key, value in m.to_dict().items()})
    return fastbn.Moments.from_dict(json.loads(text))


WAYS: list[Callable[[fastbn.Moments, Path], fastbn.Moments]] = [
    _saved,
    _in_the_commands_npz,
    _in_the_commands_json,
    _json_of_a_dict,
    lambda m, folder: fastbn.Moments.from_dict(m.to_dict()),
    lambda m, folder: fastbn.Moments.from_bytes(m.to_bytes()),
    lambda m, folder: pickle.loads(pickle.dumps(m)),
    lambda m, folder: copy.deepcopy(m),
    lambda m, folder: sum([m], start=fastbn.Moments()),
]


@pytest.mark.parametrize("way", WAYS)
def test_columns_are_found_by_name_after_any_way(
    way: Callable[[fastbn.Moments, Path], fastbn.Moments], tmp_path: Path, x: Array
) -> None:
    m = way(fastbn.stream(pd.DataFrame(x, columns=["a", "b"]), scale=4), tmp_path)
    assert m.names == ("a", "b")
    fastbn.standardize(pd.DataFrame(x[:, ::-1], columns=["b", "a"]), m, tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), standard(x), **CLOSE)


@pytest.mark.parametrize("way", WAYS)
def test_scale_axis_and_mode_are_remembered(
    way: Callable[[fastbn.Moments, Path], fastbn.Moments], tmp_path: Path, rng: np.random.Generator
) -> None:
    x = rng.integers(0, 256, (6, 5, 4, 3)).astype(np.uint8)
    fastbn.standardize(x, way(fastbn.stream(x, axis=-1, scale=255), tmp_path), tmp_path / "y.npy")
    expected = (x - x.mean(axis=(0, 1, 2))) / x.std(axis=(0, 1, 2))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=0, atol=1e-5)
    for number, image in enumerate((x[0], x[1, :, :, 0])):  # one of them is grey
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    images = [tmp_path / "0.png", tmp_path / "1.png"]
    m = way(fastbn.stream(images, mode="RGB", scale=255), tmp_path)
    fastbn.standardize(images, m, tmp_path / "z.npy")
    pixels = np.stack([x[0], np.repeat(x[1, :, :, :1], 3, axis=-1)]).astype(np.float64)
    expected = (pixels - pixels.mean(axis=(0, 1, 2))) / pixels.std(axis=(0, 1, 2))
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), expected.transpose(0, 3, 1, 2), rtol=0, atol=1e-5)


def test_what_is_given_wins_over_what_is_remembered(tmp_path: Path, x: Array) -> None:
    m = fastbn.stream(x.T, axis=0, scale=2)
    fastbn.standardize(x / 2, m, tmp_path / "y.npy", axis=1, scale=1)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), standard(x), **CLOSE)


def test_a_scale_that_cannot_be_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    """Integers were not divided, and statistics of pixels are in no units of 0 to 1; other depths have others."""
    x = rng.integers(0, 256, (6, 5, 4)).astype(np.uint8)
    raw, unit = fastbn.stream(x), fastbn.stream(x, scale=255)
    for m, scale, said in (
        (unit, 1, "255, .*, got 1"),
        (raw, 255, "1, .*, got 255"),
        (fastbn.moments(x), 255, "1, .*, got 255"),
    ):
        with pytest.raises(ValueError, match=f"^scale must be that of the statistics, {said}$"):
            fastbn.standardize(x, m, tmp_path / "y.npy", scale=scale)
    assert not list(tmp_path.iterdir())
    for values, m, scale in (
        (x / 255, unit, 1),
        (x.astype(np.uint16) * 257, unit, 65535),
        (x.astype(np.uint16) * 257, raw, 257),
        (x, fastbn.stream(x / 255), 255),
    ):
        fastbn.standardize(values, m, tmp_path / "y.npy", scale=scale, dtype="float64", overwrite=True)
        expected = (x - x.mean(axis=(0, 2))[:, None]) / x.std(axis=(0, 2))[:, None]
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, **CLOSE)


def test_a_mode_is_that_of_the_statistics(tmp_path: Path) -> None:
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(tmp_path / "x.png")
    for measured, asked in (("L", "LAB"), ("RGB", "L")):
        m = fastbn.stream(tmp_path / "x.png", mode=measured)
        with pytest.raises(ValueError, match=f"^mode must be that of the statistics, '{measured}', got '{asked}'$"):
            fastbn.standardize(tmp_path / "x.png", m, tmp_path / "y.npy", mode=asked)
    fastbn.standardize(tmp_path / "x.png", fastbn.stream(tmp_path / "x.png"), tmp_path / "y.npy", mode="RGB")


def test_statistics_of_earlier_versions_are_read_under_any_name(tmp_path: Path, x: Array) -> None:
    m = fastbn.stream(x)
    m.save(tmp_path / "m.npz")
    (tmp_path / "m.npz").rename(tmp_path / "m.json")  # which `Moments.save` wrote itself
    assert load_stats(tmp_path / "m.json") == m


def test_the_axis_of_arrays_is_not_that_of_tables_and_images(tmp_path: Path, x: Array) -> None:
    pd.DataFrame(x, columns=["a", "b"]).to_csv(tmp_path / "x.csv", index=False)
    fastbn.standardize(tmp_path / "x.csv", fastbn.stream(x.T, axis=0), tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), standard(x), **CLOSE)
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(image).save(tmp_path / "x.png")
    fastbn.standardize(tmp_path / "x.png", fastbn.stream(image[np.newaxis], axis=3), tmp_path / "z.npy")
    expected = (image - image.mean(axis=(0, 1))) / image.std(axis=(0, 1))
    np.testing.assert_allclose(np.load(tmp_path / "z.npy")[0], expected.transpose(2, 0, 1), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="axis must come with arrays, got 3 for the images of"):
        fastbn.standardize(tmp_path / "x.png", fastbn.stream(image[np.newaxis], axis=3), tmp_path / "w.npy", axis=3)


def test_merging_takes_names_over_and_refuses_others(x: Array, tmp_path: Path) -> None:
    frame = pd.DataFrame(x, columns=["a", "b"])
    m, n = fastbn.stream(frame), fastbn.stream(frame[["b", "a"]])
    assert sum([m, m], start=fastbn.Moments()).names == ("a", "b")
    assert (fastbn.moments(x) + m).names == ("a", "b")
    before = n.to_bytes()
    with pytest.raises(ValueError, match=r"other must have the features \('b', 'a'\), got \('a', 'b'\)"):
        n.merge(m)
    with pytest.raises(ValueError, match=r"other must have the features"):
        sum([m, n], start=fastbn.Moments())
    assert n.to_bytes() == before
    for name, each in (("m.npz", m), ("n.npz", n)):
        each.save(tmp_path / name)
    both = merged_stats([tmp_path / "m.npz", tmp_path / "n.npz"])  # by their names
    np.testing.assert_allclose(both.mean, x.mean(axis=0), rtol=1e-13)
    assert both.names == ("a", "b")


def test_what_differs_is_forgotten_but_for_names(x: Array) -> None:
    m, n = fastbn.stream(x, scale=2), fastbn.stream(x.T, axis=0, scale=2)
    assert {"axis", "mode"}.isdisjoint((m + n).to_dict())
    assert (m + n).to_dict()["scale"] == 2
    for other in (fastbn.stream(x), fastbn.stream(x, scale=255)):
        with pytest.raises(ValueError, match=r"^other must have the scale of the statistics, 2, got (1|255)$"):
            m + other


def test_values_of_one_scale_do_not_mix_with_others(tmp_path: Path, rng: np.random.Generator) -> None:
    """Whatever merges: the mean of values of 0 to 1 and of 0 to 255 is a number without a unit."""
    x = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
    pixels, plain = fastbn.stream(x.astype(np.float64), axis=-1), fastbn.moments(x, axis=-1)
    unit, before = fastbn.stream(x, scale=255, axis=-1), fastbn.stream(x, scale=255, axis=-1).to_bytes()
    measures = r" \(fastbn\.stream\(x, scale=255\) measures with it\)$"
    scaler = StandardScaler(axis=-1).merge(unit)
    for other, shown in ((pixels, "1$"), (plain, "unknown" + measures)):
        files = [tmp_path / name for name in ("unit.npz", "other.npz")]
        for each, path in zip((unit, other), files, strict=True):
            each.save(path)
        ways: list[Callable[[], Any]] = [
            lambda other=other: unit + other,  # type: ignore[misc]
            lambda other=other: unit.merge(other),  # type: ignore[misc]
            lambda other=other: sum([unit, other], start=fastbn.Moments()),  # type: ignore[misc]
            lambda other=other: scaler.merge(other),  # type: ignore[misc]
        ]
        for way in ways:
            with pytest.raises(ValueError, match=rf"^other must have the scale of the statistics, 255, got {shown}"):
                way()
        with pytest.raises(ValueError, match=rf"^parts\[1\] must have the scale of the statistics, 255, got {shown}"):
            fastbn.Moments.concatenate([unit, other])
        with pytest.raises(ValueError, match=r"other\.npz must have the scale of the statistics, 255, got 1"):
            merged_stats(files)
    for merging, scale in ((pixels, "1"), (plain, "unknown")):
        with pytest.raises(ValueError, match=rf"^other must have the scale of the statistics, {scale}, got 255"):
            merging + unit
    for values in (x, x / 255, x.tolist()):
        with pytest.raises(ValueError, match=r"^x must have the scale of the statistics, 255, got unknown" + measures):
            unit.update(values, axis=-1)
    assert unit.to_bytes() == before
    np.testing.assert_allclose((unit + unit).mean, (x / 255).mean(axis=(0, 1)), **CLOSE)
    np.testing.assert_allclose((pixels + plain).mean, x.mean(axis=(0, 1)), **CLOSE)
    assert fastbn.Moments().merge(unit).to_dict()["scale"] == 255


def test_features_side_by_side_keep_their_names(x: Array) -> None:
    a, b = (fastbn.stream(pd.DataFrame(x[:, [i]], columns=[name])) for i, name in enumerate("ab"))
    assert fastbn.Moments.concatenate([a, b]).names == ("a", "b")
    assert fastbn.Moments.concatenate([a, fastbn.moments(x)]).names is None


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"names": ["a"]}, r"names must be one for each feature, of shape \(2,\), got 1"),
        ({"names": "ab"}, "names must be a list of texts, got 'ab'"),
        ({"scale": 0}, "scale must be above 0, got 0"),
        ({"mode": 3}, "mode must be a text, got 3"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(x: Array, wrong: dict[str, Any], rule: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rule):
        fastbn.Moments.from_dict(fastbn.moments(x).to_dict() | wrong)


def test_a_scaler_takes_names_from_statistics(x: Array) -> None:
    frame = pd.DataFrame(x, columns=["a", "b"])
    scaler = StandardScaler().merge(fastbn.stream(frame))
    assert scaler.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_allclose(scaler.transform(frame), standard(x), **CLOSE)
    with pytest.raises(ValueError, match="feature names should match"):
        scaler.transform(frame[["b", "a"]])
    for fitted in (scaler, StandardScaler().fit(frame)):
        with pytest.raises(ValueError, match=r"other must have the features \['a', 'b'\], got \['b', 'a'\]"):
            fitted.merge(fastbn.stream(frame[["b", "a"]]))
        assert fitted.merge(fastbn.stream(frame)).n_samples_seen_ == 200
    assert not hasattr(StandardScaler().merge(fastbn.stream(x)), "feature_names_in_")
