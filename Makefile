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
	attackers aws_faults cache_faults docker_config event_loop forks hangs many_processes registry_client rotation soak)

# The matrix: each supported Airflow on one of its Pythons, in an environment of its own, such as .matrix/3.0.6-3.12.
# Other pairs may be named at will. The README's table tells the same, and tests/airflow/test_versions.py sees to that.
MATRIX       := 2.11.2-3.10 3.0.6-3.12 3.1.8-3.11 3.2.2-3.10 3.3.2-3.13
MATRIX_TESTS := tests/unit $(patsubst %,tests/integration/test_%.py,backend commands identities mint)
# Where the Python of a pair is not found: any that each of the Airflows supports.
ANY_PYTHON   := >=3.10,<3.13

# Where this is set, every process compiles all of Airflow again: imports take three to five times as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-matrix test-bound test-at-any-load $(AIRFLOWS:%=test-%) environments
.PHONY: lint types docs fuzz bench dist constraints clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: $(READY) ## run a real Airflow DAG against a stand-in for AWS and show what it cost; RECORD=yes for the README
	$(BIN)/python -m examples.demo$(if $(RECORD),.record)

# First, alone, the tests that are bound by time. Then all others, some at a time: each one's output in one piece, and all
# of them even if one fails.
FIRST  := test-bound
SECOND  = $(AIRFLOWS:%=test-%) test-at-any-load $(PAIRS:%=.matrix/%/tests) $(PAIRS:%=.matrix/%/airflow)
PAIRS   = $(if $(EVERY_AIRFLOW),$(MATRIX))
define RUN
@status=0; $(if $(FIRST),$(MAKE) --no-print-directory $(FIRST) || status=$$?;) \
$(MAKE) --no-print-directory --keep-going --jobs=3 --output-sync=target $(SECOND) || status=$$?; \
for pair in $(PAIRS); do \
	for part in tests airflow; do \
		printf 'Airflow %-6s on %-13s %-7s ' "$${pair%-*}" "$$(.matrix/$$pair/bin/python --version)" $$part; \
		tail -n 1 .matrix/$$pair/$$part.log || status=1; \
	done; \
done; exit $$status
endef

test: lint types docs ## check all there is to check: lint, types, docs, then the tests; EVERY_AIRFLOW=yes for the matrix too
	$(RUN)

test-matrix: FIRST  :=
test-matrix: SECOND  = $(PAIRS:%=.matrix/%/tests) $(PAIRS:%=.matrix/%/airflow)
test-matrix: PAIRS   = $(MATRIX)
test-matrix: $(UV) ## the tests that Airflow's version may matter to, on each Airflow; MATRIX="x.y.z-3.n ..." for others
	$(RUN)

environments: $(READY) $(MATRIX:%=.matrix/%/ready) ## make the environments of all tests

test-bound:
	$(BIN)/pytest $(BOUND)

test-at-any-load:
	$(BIN)/pytest $(AIRFLOWS:%=--ignore=tests/%) $(BOUND:%=--ignore=%)

$(AIRFLOWS:%=test-%): test-%:
	$(BIN)/pytest tests/$*

.matrix/%/tests: .matrix/%/ready
	@.matrix/$*/bin/pytest -p no:cacheprovider $(MATRIX_TESTS) >$@.log 2>&1; status=$$?; \
	cat $@.log; exit $$status

.matrix/%/airflow: .matrix/%/ready
	@.matrix/$*/bin/pytest -p no:cacheprovider tests/airflow >$@.log 2>&1; status=$$?; cat $@.log; exit $$status

lint: $(READY) ## ruff: all rules, and the format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

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

clean: ## remove the environment and everything that was built
	rm -rf .venv .benchmarks .matrix .hypothesis .mypy_cache .pytest_cache .ruff_cache dist site

$(READY): pyproject.toml $(CONSTRAINTS) | $(UV)
	$(UV) pip install --python $(BIN)/python --exact --editable . $(GROUPS) \
		--constraint $(CONSTRAINTS) --build-constraint $(CONSTRAINTS) --compile-bytecode
	@rm -f .venv/airflow-*.ready
	@touch $@

# uv looks for Pythons on PATH, where pyenv shows one of those that it has.
.PRECIOUS: .matrix/%/ready
.SECONDEXPANSION:
.matrix/%/ready: pyproject.toml constraints/airflow-$$(firstword $$(subst -, ,$$*)).txt | $(UV)
	@for bin in "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.*/bin; do PATH="$$PATH:$$bin"; done; \
	venv="$(LOW_PRIORITY) $(UV) venv --quiet --clear --no-python-downloads .matrix/$* --python"; \
	$$venv '$(lastword $(subst -, ,$*))' || $$venv '$(ANY_PYTHON)'
	$(LOW_PRIORITY) $(UV) pip install --quiet --python .matrix/$*/bin/python --editable . --group test \
		--constraint $(word 2,$^) --build-constraint $(word 2,$^) --compile-bytecode
	@touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
		"$(PYTHON) is older than Python 3.10. Name a newer one: make PYTHON=python3.10")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(patsubst %,--constraint %,$(wildcard $(CONSTRAINTS))) uv
