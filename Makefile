# make demo    MovieLens 100K -> xLSTM -> metrics -> ten recommendations
# make test    everything: linters, types, import contracts, tests
# make check   the fast part of it
# make nightly   the longest tests and 10,000 cases of messy logs per property: 20 minutes, then all mutants: two hours
# make mutation   the share of small code changes that the tests notice, from a random sample: 20 minutes
# make bench   compare speed, memory and time to equal accuracy with RecTools and RecBole: 45 minutes
# make crosscheck   compare the xLSTM cells with the packages xlstm and mlstm_kernels
# make docs    build the documentation, including the reference, in site/
# Each target installs what it needs on first use.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help demo test check nightly mutation bench crosscheck docs clean

VENV ?= .venv
BIN := $(VENV)/bin
CROSSCHECK ?= .venv-crosscheck
# the first Python that is new enough
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# without compiling all modules, of which most are never imported
INSTALL := -m pip install --quiet --no-compile -c constraints.txt $(TORCH)

# use a folder of dataset archives next to the repository, if there is one
ifneq ($(wildcard ../shared/data/.),)
export SEGUE_ARCHIVES ?= $(abspath ../shared/data)
endif

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/.ready-demo
	@data=ml-100k user=1; $(BIN)/segue data prepare $$data >/dev/null || { \
		[ $$? -ne 130 ] || exit 130; data=simulated user=u0001; \
		echo "MovieLens 100K was not found and could not be downloaded; using the built-in SIMULATED catalog instead."; }; \
	set -x; $(BIN)/segue train xlstm --data $$data --test && $(BIN)/segue recommend latest --user $$user -k 10

# mypy uses one core; the first compilation runs beside it
test:
	$(MAKE) -j 2 check $(VENV)/.compiled
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

nightly: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m nightly -n logical --maxprocesses 8
	SEGUE_MESSY_LOGS=10000 $(BIN)/pytest tests/properties/test_messy_logs.py tests/properties/test_damaged_logs.py --timeout 3600
	$(BIN)/python -m benchmarks mutation --sample 0

mutation: $(VENV)/.ready-dev
	$(BIN)/python -m benchmarks mutation

bench: $(VENV)/.ready-dev
	$(BIN)/python -m benchmarks

crosscheck: $(CROSSCHECK)/.ready
	$(CROSSCHECK)/bin/pytest tests/crosscheck

docs: $(VENV)/.ready-docs
	$(BIN)/python docs/reference.py
	$(BIN)/mkdocs build --strict

# an environment whose creation was interrupted has no pip; create it again
define environment
[ -n "$(PYTHON)" ] || { echo "Segue needs Python 3.11 or newer; none was found." >&2; exit 1; }
$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(1)
endef

$(VENV)/.ready-demo: pyproject.toml constraints.txt
	@echo "Installing Segue into $(VENV); the first time takes some minutes."
	@$(call environment,$(VENV))
	$(BIN)/python $(INSTALL) -e '.[track,plots,serve,onnx]'
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt
	@echo "Installing Segue and its development tools into $(VENV); the first time takes some minutes."
	@$(call environment,$(VENV))
	$(BIN)/python $(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.ready-demo

# collecting the tests compiles them and the loops of numba; otherwise each of the parallel workers compiles all of them
$(VENV)/.compiled: $(VENV)/.ready-dev
	@$(BIN)/pytest --collect-only -qq >/dev/null 2>&1 || true  # make test reports errors
	@touch $@

$(VENV)/.ready-docs: pyproject.toml constraints.txt
	@$(call environment,$(VENV))
	$(BIN)/python $(INSTALL) -e '.[docs]'
	@touch $@

$(CROSSCHECK)/.ready: pyproject.toml constraints.txt
	@echo "Installing Segue with xlstm and mlstm_kernels into $(CROSSCHECK); the first time takes some minutes."
	@$(call environment,$(CROSSCHECK))
	$(CROSSCHECK)/bin/python $(INSTALL) xlstm mlstm_kernels matplotlib pytest pytest-timeout hypothesis -e .
	@touch $@

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
