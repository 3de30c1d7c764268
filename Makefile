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
LINTERS := $(VENV)/linters
BROWSER := $(VENV)/browser
CLIENTS ?= $(VENV)/clients
SCHEMATHESIS ?= $(VENV)/schemathesis
QUANT ?= $(VENV)/quant
ARGS  ?=

# Where torch's CPU wheels come from on Linux without an NVIDIA GPU (the registry's own wheel
# brings gigabytes of CUDA). Asked only if it answers; set empty to use pip's configuration alone.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help setup serve test check check-deploy check-prometheus ray-test observability-test playground-test quant-test kernels-test clients conformance fuzz soak overload \
  dashboards format bench gpu \
  demo-gates clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

DEPLOY_TESTS := $(patsubst %,tests/deploy/test_%.py,dockerfile compose kubernetes kubernetes_schemas)

check-deploy: $(STAMP) $(LINTERS)/.made ## the container image, the compose file and the manifests through their linters
	@PATH="$(CURDIR)/$(LINTERS)/bin:$$PATH" $(BIN)/python -m pytest $(DEPLOY_TESTS) $(ARGS)

$(LINTERS)/.made: tests/deploy/linters.txt | $(STAMP)
	@$(BIN)/python -m venv --clear $(LINTERS)
	@$(LINTERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

check-prometheus: $(STAMP) ## rules, alerts and routing, replayed (needs Debian's prometheus and prometheus-alertmanager)
	@for program in promtool amtool prometheus-alertmanager; do command -v $$program >/dev/null || { \
	  echo "make check-prometheus: no $$program (apt install prometheus prometheus-alertmanager)" >&2; exit 2; }; done
	@$(BIN)/python -m pytest tests/prometheus -m "promtool or not promtool" $(ARGS)

ray-test: $(STAMP) ## two replicas under Ray Serve: load, affinity, one killed (needs '.[ray]')
	@$(BIN)/python -m pytest tests/ray -m ray --log-cli-level=INFO $(ARGS)

observability-test: $(STAMP) ## rules, alerts and dashboards under a real Prometheus and Alertmanager (some six minutes)
	@$(BIN)/python -m pytest tests/observability -m observability $(ARGS)

playground-test: $(STAMP) $(BROWSER)/.made ## the page at / driven in headless Chromium (CHROMIUM= names one)
	@PYTHONPATH="$(BROWSER)" $(BIN)/python -m pytest tests/playground -m playground $(ARGS)

$(BROWSER)/.made: tests/playground/browser.txt | $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
	  --target $(BROWSER) --requirement $<
	@touch $@

quant-test: $(STAMP) $(QUANT)/.made ## weights rounded by torchao and bitsandbytes, at load and in checkpoints
	@PYTHONPATH="$(QUANT)" $(BIN)/python -m pytest tests/models/test_quantized.py $(ARGS)

$(QUANT)/.made: tests/models/quantized.txt | $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
	  --target $(QUANT) --requirement $<
	@touch $@

kernels-test: $(STAMP) ## the CPU kernels as compiled for older processors than this one (needs g++)
	@for level in x86-64 x86-64-v3; do \
	  DYVTE_KERNELS_LEVEL=$$level $(BIN)/python -m pytest tests/kernels/test_ops.py \
	    tests/kernels/test_vision.py tests/kernels/test_layer.py $(ARGS) || exit 1; done

clients: $(STAMP) ## other people's clients against the demo model, told in docs/clients.md (needs node)
	@command -v npm >/dev/null || { echo "make clients: no npm (install Node.js)" >&2; exit 2; }
	@$(BIN)/python -m tests.conformance.clients.run --environments "$(CLIENTS)" \
	  --table docs/clients.md $(ARGS)

conformance: $(STAMP) $(SCHEMATHESIS)/.made ## schemathesis with our description and OpenAI's (SECONDS=600 each)
	@$(BIN)/python -m tests.conformance.descriptions --schemathesis "$(SCHEMATHESIS)/bin/st" \
	  --seconds $(or $(SECONDS),600) $(ARGS)

$(SCHEMATHESIS)/.made: tests/conformance/schemathesis.txt | $(STAMP)
	@$(BIN)/python -m venv --clear $(SCHEMATHESIS)
	@$(SCHEMATHESIS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

fuzz: $(STAMP) ## 50,000 mutated pictures and as many request bodies (ARGS="--count 1000 --seed 3")
	@$(BIN)/python -m tests.conformance.fuzz $(ARGS)

soak: $(STAMP) ## mixed hostile load at saturation, and what is held before and after (MINUTES=30)
	@$(BIN)/python -m tests.conformance.soak --minutes $(or $(MINUTES),30) $(ARGS)

overload: $(STAMP) ## five times more requests than the demo model can answer
	@$(BIN)/python -m tests.conformance.overload $(ARGS)

dashboards: $(STAMP) ## write deploy/grafana/dashboards from the code beside them
	@$(BIN)/python -m deploy.grafana.build

format: $(STAMP) ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## time and memory of an exit beside its FLOPs (ARGS= for benchmarks/exits.py)
	@exec $(BIN)/python -m benchmarks.exits $(ARGS)

gpu: $(STAMP) ## the tests that need an NVIDIA GPU, then a 7B model's prefill and decode beside the GPU's limits (minutes)
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make gpu: this torch sees no CUDA device")'
	@$(BIN)/python -m pytest tests/test_attention.py tests/engine/test_decode_graphs.py tests/engine/test_on_cuda.py
	@exec $(BIN)/python -m benchmarks.gpu --out runs/gpu $(ARGS)

# The demo model's gates by the public commands alone: draw data, collect, train, calibrate,
# evaluate. Goes on where it stopped; a stamp stands for a finished step. INSTALL=1 puts the gates
# beside the shipped model. Collecting and evaluating run in float32, so that a batch does not
# decide an exit.
RUN        ?= runs/demo-gates
DEMO_MODEL ?= demo
DEMO_SIZES ?= gates=8000 calibration=7000 test=2000
# Questions to a picture's chat, in turn: conversations are trained on and calibrated apart.
DEMO_TURNS ?= gates=1,1,1,2 calibration=1,1,2 test=1
DEMO_EXITS ?= gate:safe,balanced,aggressive \
  gate:0.0003,0.001,0.003,0.006,0.01,0.02,0.03,0.05,0.08,0.12,0.2,0.35,0.65,1 \
  state:0.003,0.007,0.012,0.02,0.05,0.12 vtw fixed:2-9 \
  fastv:2/0.5,3/0.5,3/0.75,3/0.9,4/0.75 \
  pyramiddrop pyramiddrop:3=0.25/6=0.5,2=0.5/4=0.25 dart:3/0.75 v2drop divprune:0.5 \
  gate:safe,balanced,0.01+fastv:3/0.5,3/0.75
# Below layer 2 an unchanged answer is luck: no question has read the picture yet.
TRAIN_ARGS ?= --min-layer 2
# The demo is right in 97 of 100 cases, so nearly every changed answer is a lost one.
CALIBRATE_ARGS ?= --safe 0.0025 --balanced 0.005
INSTALL    ?=
.SECONDARY:

demo-gates: $(RUN)/evaluation/results.json ## the demo model's gates, remade and measured (INSTALL=1)
	@cat $(RUN)/evaluation/table.md
	@if [ -n "$(INSTALL)" ]; then rm -rf dyvte/demo/assets/gates; \
	  mkdir dyvte/demo/assets/gates; cp $(RUN)/gates/gates.* dyvte/demo/assets/gates/; \
	  echo "installed in dyvte/demo/assets/gates"; fi

$(RUN)/data/%.jsonl: | $(STAMP)
	$(BIN)/dyvte demo render --split $* --out $(RUN)/data \
	  --count $(patsubst $*=%,%,$(filter $*=%,$(DEMO_SIZES))) \
	  --turns $(patsubst $*=%,%,$(filter $*=%,$(DEMO_TURNS)))

$(RUN)/collected/%.done: $(RUN)/data/%.jsonl
	$(BIN)/dyvte collect --model $(DEMO_MODEL) --data $< --out $(RUN)/collected/$* \
	  --labels both --dtype float32
	@touch $@

$(RUN)/gates/trained: $(RUN)/collected/gates.done
	$(BIN)/dyvte train --data $(RUN)/collected/gates --out $(RUN)/gates $(TRAIN_ARGS)
	@touch $@

$(RUN)/gates/calibrated: $(RUN)/gates/trained $(RUN)/collected/calibration.done
	$(BIN)/dyvte calibrate --data $(RUN)/collected/calibration --gates $(RUN)/gates $(CALIBRATE_ARGS)
	@touch $@

$(RUN)/evaluation/results.json: $(RUN)/gates/calibrated $(RUN)/data/test.jsonl
	$(BIN)/dyvte evaluate --model $(DEMO_MODEL) --gates $(RUN)/gates --data $(RUN)/data/test.jsonl \
	  --out $(RUN)/evaluation --dtype float32 --policies $(DEMO_EXITS)

clean: ## remove .venv, caches and build outputs
	rm -rf $(VENV) build dist *.egg-info dyvte/kernels/lib .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
