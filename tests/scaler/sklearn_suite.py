"""Run scikit-learn's own tests with fastbn's StandardScaler in the place of its own; knows none of them.

    python tests/scaler/sklearn_suite.py [--all] [options of pytest]

All tests of its preprocessing, what its common tests ask of a StandardScaler, and the tests of what is built around
one: pipelines, column transformers, containers, metadata. With --all every test file in which the name occurs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # asked for by the tests of other array libraries, where these are found

import pytest
import sklearn
import sklearn.preprocessing

import fastbn.sklearn

NAME = "StandardScaler"
FOLDER = Path(sklearn.__file__).parent
USUAL = (
    "preprocessing/tests/test_data.py",
    "preprocessing/tests/test_common.py",
    "preprocessing/tests/test_function_transformer.py",
    "tests/test_common.py",
    "tests/test_base.py",
    "tests/test_pipeline.py",
    "tests/test_metaestimators.py",
    "compose/tests/test_column_transformer.py",
    "compose/tests/test_target.py",
    "frozen/tests/test_frozen.py",
    "utils/tests/test_set_output.py",
    "utils/tests/test_pprint.py",
)


class Chosen:
    """Of the common tests, which are made for every estimator, those for ours."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the others out."""
        items[:] = [item for item in items if item.path != FOLDER / "tests" / "test_common.py" or NAME in item.name]


def swap() -> None:
    """Put our class in the place of theirs, wherever that has been imported."""
    theirs = sklearn.preprocessing.StandardScaler
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "sklearn" and vars(module).get(NAME) is theirs:
            setattr(module, NAME, fastbn.sklearn.StandardScaler)
    assert sklearn.preprocessing.StandardScaler is fastbn.sklearn.StandardScaler


def files(everything: bool) -> list[str]:
    """Return the test files to run; some came after scikit-learn 1.6."""
    if not everything:
        return [str(FOLDER / name) for name in USUAL if (FOLDER / name).exists()]
    found = sorted(FOLDER.rglob("test_*.py"))
    return [str(path) for path in found if NAME in path.read_text(encoding="utf-8")]


def main() -> int:
    """Run them; the exit status is pytest's."""
    options = [option for option in sys.argv[1:] if option != "--all"]
    swap()
    # Neither this project's configuration nor its folders: a process that a test starts must find what this one found.
    alone = ["-q", "--import-mode=append", "--disable-warnings", "-p", "no:cacheprovider"]
    where = ["-c", os.devnull, "--rootdir", str(FOLDER)]
    return int(pytest.main([*alone, *where, *options, *files("--all" in sys.argv)], plugins=[Chosen()]))


if __name__ == "__main__":
    sys.exit(main())
