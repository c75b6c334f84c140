# hybridflow: one Makefile for people and for continuous integration. `make help` lists the targets.
# PYTHON chooses the interpreter (3.11 or newer) that the virtual environment is made with.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCHMARKS := $(filter-out benchmarks/common.py,$(wildcard benchmarks/*.py))
READY := $(VENV)/.ready
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help setup demo slurm test lint format bench docs plugin constraints clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

setup: $(READY) ## Make the virtual environment .venv and install everything into it

$(READY): pyproject.toml constraints.txt tools/make-venv
	@tools/make-venv "$(PYTHON)" "$(VENV)"
	@touch $@

demo: $(READY) ## Run the main job: SQD of stretched water through Parsl, on this machine
	@echo "==> hybridflow run sqd --site configs/laptop.toml --control"
	@$(BIN)/hybridflow run sqd --site configs/laptop.toml --control

slurm: ## Install Slurm for the tests on a local cluster (Debian, as root; else say what is missing)
	@tools/install-slurm

test: slurm lint ## Check style, types and import rules, then run all tests
	@echo "==> pytest"
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile $(PYTEST_ARGS)

lint: $(READY) ## Check style (ruff), types (mypy) and import rules (import-linter)
	@echo "==> ruff, mypy, import-linter"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

plugin: $(READY) ## Compile the Slurm plugin into build/plugin (needs gcc and libslurm-dev)
	@$(BIN)/python -m hybridflow.slurm.spank build/plugin

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(READY) ## Run every script in benchmarks/ (takes about forty minutes on two idle cores)
	@broken=; for script in $(BENCHMARKS); do \
		echo "==> $$script"; $(BIN)/python $$script || broken="$$broken $$script"; \
	done; test -z "$$broken" || { echo "broken:$$broken"; exit 1; }

docs: $(READY) ## Build the documentation into build/docs
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@$(BIN)/sphinx-build -W --keep-going -b html docs build/docs
	@echo "==> build/docs/index.html"

constraints: $(READY) ## Write constraints.txt anew from what is installed in .venv
	@tools/write-constraints "$(VENV)"

clean: ## Remove the virtual environment and everything that was built or cached
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
