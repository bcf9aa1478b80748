"""Promise: the wheel works where numpy is all there is beside it, and the sdist holds what it is made of."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from support import footprint, smoke

pytestmark = [
    pytest.mark.wheel,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="auditwheel knows Linux wheels only"),
]

ROOT = Path(__file__).parents[2]


def run(*command: str | Path) -> None:
    """Run a tool of this environment, and assert that it succeeds."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist and wheel, each from the checkout: what was compiled to install it is not compiled again."""
    for tool in ("build", "auditwheel", "scikit_build_core", "pybind11"):
        pytest.importorskip(tool)
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repair the wheel."""
    repaired = tmp_path_factory.mktemp("repaired")
    run("auditwheel", "repair", "--wheel-dir", repaired, *built.glob("*.whl"))
    (path,) = repaired.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the interpreter of an environment with numpy and the wheel alone."""
    return footprint.bare_environment(tmp_path_factory.mktemp("bare"), wheel)


@pytest.fixture(scope="module")
def used(bare_python: Path) -> dict:
    """Use fastbn in that environment and give what was seen there."""
    return json.loads(footprint.run(bare_python, Path(smoke.__file__).read_text()))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git says which files there are")
def test_sdist_holds_every_file(built: Path) -> None:
    """To the byte, so that what is built from it is what is built here."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    wanted = [name for name in listed.split("\0") if name and not name.startswith((".ci/", ".github/"))]
    (path,) = built.glob("*.tar.gz")
    top = path.name.removesuffix(".tar.gz")
    with tarfile.open(path) as sdist:
        held = {member.name: member for member in sdist.getmembers()}
        for name in wanted:
            assert f"{top}/{name}" in held
            assert sdist.extractfile(held[f"{top}/{name}"]).read() == (ROOT / name).read_bytes(), name
    assert "CMakeLists.txt" in wanted


def test_wheel_is_repaired_for_other_distributions(wheel: Path) -> None:
    assert re.search(rf"-manylinux_2_\d+_{platform.machine()}\.whl$", wheel.name)


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    (metadata,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    assert {name.partition("/")[0] for name in names} == {"fastbn", "fastbn.libs", metadata}
    assert {"fastbn/py.typed", "fastbn/_core.pyi", f"{metadata}/licenses/LICENSE"} <= set(names)
    suffixes = {Path(name).suffix for name in names if re.match(r"fastbn/.*[^/]$", name)}
    assert suffixes == {".py", ".pyi", ".so", ".typed"}


def test_description_links_to_files_of_this_version(wheel: Path, used: dict) -> None:
    """PyPI shows README alone: what it links to is elsewhere."""
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]*)\)", archive.read(metadata).decode())
    assert links
    for picture, link in links:
        found = re.fullmatch(rf"https://[^/]+/[^/]+/[^/]+/(raw|blob)/v{re.escape(used['version'])}/(.*)", link)
        assert found, link
        assert (found[1] == "raw") == bool(picture)
        assert (ROOT / found[2]).exists()


def test_result_is_right_on_every_instruction_set(used: dict) -> None:
    assert all(error < smoke.TOLERANCE for error in used["errors"].values()), used["errors"]


def test_every_instruction_set_of_this_processor_is_there(used: dict) -> None:
    flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    avx2 = {"avx2", "fma", "f16c"}
    avx512 = avx2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
    needed = {"generic": set(), "avx2": avx2, "avx512": avx512, "neon": {"asimd"}}
    assert set(used["errors"]) == {isa for isa, wanted in needed.items() if wanted <= flags}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="registers of other processors have other names")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="reads the machine code with objdump")
def test_wheel_holds_the_code_of_every_instruction_set(bare_python: Path) -> None:
    # Also on a processor that could not run it.
    module = footprint.run(bare_python, "from fastbn import _core; print(_core.__file__)").strip()
    code = subprocess.run(["objdump", "-d", module], check=True, capture_output=True, text=True).stdout
    assert {register for register in ("%xmm", "%ymm", "%zmm") if register in code} == {"%xmm", "%ymm", "%zmm"}


def test_numpy_is_the_only_requirement(used: dict) -> None:
    assert used["installed"] == ["fastbn", "numpy"]
    assert used["imported"] == ["fastbn", "numpy"]


def test_openmp_comes_with_the_wheel(used: dict) -> None:
    assert len(used["libraries"]) == 1
    assert used["libraries"][0].startswith("fastbn.libs/libgomp")


def test_version_is_that_of_the_wheel(wheel: Path, used: dict) -> None:
    assert wheel.name.split("-")[1] == used["version"]


def test_installed_size_and_import_time(bare_python: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{footprint.report(bare_python)}")
    # README says 4.6 MB: more is worth a word there.
    assert footprint.installed_bytes(bare_python) < 4.6e6
