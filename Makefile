# `make` alone prints the targets. Everything lives in .venv/; nothing else of the machine is touched.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
RUN ?=
# Several processes of tests: half the time on two cores. One test alone is quicker without: $(BIN)/python -m pytest path.
TESTS := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
PIP := PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
# Turns pip's lines into one that counts; what goes wrong is on stderr.
COUNT := { all=$$(grep -c == requirements.lock); n=0; while read -r word _; do case $$word in \
  Collecting|Requirement|Ignoring) n=$$((n + 1)); printf '\r    %d of %d' $$n $$all;; \
  Installing) printf '\n    unpacking';; esac; done; echo; }

# Some machines keep Python from writing bytecode: each start of a kernel would compile all of it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup run test fast lint bench soak lock reference

help: ## Print the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install everything into .venv/ (done once; quick when nothing changed)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) -V 2>&1); say PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "==> 1/3 virtual environment $(VENV)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "==> 2/3 libraries, as locked (a minute or two the first time)"
	@$(PIP) --require-hashes -r requirements.lock | $(COUNT)
	@echo "==> 3/3 this checkout"
	@$(PIP) --quiet --no-deps --no-build-isolation -e .
	@touch $@

run: setup ## Start a kernel in .pk/ and print where it is
	$(BIN)/pk up $(RUN)

test: setup ## Run every test but the long ones
	@echo "==> servers and tools of the tests: built once, some minutes, where there is Go"
	@for name in minio grpcurl promtool; do sh tests/tools/go.sh $$name >/dev/null || true; done  # who needs one says what is wrong
	$(TESTS)

fast: setup ## Run the tests that need no kernel
	$(TESTS) tests/host tests/plugin_api tests/core_plugins tests/tidy

lint: setup ## Check style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup ## Print ratios against references (ONLY=name for one figure)
	$(BIN)/python tests/bench/run.py $(ONLY)

soak: setup ## Run the long counts of kills, races and swaps
	@sh tests/tools/go.sh minio >/dev/null && sh tests/tools/go.sh versitygw >/dev/null || true
	PK_SOAK=1 $(BIN)/python -m pytest -m "soak or not soak" tests/conformance tests/core_plugins/eventbus tests/journeys tests/wall tests/plugins

lock: setup ## Resolve the dependencies anew into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra embedded --extra test -o requirements.lock pyproject.toml

reference: setup ## Write the generated pages of docs/reference
	cd tools && ../$(BIN)/python reference.py && ../$(BIN)/python notices.py
