# Everything runs in .venv, which `setup` makes from pyproject.toml and constraints.txt.
#
#   make serve                          the server with the embedded demo model
#   make serve MODEL=DIR PORT=9000      another model, another port
#   make serve ARGS="--api-key secret"  any further flag of `dyvte serve`

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.made
ARGS  ?=

# Where torch's CPU wheels come from on Linux without an NVIDIA GPU (the registry's own wheel
# brings gigabytes of CUDA). Asked only if it answers; set empty to use pip's configuration alone.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help setup serve test check format bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything in it, once

$(STAMP): pyproject.toml constraints.txt
	@python=""; for candidate in $${PYTHON:-python3 python3.11 python3.12 python3.13}; do \
	  if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "make setup: no Python 3.11 or newer found (install one, or name it: make setup PYTHON=…)" >&2; exit 2; fi; \
	echo "making $(VENV) (once, some minutes)"; \
	[ -x $(BIN)/pip ] || "$$python" -m venv $(VENV); \
	index=""; \
	if [ -n "$(TORCH_CPU_INDEX)" ] && [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null \
	  && $(BIN)/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/torch/", timeout=5)' \
	     "$(TORCH_CPU_INDEX)" 2>/dev/null; \
	then index="--extra-index-url $(TORCH_CPU_INDEX)"; fi; \
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $$index \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

serve: $(STAMP) ## run the server (PORT=, MODEL=, ARGS= pass through)
	@exec $(BIN)/dyvte serve $(if $(MODEL),--model $(MODEL)) $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(STAMP) ## run the tests (ARGS= for pytest)
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP) ## the whole gate: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(ARGS)

format: $(STAMP) ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## time and memory of an exit beside its FLOPs (ARGS= for benchmarks/exits.py)
	@exec $(BIN)/python -m benchmarks.exits $(ARGS)

clean: ## remove .venv, caches and build outputs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
