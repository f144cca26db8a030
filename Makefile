# All targets use the environment .venv. The first target that needs it creates it, with Python 3.10 or newer.

PYTHON  ?= python3
AIRFLOW ?= 3.3.2

# The group `deployments` is installed with the newest Airflow only.
GROUPS      := --group dev $(if $(filter 3.3.2,$(AIRFLOW)),--group deployments)
CONSTRAINTS := constraints/airflow-$(AIRFLOW).txt
BIN         := .venv/bin
UV          := $(BIN)/uv
# The marker names the installed Airflow, so that another AIRFLOW updates the environment.
READY       := .venv/airflow-$(AIRFLOW).ready

# The tests that may run beside others. The matrix runs between the long and the short ones.
LONG  := deployments e2e integration unit airflow
SHORT := release documentation

# The tests with time limits, which other work on the machine may disturb. Those of WAITING need little of a processor.
CROWDS  := tests/integration/test_many_processes.py
SOAK    := tests/integration/test_soak.py
WAITING := $(patsubst %,tests/integration/test_%.py,aws_faults docker_config_watch event_loop hangs registry_client)
BOUND   := $(CROWDS) $(SOAK) $(WAITING)

# Each supported Airflow with one or more Pythons. The README has the same table; tests/airflow/test_versions.py compares.
MATRIX := 2.11.2-3.10 3.0.6-3.12 3.1.8-3.11 3.2.2-3.10 3.3.2-3.13 3.3.2-3.14

# With EVERY_AIRFLOW, `make test` runs the matrix, too.
PAIRS := $(if $(EVERY_AIRFLOW),$(MATRIX))

# Run some targets at a time, print the output of each in one piece, and continue after a failure. Most tests wait often.
SIDE_BY_SIDE := $(MAKE) --no-print-directory --keep-going --jobs=4 --output-sync=target

# With this variable set, every process would compile all of Airflow again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo unit unit-half unit-other-half test test-matrix test-released test-crowds test-bound test-soak
.PHONY: test-waiting test-others test-unit test-integration
.PHONY: coverage environments format lint types docs fuzz bench dist constraints pythons clean

help: ## list these targets
	@sed -n 's/^\([a-z%-]*\):.*## /\1\t/p' Makefile | expand -t 18

demo: $(READY) ## run a real Airflow DAG against an AWS stand-in and show the AWS calls; RECORD=yes records it for the README
	$(BIN)/python -m examples.demo$(if $(RECORD),.record)

test: $(READY) ## run all checks: lint, types, docs, tests, coverage; EVERY_AIRFLOW=yes adds the matrix
	@rm -rf .coverage
	@$(MAKE) --no-print-directory --keep-going --jobs=1 lint test-crowds test-bound test-others
	@$(MAKE) --no-print-directory coverage

test-matrix: ## run the tests that depend on Airflow's version, on each Airflow; MATRIX="x.y.z-3.n ..." for others
	@status=0; $(SIDE_BY_SIDE) $(MATRIX:%=on-%) || status=$$?; cat $(MATRIX:%=.matrix/%.txt); exit $$status

test-released: $(UV) ## run a few tests on every release of Airflow, in an hour or more; RELEASES="x.y.z ..." for some
	$(BIN)/python -m tests.other_airflows $(RELEASES)

# In two halves at the same time, for two processors.
HALF := $(patsubst %,tests/unit/%,cli ui test_backend.py)
unit: $(READY) ## run the unit tests with branch coverage, in a minute: no network, no Airflow process
	@rm -rf .coverage
	@$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target unit-half unit-other-half
	@$(MAKE) --no-print-directory coverage LEAST=90

unit-half: ## run the unit tests of the commands and the backend
	@$(BIN)/coverage run -m pytest $(HALF)

unit-other-half: ## run all other unit tests
	@$(BIN)/coverage run -m pytest tests/unit $(HALF:%=--ignore=%)

coverage: ## report the branch coverage of the last tests; fail below LEAST percent
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report $(LEAST:%=--fail-under=%)

test-others: ## run the checks and tests without time limits
	@status=0; $(SIDE_BY_SIDE) types docs $(LONG:%=test-%) $(PAIRS:%=on-%) $(SHORT:%=test-%) || status=$$?; \
	cat /dev/null $(PAIRS:%=.matrix/%.txt); exit $$status

environments: $(READY) $(MATRIX:%=environment-%) ## create the environments of all tests

test-bound: $(READY) ## run the tests with time limits, except those of crowds, in two halves at the same time
	@$(SIDE_BY_SIDE) test-soak test-waiting

test-crowds: $(READY) ## run the tests of hundreds of processes, which need the whole machine
	$(BIN)/pytest $(CROWDS)

test-soak: $(READY) ## run processes that start, end and are killed while tokens expire
	$(BIN)/pytest $(SOAK)

test-waiting: $(READY) ## run the other tests with time limits
	$(BIN)/pytest $(WAITING)

test-unit: $(READY) ## run the unit tests, with coverage
	$(BIN)/coverage run -m pytest tests/unit

test-integration: $(READY) ## run the integration tests without time limits, with coverage
	$(BIN)/coverage run -m pytest tests/integration tests/benchmarks tests/test_conftest.py $(BOUND:%=--ignore=%)

test-%: $(READY) ## run the tests of one folder, such as test-e2e
	$(BIN)/pytest tests/$*

on-%: $(UV) ## run the tests of one pair of the matrix, such as on-3.0.6-3.12
	@$(BIN)/python -m tests.other_airflows $*

environment-%: $(UV) ## create the environment of one pair of the matrix
	@$(BIN)/python -m tests.other_airflows --prepare $*

format: $(READY) ## format the code, and apply ruff's fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lint: $(READY) ## run ruff, with all rules, and codespell, with the project's list of words
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

types: $(READY) ## run mypy, strict
	$(BIN)/mypy

# The variable hides the theme's announcement of another product.
docs: $(READY) ## build the documentation into site/, with warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Without a timeout, because each test tries ten thousand inputs.
fuzz: $(READY) ## run the property tests with new random inputs, for some minutes
	$(BIN)/pytest tests/unit/test_properties.py --hypothesis-profile=fuzz --timeout=0

bench: $(READY) ## compare the cost of a lookup with the alternatives, in ten minutes; RECORD=yes updates the documentation
	$(BIN)/python -m tests.benchmarks $(if $(RECORD),--record)

dist: $(READY) ## build the files of a release, and check them as PyPI does
	$(UV) build --clear --no-build-isolation --python $(BIN)/python
	$(BIN)/python -m twine check --strict dist/*

constraints: $(UV) ## pin the newest libraries; AIRFLOW=x.y.z for another Airflow, BEFORE=yyyy-mm-dd for those of a day
	echo 'apache-airflow==$(AIRFLOW)' | $(UV) pip compile pyproject.toml $(GROUPS) --constraint - --upgrade \
		--universal --python-version 3.10 --no-python-downloads $(if $(BEFORE),--exclude-newer $(BEFORE)) \
		--no-annotate --no-header --quiet --output-file $(CONSTRAINTS)

pythons: $(UV) ## download the Pythons of the matrix
	$(UV) python install 3.10 3.11 3.12 3.13 3.14

clean: ## remove the environments and all build results
	rm -rf .venv .benchmarks .coverage .matrix .hypothesis .mypy_cache .pytest_cache .ruff_cache dist site

$(READY): pyproject.toml $(CONSTRAINTS) | $(UV)
	$(UV) pip install --python $(BIN)/python --exact --editable . $(GROUPS) \
		--constraint $(CONSTRAINTS) --build-constraint $(CONSTRAINTS) --compile-bytecode
	@rm -f .venv/airflow-*.ready
	@touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
		"$(PYTHON) is older than Python 3.10. Use a newer one: make PYTHON=python3.10")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(patsubst %,--constraint %,$(wildcard $(CONSTRAINTS))) uv
