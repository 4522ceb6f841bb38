# make run and make test are all a fresh machine needs: both create the environment first.
PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cuda
EXTRAS_cuda := dev,gpu
EXTRAS_cpu := dev,trl
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What `make check` leaves to `make test`: marked tests, and files whose tests start processes or do whole runs.
QUICK := not slow and not asset and not gpu and not browser
WHOLE := tests/cli/* tests/core/training/parallel/* tests/core/trial/* tests/core/storage/* *_run.py *test_launchers.py *test_tracking.py *test_token_pruning_prior.py *peer.py

.DEFAULT_GOAL := help
.PHONY: help setup run test check kills gpu lint bench docs clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: $(READY)  ## create the environment in .venv and install everything

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Steelyard needs Python 3.11 or newer: make run PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'torch>=2.10,<2.14'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

run: $(READY)  ## PRIOR against next-token prediction and a control on real digit scans, with a verdict
	$(BIN)/steelyard trial prior --arms prior,ntp,random --seeds 3

test: $(READY)  ## all tests, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)  ## the fast loop: style, types, tests without end-to-end runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile -x -m '$(QUICK)' $(WHOLE:%=--ignore-glob='%')

kills: $(READY)  ## kill trials at fifty random moments (half an hour); `make test` has three
	STEELYARD_TEST_KILLS=50 $(BIN)/python -m pytest -s tests/cli/test_trial_faults.py -k random_moments

gpu: $(READY)  ## on one GPU, eight minutes: all it can break, and the speed beside others; DEVICE=cpu rehearses it
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS_$(DEVICE))]'
	$(BIN)/python -m benchmarks.gpu --device $(DEVICE)

lint: $(READY)  ## style, types and directions of import
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## speed and memory, written to benchmarks/results
	$(BIN)/python -m benchmarks

docs: $(READY)  ## write the measured numbers on all pages, from docs/results
	$(BIN)/python -m recipes.core.pages

clean:  ## remove the environment; runs and caches stay
	rm -rf $(VENV)
