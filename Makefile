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

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Build .venv: Airflow, localaws, tests and lint
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) is not there:  sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) scripts/setup_env.py .venv requirements-dev.txt

setup-spark: setup ## Build .venv-spark: Spark and its Java, the S3A jars, the class-data archive
	@$(RUN) scripts/setup_env.py .venv-spark requirements-spark.txt
	@$(RUN) -m localaws.spark_setup --env .venv-spark --jars .cache/spark-jars --cds .cache/spark-cds.jsa

.PHONY: help setup setup-spark
