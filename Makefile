# Each target sets up what it needs in .venv, and does nothing twice: a stamp there says what is already installed.
# Wants python3 (with venv), g++ and make; everything else comes from PyPI.

PYTHON ?= python3
BIN := .venv/bin
STAMPS := .venv/stamps
DEBUG := build/debug
SANITIZE := build/sanitize
TSAN := build/tsan
CLANG := build/clang

PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Without isolation the build directory stays valid from one build to the next, and only what changed is compiled.
INSTALL := $(PIP) install --no-build-isolation

SOURCES := CMakeLists.txt pyproject.toml $(shell find cpp python -type f ! -name '*.pyc')
CXX_SOURCES := $(shell find cpp tests/cpp bench -name '*.[ch]pp')

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
ifndef AT_ONCE
.NOTPARALLEL:
endif
.SUFFIXES:
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help
help: ## show this list
	@echo 'make <target>:'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: install
install: $(STAMPS)/package ## build fastbn and install it into .venv

# What the picture is drawn with comes while the package compiles.
.PHONY: demo
demo: $(STAMPS)/venv ## train a network on handwritten digits, with and without fastbn
	$(MAKE) --no-print-directory -j 2 AT_ONCE=1 $(STAMPS)/package $(STAMPS)/requirements-demo
	$(MAKE) --no-print-directory $(STAMPS)/extra-demo
	$(BIN)/python examples/digits.py

.PHONY: test
test: $(STAMPS)/package $(STAMPS)/extra-test $(STAMPS)/extra-demo $(STAMPS)/extra-wheel ## run every test and doctest, with coverage
	$(BIN)/python -m pytest --doctest-modules --ignore-glob='*/fastbn/torch/*' --ignore-glob='*/fastbn/interop/*' \
	    --pyargs fastbn tests/ --ignore tests/pytorch --ignore tests/interop --ignore tests/site --cov --cov-report=term-missing:skip-covered

# What wants PyTorch or a library that layers are exchanged with: folders of their own, doctests and pages, and tests
# elsewhere that are skipped where these are missing.
TORCH_TESTS = tests/pytorch tests/interop tests/package/test_public_names.py tests/package/test_guide.py $(shell grep -rl 'importorskip("torch")' tests --include='*.py')

.PHONY: test-torch
test-torch: $(STAMPS)/package $(STAMPS)/extra-test $(STAMPS)/torch ## install PyTorch (CPU) and run every test that wants it
	$(BIN)/python -m pytest --doctest-modules --pyargs fastbn.torch fastbn.interop $(TORCH_TESTS) \
	    --cov --cov-config=tests/pytorch/coverage.toml --cov-report=term-missing:skip-covered

.PHONY: sklearn-tests
sklearn-tests: $(STAMPS)/package $(STAMPS)/extra-test ## run scikit-learn's own tests with fastbn's StandardScaler in place
	$(BIN)/python tests/scaler/sklearn_suite.py $(if $(ALL),--all)

# The gallery's matrices are small: more than one thread for each only waits.
DOCS := build/docs/html
.PHONY: docs
docs: $(STAMPS)/package $(STAMPS)/extra-docs ## build the site, with the gallery run and every link checked, into build/docs/html
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m sphinx -W -n --keep-going -b html docs $(DOCS)
	@echo 'Open $(CURDIR)/$(DOCS)/index.html'

.PHONY: test-docs
test-docs: docs $(STAMPS)/extra-test $(STAMPS)/extra-test-docs ## open every page of the site in Chromium, which must be installed: wide, narrow, light, dark
	$(BIN)/python -m pytest tests/site

.PHONY: lint lint-python lint-types lint-format lint-tidy
lint: lint-python lint-types lint-format lint-tidy ## check style, types and the usual mistakes, in Python and C++

lint-python: $(STAMPS)/extra-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check

lint-types: $(STAMPS)/extra-lint
	$(BIN)/mypy
	$(BIN)/mypy examples
	$(BIN)/mypy bench

lint-format: $(STAMPS)/extra-lint
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

# clang-tidy brings clang's own headers but no omp.h: the compiler's folder, searched last, has it. Flags that only GCC
# knows are no finding.
lint-tidy: $(STAMPS)/extra-lint $(DEBUG)/compile_commands.json
	$(BIN)/run-clang-tidy.py -quiet -p $(DEBUG) -clang-tidy-binary $(BIN)/clang-tidy \
	    -extra-arg=-idirafter"$$($(CXX) -print-file-name=include)" -extra-arg=-Wno-unknown-warning-option \
	    -extra-arg=-Wno-ignored-optimization-argument '$(CURDIR)/cpp/.*'

.PHONY: format
format: $(STAMPS)/extra-lint ## format Python and C++ in place
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_SOURCES)

.PHONY: bench
bench: $(STAMPS)/package $(STAMPS)/extra-bench ## measure speed beside other libraries (QUICK=1: fewer cases)
	$(BIN)/python bench/run.py $(if $(QUICK),--quick)

.PHONY: breadth
breadth: $(STAMPS)/package $(STAMPS)/extra-bench ## measure types, masks and fused operations (QUICK=1: fewer cases)
	$(BIN)/python bench/run.py --breadth $(if $(QUICK),--quick)

.PHONY: compare
compare: $(STAMPS)/package $(STAMPS)/extra-bench ## compare a build, OLD=folder, with the one here or NEW=folder (QUICK=1: fewer cases; BITS=1: results)
	$(if $(OLD),,$(error OLD must be a folder that holds a built package fastbn, got nothing))
	$(BIN)/python bench/compare.py '$(OLD)' '$(or $(NEW),$(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))'))' \
	    $(if $(QUICK),--quick) $(if $(BITS),--same-bits)

.PHONY: busy
busy: $(STAMPS)/package $(STAMPS)/extra-bench ## measure several threads beside one on a machine that is idle, then busy (OLD=folder: both builds)
	$(BIN)/python bench/busy.py $(if $(OLD),'$(OLD)') "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"

.PHONY: scaler
scaler: $(STAMPS)/package $(STAMPS)/extra-bench ## measure StandardScaler beside scikit-learn's (QUICK=1: fewer rounds)
	$(BIN)/python bench/scaler.py $(if $(QUICK),--quick)

.PHONY: pixels
pixels: $(STAMPS)/package $(STAMPS)/extra-bench ## measure images to NCHW and moments of integers beside PyTorch, OpenCV and NumKong (QUICK=1: fewer rounds)
	$(BIN)/python bench/pixels.py $(if $(QUICK),--quick)

.PHONY: modules
modules: $(STAMPS)/package $(STAMPS)/extra-bench $(STAMPS)/torch ## measure fastbn.torch's modules beside torch.nn's (QUICK=1: fewer cases)
	$(BIN)/python bench/torch_modules.py $(if $(QUICK),--quick)

.PHONY: files
files: $(STAMPS)/package $(STAMPS)/extra-cli $(STAMPS)/extra-files ## measure the command on 4 GB and 2000 images, killed and resumed (QUICK=1: less)
	$(BIN)/python bench/files.py $(if $(QUICK),--quick)

.PHONY: numerics
numerics: $(STAMPS)/package $(STAMPS)/extra-bench ## print the accuracy table of docs/numerics.md
	$(BIN)/python bench/numerics.py

.PHONY: wheel
wheel: $(STAMPS)/venv $(STAMPS)/extra-wheel ## build sdist and repaired wheel into dist/, print size and import time
	rm -rf build/wheel dist
	$(BIN)/python -m build --no-isolation --outdir build/wheel
	$(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl
	mv build/wheel/*.tar.gz dist/
	$(BIN)/python tests/support/footprint.py dist/*.whl

# Wheels run on older systems than this one where an older Debian's compiler makes them: COMPILER=folder, which
# debootstrap fills if it is empty (as root). PYTHONS=the interpreters; without, those that are found.
.PHONY: release
release: $(STAMPS)/venv ## build sdist and wheels of the commit into dist/, each checked and tested in an empty environment
	$(BIN)/python .ci/release.py $(if $(COMPILER),--compiler-root '$(COMPILER)') $(foreach python,$(PYTHONS),--python '$(python)')

.PHONY: ctest
ctest: $(DEBUG)/compile_commands.json ## build with assertions and check the objects of each instruction set
	cmake --build $(DEBUG)
	ctest --test-dir $(DEBUG) --output-on-failure --no-tests=error

# Python itself is not instrumented, so the run-time library must be loaded before it; libstdc++ beside it, or the
# interceptor of __cxa_throw finds nothing to call. pytest must leave stderr alone, where a report goes just before the
# process ends.
with_library = LD_PRELOAD="$$($(CXX) -print-file-name=lib$(1).so) $$($(CXX) -print-file-name=libstdc++.so)"
SANITIZERS = $(call with_library,asan) \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
SANITIZED_SITE := $(CURDIR)/$(SANITIZE)/site
SANITIZED = $(SANITIZERS) PYTHONPATH=$(SANITIZED_SITE) $(BIN)/python

# Left out: tests marked `wheel`, whose environment is built afresh without this library. Leaks are not looked for: the
# interpreter never frees all it holds.
.PHONY: sanitize
sanitize: $(STAMPS)/package $(STAMPS)/extra-test $(SANITIZE)/stamp ## run the tests with address and undefined-behaviour checks
	$(SANITIZED) -c 'import fastbn; assert fastbn.__file__.startswith("$(CURDIR)/$(SANITIZE)"), fastbn.__file__'
	$(SANITIZED) -m pytest --capture=sys -m 'not wheel' --ignore tests/pytorch --ignore tests/site tests/

# First the engine, under the sanitizers, then the readers and loaders of files, which share as much time; what is found is left in
# build/fuzz/. The files that a run begins with are kept in tests/fuzz/corpus/.
MINUTES ?= 15
FUZZED := moments layer archive stats dictionary state checkpoint npy npz csv named pnm png tiff zarr
.PHONY: fuzz
fuzz: $(STAMPS)/package $(STAMPS)/extra-test $(STAMPS)/extra-fuzz $(SANITIZE)/stamp ## make random calls, and read files that nobody wrote (MINUTES=15 for the calls, and for all files)
	$(SANITIZERS) PYTHONPATH=$(SANITIZED_SITE):tests:bench $(BIN)/python tests/fuzz/calls.py --minutes $(MINUTES)
	for target in $(FUZZED); do \
	    mkdir -p build/fuzz/$$target; \
	    (cd build/fuzz && $(CURDIR)/$(BIN)/python $(CURDIR)/tests/fuzz/files.py $$target \
	        -max_total_time=$$((60 * $(MINUTES) / $(words $(FUZZED)))) -artifact_prefix=$$target- \
	        $$target $(CURDIR)/tests/fuzz/corpus/$$target) || exit 1; \
	done

.PHONY: tsan
tsan: $(STAMPS)/package $(STAMPS)/extra-test $(TSAN)/stamp ## run the tests of threads under ThreadSanitizer
	$(call with_library,tsan) PYTHONPATH=$(CURDIR)/$(TSAN)/site $(BIN)/python -m pytest --capture=sys \
	    tests/machine/test_shared.py tests/machine/test_threads.py tests/machine/test_memory.py

# Of two NaN an operation may give either, so compilers differ in that.
.PHONY: test-clang
test-clang: $(STAMPS)/package $(STAMPS)/extra-test $(STAMPS)/extra-bench $(CLANG)/stamp ## build with clang, which must be installed, test, and compare the bits with g++'s
	PYTHONPATH=$(CURDIR)/$(CLANG)/site $(BIN)/python -m pytest \
	    tests/operation tests/numerics tests/weights tests/arrays tests/moments tests/layer tests/errors tests/machine
	$(BIN)/python bench/compare.py "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" \
	    $(CLANG)/site --same-bits --any-nan

.PHONY: test-aarch64
test-aarch64: $(STAMPS)/package $(STAMPS)/extra-test ## cross-build, test under qemu in a Debian system of its own (as root), and compare the bits
	.ci/aarch64

.PHONY: clean
clean: ## remove everything that make has made, .venv too
	rm -rf .venv build dist wheelhouse docs/generated .coverage .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What stands behind the targets.

$(STAMPS)/venv:
	$(PYTHON) -m venv .venv
	$(PIP) install scikit-build-core pybind11 hatch-fancy-pypi-readme cmake ninja numpy
	mkdir -p $(@D) && touch $@

$(STAMPS)/package: $(STAMPS)/venv $(SOURCES)
	@echo 'Compiling fastbn (later only what changed): about a minute on two cores, in which pip says nothing ...'
	$(INSTALL) --config-settings=cmake.define.FASTBN_WERROR=ON .
	touch $@

# The package that is installed is asked for its extras' requirements, and not built again.
$(STAMPS)/extra-%: pyproject.toml | $(STAMPS)/package
	$(PIP) install 'fastbn[$*]'
	touch $@

# The same while the package compiles, for an extra that names no other. Python 3.10 has no tomllib, but then
# scikit-build-core brings tomli.
REQUIREMENTS = from importlib import import_module; import pathlib, sys; \
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(pathlib.Path("pyproject.toml").read_text()); \
    print(*toml["project"]["optional-dependencies"]["$*"], sep="\n")
$(STAMPS)/requirements-%: pyproject.toml | $(STAMPS)/venv
	$(BIN)/python -c '$(REQUIREMENTS)' | xargs -d '\n' $(PIP) install
	touch $@

# The version that the tests know. Newer ones bring gigabytes of CUDA from PyPI.
$(STAMPS)/torch: | $(STAMPS)/package
	$(PIP) install torch==2.13.0 expecttest 'fastbn[interop]'
	touch $@

$(DEBUG)/compile_commands.json: CMakeLists.txt tests/cpp/CMakeLists.txt | $(STAMPS)/venv
	cmake -S . -B $(DEBUG) -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_EXPORT_COMPILE_COMMANDS=ON \
	    -DBUILD_TESTING=ON -DFASTBN_WERROR=ON \
	    -DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	touch $@

# Builds of another kind, beside the one in .venv.
CHECKED = --config-settings=cmake.build-type=RelWithDebInfo --config-settings=install.strip=false \
    --config-settings=cmake.define.FASTBN_SANITIZE
$(SANITIZE)/stamp: SETTINGS = $(CHECKED)=address,undefined
$(TSAN)/stamp: SETTINGS = $(CHECKED)=thread
$(CLANG)/stamp: SETTINGS = --config-settings=cmake.define.FASTBN_WERROR=ON
$(CLANG)/stamp: export CXX = clang++
$(SANITIZE)/stamp $(TSAN)/stamp $(CLANG)/stamp: $(SOURCES) | $(STAMPS)/venv
	rm -rf $(@D)/site
	$(INSTALL) --no-deps --target $(@D)/site --config-settings=build-dir=$(@D)/cmake $(SETTINGS) .
	touch $@
