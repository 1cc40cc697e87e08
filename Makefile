# Every target works by itself on a machine with Python 3.11+ and a package index. `make PYTHON=python3.12 test` chooses another Python.

VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
CANDIDATES := python3 python3.13 python3.12 python3.11 python
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c '$(USABLE)' >/dev/null 2>&1 && echo $$p && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow partners browser-runtime digits mutants campaign lint docs bench clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1: \2/p' Makefile

demo: $(VENV)/.installed ## learn classes from a few bundled photos, segment others, write demo/report.html
	$(BIN)/rifenet demo --out demo

test: $(VENV)/.installed-dev ## the tests, without the slow ones; those of the page need Chromium, which Debian installs
	-@scripts/get_browser.sh
	-@scripts/get_browser_runtime.sh
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: $(VENV)/.installed-dev partners ## the slow tests, and those of the partners
	$(BIN)/python -m pytest -m slow

# Programs and libraries that rifenet works with and that are too large for the environment of `make test`. Each has an
# extra of its name, an environment of its own, and its tests in tests/partners/test_NAME.py; what only the tests need is in
# tests/partners/NAME.txt.
PARTNERS := cvat fiftyone geo napari ray
partners: $(addprefix partner-,$(PARTNERS)) ## the tests with other programs, each in an environment of its own
partner-%: $(VENV)-%/.installed
	-@test $* != napari || scripts/get_display.sh
	RIFENET_PARTNER=$* $(VENV)-$*/$(notdir $(BIN))/python -m pytest tests/partners/test_$*.py

# The tests whose figures come from sums, as processors with fewer instructions and other threads compute them.
SUMS := tests/data tests/engines tests/evaluation tests/export tests/models tests/segmenting tests/training tests/test_metrics.py
digits: $(VENV)/.installed-dev ## the tests of everything that computes, under three sets of instructions, and with two threads
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(SUMS)
	ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(SUMS)
	OMP_NUM_THREADS=2 RIFENET_TEST_THREADS=2 $(BIN)/python -m pytest -m "not slow" $(SUMS)
	PYTHONPATH=tests $(BIN)/python -m campaigns.digits --out $(RECORDS)/digits.json

mutants: $(VENV)/.installed-mutants ## small changes of the source, which the tests should notice; an hour or more
	$(BIN)/python scripts/mutants.py --out docs/results/mutants.json

RECORDS ?= docs/results/campaigns
campaign: $(VENV)/.installed-dev ## attacks on the whole program: killed runs, damaged files, bad disks, a crowd; two hours
	PYTHONPATH=tests $(BIN)/python -m campaigns.files --out $(RECORDS)/files.json
	PYTHONPATH=tests $(BIN)/python -m campaigns.kills --out $(RECORDS)/kills.json
	PYTHONPATH=tests $(BIN)/python -m campaigns.disk --out $(RECORDS)/disk.json
	PYTHONPATH=tests $(BIN)/python -m campaigns.crowd --out $(RECORDS)/crowd.json

lint: $(VENV)/.installed-dev ## style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

browser-runtime: ## ONNX Runtime Web into build/onnxruntime-web, for rifenet serve --in-browser; needs npm
	scripts/get_browser_runtime.sh build/onnxruntime-web

docs: $(VENV)/.installed-docs ## the documentation as a site, written to site/index.html; links checked, nothing fetched
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict
	$(BIN)/python scripts/check_site.py site

bench: $(VENV)/.installed ## times and memory on this machine, written to bench.json
	$(BIN)/rifenet bench --out bench.json

clean: ## remove caches and built files, keep .venv
	rm -rf dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Expected Python 3.11 or newer with venv, but found none of: $(CANDIDATES). Install one or name it: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Order-only: the interpreter's own time stamp says nothing about what is installed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[serve]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[serve,docs]"
	touch $(VENV)/.installed $@

$(VENV)/.installed-mutants: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]" mutmut==3.8.1
	touch $(VENV)/.installed $(VENV)/.installed-dev $@

# FiftyOne wants older releases of some packages than those pinned, and parts of it are built by an older setuptools.
$(VENV)-fiftyone/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Expected Python 3.11 or newer with venv, but found none of: $(CANDIDATES)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)-fiftyone
	{ grep '^torch==' constraints.txt; echo 'setuptools<81'; echo 'fiftyone-db==0.4.5'; } > $(VENV)-fiftyone/constraints.txt
	PIP_CONSTRAINT=$(abspath $(VENV)-fiftyone)/constraints.txt $(VENV)-fiftyone/bin/python -m pip install -q -e ".[fiftyone]" pytest pytest-xdist
	scripts/get_mongod.sh $(VENV)-fiftyone/bin/python
	touch $@

$(foreach name,$(filter-out fiftyone,$(PARTNERS)),$(VENV)-$(name)/.installed): $(VENV)-%/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Expected Python 3.11 or newer with venv, but found none of: $(CANDIDATES)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/$(notdir $(BIN))/python -m pip install -q -c constraints.txt -e ".[$*]" pytest pytest-xdist $(addprefix -r ,$(wildcard tests/partners/$*.txt))
	touch $@
