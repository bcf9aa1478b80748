"""Save one of everything that the installed fastbn can save, with the arrays it was made of.

    PYTHONPATH=site-packages-of-that-version python tests/samples/make.py tests/samples/VERSION

A version that lacks a format leaves its files out. What a run left behind when it stopped, `checkpoint` and `copy/`,
names its source as ``inputs/table.npy``, seen from the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastbn


class StopError(Exception):
    """Ends a run in its middle."""


def pickled(path: str, value: Any) -> None:
    """Write with the protocol that every Python from 3.8 on takes by default."""
    Path(path).write_bytes(pickle.dumps(value, 4))


def inputs() -> dict[str, Any]:
    """Write and return what everything is made of, numbers of few digits and at a distance from zero."""
    rng = np.random.default_rng(2015)
    arrays = {
        "batches": rng.normal([1e3, 0.0, -3.0], [1.0, 1e-3, 5.0], (4, 8, 3)).astype(np.float32),
        "weight": np.array([1.5, 0.5, -2.0], np.float32),
        "bias": np.array([0.25, -1.0, 4.0], np.float32),
        "table": rng.normal([1e6, -2.0], [1.0, 3.0], (12_000, 2)).astype(np.float32),
    }
    os.makedirs("inputs")
    for name, array in arrays.items():
        np.save(f"inputs/{name}.npy", array)
    return arrays


def layers(batches: Any, weight: Any, bias: Any) -> None:
    """Save a layer after its batches; one with later options too, where there are any."""
    kinds: dict[str, dict[str, Any]] = {"layer": {}}
    if hasattr(fastbn, "fold"):
        kinds["options"] = {"activation": "relu", "on_nonfinite": "skip", "on_single": "biased", "use_bias": False}
    for name, options in kinds.items():
        layer = fastbn.BatchNorm(3, momentum=0.25, eps=1e-3, dtype=np.float32, **options)
        layer.load_state_dict({"weight": weight, "bias": bias} if name == "layer" else {"weight": weight}, strict=False)
        for batch in batches:
            layer(batch)
        layer.save(f"{name}.npz")
        pickled(f"{name}.pickle", layer)
        pickled(f"{name}_state.pickle", layer.state_dict())


def results(table: Any) -> None:
    """Save what the functions return."""
    trained = fastbn.batch_norm_train(table[:10])
    pickled("train_result.pickle", trained)
    back = fastbn.batch_norm_backward(table[10:20], table[:10], mean=trained.mean, invstd=trained.invstd)
    pickled("gradients.pickle", back)
    pickled("pool_info.pickle", fastbn.pool_info())
    pickled("moments.pickle", fastbn.moments(table))


def statistics(table: Any) -> None:
    """Save Moments and the files of the command, in all their formats."""
    moments = fastbn.Moments(nan="omit", extremes=True)
    for part in np.array_split(table, 3):
        moments.update(part)
    moments.save("moments.npz")
    Path("moments.bytes").write_bytes(moments.to_bytes())
    held = {key: np.asarray(value).tolist() for key, value in moments.to_dict().items()}
    Path("moments_dict.json").write_text(json.dumps(held) + "\n")
    pickled("moments_dict.pickle", moments.to_dict())

    for suffix in ("npz", "json"):
        command = [sys.executable, "-m", "fastbn", "stats", "inputs/table.npy", "--out", f"stats.{suffix}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def scalers(table: Any) -> None:
    """Save a fitted scaler, in memory's kind and dask's."""
    from fastbn.dask import StandardScaler as DaskScaler
    from fastbn.sklearn import StandardScaler

    for name, kind in (("scaler", StandardScaler), ("dask_scaler", DaskScaler)):
        pickled(f"{name}.pickle", kind().fit(table))
    pickled("bounded_scaler.pickle", StandardScaler(correction=1, clip=1.0).fit(table))


def stopping() -> Callable[[int, int | None], None]:
    """Return a listener that ends a run when half of it is done."""

    def progress(done: int, total: int | None) -> None:
        if 2 * done > (total or 0):
            raise StopError

    return progress


def stopped_runs() -> None:
    """Leave what a run leaves behind that is ended in its middle."""
    os.utime("inputs/table.npy", ns=(10**18, 10**18))  # a run goes on if its source has the time that it had
    common: dict[str, Any] = {"every": 0.0, "memory": 2**18}
    with contextlib.suppress(StopError):
        fastbn.stream("inputs/table.npy", checkpoint="checkpoint", progress=stopping(), **common)
    os.makedirs("copy")
    moments = fastbn.Moments.load("moments.npz")
    with contextlib.suppress(StopError):
        fastbn.standardize(
            "inputs/table.npy", moments, "copy/table.npy", dtype="float16", resume=True, progress=stopping(), **common
        )
    for path in Path("copy").iterdir():  # the name has the machine's in it
        kind = "checkpoint" if path.name.endswith(".json") else "part"
        shutil.move(path, f"copy/{kind}")


if __name__ == "__main__":
    os.makedirs(sys.argv[1])
    os.chdir(sys.argv[1])
    arrays = inputs()
    layers(arrays["batches"], arrays["weight"], arrays["bias"])
    results(arrays["table"])
    if hasattr(fastbn, "stream"):
        statistics(arrays["table"])
        scalers(arrays["table"])
        stopped_runs()
