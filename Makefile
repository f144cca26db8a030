# Everything runs in an environment of its own, .venv, made by the first command that needs it from Python 3.10 or newer.

PYTHON  ?= python3
AIRFLOW ?= 3.3.2

# What tests/deployments runs Airflow on is installed with the newest Airflow alone.
GROUPS      := --group dev $(if $(filter 3.3.2,$(AIRFLOW)),--group deployments)
CONSTRAINTS := constraints/airflow-$(AIRFLOW).txt
BIN         := .venv/bin
UV          := $(BIN)/uv
# Named for the Airflow in it, so that asking for another one fits the environment to that.
READY       := .venv/airflow-$(AIRFLOW).ready

# The tests that start whole Airflows, the longest first.
AIRFLOWS := e2e deployments airflow release documentation

# The tests that are bound by time: a busy machine may disturb them.
BOUND := $(patsubst %,tests/integration/test_%.py,\
	aws_faults docker_config event_loop forks hangs many_processes registry_client rotation soak)

# The matrix: each supported Airflow on one of its Pythons, or on several. Other pairs may be named at will. The README's
# table tells the same, and tests/airflow/test_versions.py sees to that.
MATRIX := 2.11.2-3.10 3.0.6-3.12 3.1.8-3.11 3.2.2-3.10 3.3.2-3.13 3.3.2-3.14

# With EVERY_AIRFLOW, `make test` runs the matrix at the same time as what waits for most of its time.
PAIRS := $(if $(EVERY_AIRFLOW),$(MATRIX))

# Some at a time, the output of each in one piece, and all of them even if one fails.
SIDE_BY_SIDE := $(MAKE) --no-print-directory --keep-going --jobs=3 --output-sync=target

# Where this is set, every process compiles all of Airflow again: imports take three to five times as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo unit unit-half unit-other-half test test-matrix test-released test-bound test-others test-at-any-load
.PHONY: environments format lint types docs fuzz bench dist constraints pythons clean

help: ## list these targets
	@sed -n 's/^\([a-z%-]*\):.*## /\1\t/p' Makefile | expand -t 18

demo: $(READY) ## run a real Airflow DAG against a stand-in for AWS and show what it cost; RECORD=yes for the README
	$(BIN)/python -m examples.demo$(if $(RECORD),.record)

test: lint types docs ## check all there is to check: lint, types, docs, then the tests; EVERY_AIRFLOW=yes for the matrix too
	@$(MAKE) --no-print-directory --keep-going --jobs=1 test-bound test-others

test-matrix: ## the tests that Airflow's version may matter to, on each Airflow; MATRIX="x.y.z-3.n ..." for others
	@status=0; $(SIDE_BY_SIDE) $(MATRIX:%=on-%) || status=$$?; cat $(MATRIX:%=.matrix/%.txt); exit $$status

test-released: $(UV) ## a few tests on every release of Airflow, in an hour or more; RELEASES="x.y.z ..." for some
	$(BIN)/python -m tests.other_airflows $(RELEASES)

# In two halves beside each other, as there are two processors: coverage slows Python code down.
HALF := $(patsubst %,tests/unit/%,cli ui test_backend.py)
unit: $(READY) ## the quick tests, with branch coverage, in a minute: no network, no Airflow process
	@rm -rf .coverage
	@$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target unit-half unit-other-half
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

unit-half: ## of the quick tests, those of the commands and the backend
	@$(BIN)/coverage run -m pytest $(HALF)

unit-other-half: ## of the quick tests, all others
	@$(BIN)/coverage run -m pytest tests/unit $(HALF:%=--ignore=%)

test-others: ## of the tests, those that are not bound by time
	@status=0; $(SIDE_BY_SIDE) $(AIRFLOWS:%=test-%) test-at-any-load $(PAIRS:%=on-%) || status=$$?; \
	cat /dev/null $(PAIRS:%=.matrix/%.txt); exit $$status

environments: $(READY) $(MATRIX:%=environment-%) ## make the environments of all tests

test-bound: $(READY) ## of the tests, those that are bound by time, one after another
	$(BIN)/pytest $(BOUND)

test-at-any-load: $(READY) ## of the tests, those that are not bound by time and start no whole Airflow
	$(BIN)/pytest $(AIRFLOWS:%=--ignore=tests/%) $(BOUND:%=--ignore=%)

test-%: $(READY) ## the tests of one folder, such as test-e2e
	$(BIN)/pytest tests/$*

on-%: $(UV) ## the tests of one pair of the matrix, such as on-3.0.6-3.12
	@$(BIN)/python -m tests.other_airflows $*

environment-%: $(UV) ## make the environment of one pair of the matrix
	@$(BIN)/python -m tests.other_airflows --prepare $*

format: $(READY) ## put the format right, and what else ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lint: $(READY) ## ruff: all rules, and the format; codespell: the spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

types: $(READY) ## mypy, strict
	$(BIN)/mypy

# The variable silences the theme's announcement of its successor, which says nothing about these pages.
docs: $(READY) ## build the documentation into site/, warnings being errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# No timeout: it bounds a test of a hundred inputs, and these try ten thousand each.
fuzz: $(READY) ## try some minutes' worth of input that nobody has thought of, other input every time
	$(BIN)/pytest tests/unit/test_properties.py --hypothesis-profile=fuzz --timeout=0

bench: $(READY) ## measure what a lookup costs against what else there is, in ten minutes; RECORD=yes for the documentation
	$(BIN)/python -m tests.benchmarks $(if $(RECORD),--record)

dist: $(READY) ## build what a release publishes, and have it checked as PyPI will
	$(UV) build --clear --no-build-isolation --python $(BIN)/python
	$(BIN)/python -m twine check --strict dist/*

constraints: $(UV) ## pin the newest libraries that fit; AIRFLOW=x.y.z for another one, BEFORE=yyyy-mm-dd for its day
	echo 'apache-airflow==$(AIRFLOW)' | $(UV) pip compile pyproject.toml $(GROUPS) --constraint - --upgrade \
		--universal --python-version 3.10 --no-python-downloads $(if $(BEFORE),--exclude-newer $(BEFORE)) \
		--no-annotate --no-header --quiet --output-file $(CONSTRAINTS)

pythons: $(UV) ## let uv fetch the Pythons of the matrix
	$(UV) python install 3.10 3.11 3.12 3.13 3.14

clean: ## remove the environment and everything that was built
	rm -rf .venv .benchmarks .coverage .matrix .hypothesis .mypy_cache .pytest_cache .ruff_cache dist site

$(READY): pyproject.toml $(CONSTRAINTS) | $(UV)
	$(UV) pip install --python $(BIN)/python --exact --editable . $(GROUPS) \
		--constraint $(CONSTRAINTS) --build-constraint $(CONSTRAINTS) --compile-bytecode
	@rm -f .venv/airflow-*.ready
	@touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
		"$(PYTHON) is older than Python 3.10. Name a newer one: make PYTHON=python3.10")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(patsubst %,--constraint %,$(wildcard $(CONSTRAINTS))) uv
