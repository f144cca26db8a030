# Everything runs in an environment of its own, .venv, made by the first command that needs it from Python 3.10 or newer.

PYTHON  ?= python3
AIRFLOW ?= 3.3.2

CONSTRAINTS := constraints/airflow-$(AIRFLOW).txt
BIN         := .venv/bin
UV          := $(BIN)/uv
# Named for the Airflow in it, so that asking for another one fits the environment to that.
READY       := .venv/airflow-$(AIRFLOW).ready

# Where this is set, every process compiles all of Airflow again: imports take three to five times as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint types docs bench constraints clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: $(READY) ## run a real Airflow DAG against a stand-in for AWS and show what it cost
	$(BIN)/python -m examples.demo

test: lint types docs ## check all there is to check: lint, types, docs, then the tests
	$(BIN)/pytest

lint: $(READY) ## ruff: all rules, and the format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY) ## mypy, strict
	$(BIN)/mypy

# The variable silences the theme's announcement of its successor, which says nothing about these pages.
docs: $(READY) ## build the documentation into site/, warnings being errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY) ## measure what a lookup costs, as ratios taken in one run
	$(BIN)/python -m tests.benchmarks

constraints: $(UV) ## pin the newest libraries that fit; AIRFLOW=x.y.z for another one, BEFORE=yyyy-mm-dd for its day
	echo 'apache-airflow==$(AIRFLOW)' | $(UV) pip compile pyproject.toml --group dev --constraint - --upgrade \
		--universal --python-version 3.10 --no-python-downloads $(if $(BEFORE),--exclude-newer $(BEFORE)) \
		--no-annotate --no-header --quiet --output-file $(CONSTRAINTS)

clean: ## remove the environment and everything that was built
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache dist site

$(READY): pyproject.toml $(CONSTRAINTS) | $(UV)
	$(UV) pip install --python $(BIN)/python --exact --editable . --group dev \
		--constraint $(CONSTRAINTS) --build-constraint $(CONSTRAINTS) --compile-bytecode
	@rm -f .venv/airflow-*.ready
	@touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
		"$(PYTHON) is older than Python 3.10. Name a newer one: make PYTHON=python3.10")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(patsubst %,--constraint %,$(wildcard $(CONSTRAINTS))) uv
