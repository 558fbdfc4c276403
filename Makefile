# `make` lists the targets. `make demo` and `make test` each work as the first command on a fresh machine with
# Python 3.11 or newer, pip and make: they create .venv, install into it, and run. A second call installs nothing.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test quick test-docs bench docs format clean

PYTHON ?=
ARGS ?=
ENGINE ?=
BIN := .venv/bin
# One more than there are cores, as some tests wait for servers and processes.
WORKERS := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# By default OpenMP's threads spin while they wait, which on a shared machine takes cores from other processes.
export OMP_WAIT_POLICY := passive
# Without bytecode files, each process compiles torch's sources again, which takes 2 s.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/$(or $(filter ray,$(ENGINE)),demo)-installed ## Set up, then build small datasets, train on them and evaluate, offline, in about three minutes
	$(BIN)/mvsent demo $(ENGINE:%=--engine %) $(ARGS)

test: .venv/test-installed ## Set up, then run every check: style, types, import layers, the whole test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) $(ARGS)

quick: .venv/test-installed ## Run the tests that take less than about half a second each
	$(PYTEST) -m "not slow" $(ARGS)

test-docs: .venv/test-installed ## Run every command on every page of the documentation, ten minutes
	MVSENT_ALL_DOCS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/test_docs_commands.py $(ARGS)

bench: .venv/bench-installed ## Measure the speed goals and print one table of ratios
	$(BIN)/python -m benchmarks $(ARGS)

docs: .venv/docs-installed ## Build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build $(ARGS)

format: .venv/test-installed ## Format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv, caches and build output; keep data, runs and demo
	rm -rf .venv site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# The extras that each target installs; see [project.optional-dependencies] in pyproject.toml.
.venv/demo-installed: EXTRAS := offline
.venv/ray-installed: EXTRAS := offline,ray
.venv/test-installed: EXTRAS := offline,transformers,lexicons,tensorboard,dev
.venv/bench-installed: EXTRAS := offline,bench
.venv/docs-installed: EXTRAS := docs

# pip's output goes to .venv/install.log; large downloads are shown as they begin.
.venv/%-installed: pyproject.toml | $(BIN)/python
	@echo "Installing mvsent[$(EXTRAS)] into .venv: once, some minutes (torch is large). Log: .venv/install.log"
	@$(BIN)/python -m pip install --no-compile --editable '.[$(EXTRAS)]' 2>&1 | tee .venv/install.log \
		| awk '/Downloading .*[MG]B\)/ {print "  " $$1, $$2, $$3, $$4; fflush()} /^Installing/ {print "  Unpacking …"; fflush()}' \
		|| { tail -n 15 .venv/install.log; echo "The installation failed: the lines above say why. Then: make $(MAKECMDGOALS)$(ENGINE:%= ENGINE=%)"; exit 1; }
	@touch $@

# Some distributions ship Python without ensurepip; the environment then gets pip from that Python's pip.
$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; python=; \
	done; \
	if [ -z "$$python" ]; then echo "mvsent needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 …"; exit 1; fi; \
	echo "Creating .venv with $$($$python --version)"; \
	"$$python" -m venv .venv 2>/dev/null || \
		{ "$$python" -m venv --clear --without-pip .venv && "$$python" -m pip --python .venv/bin/python install -q pip; }
