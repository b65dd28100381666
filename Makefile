# `make repro` and `make test` do everything on a fresh machine; `make help` lists the rest.

PYTHON ?= python3
PORT ?= 5000
# Who may see MLflow's pages, which ask for no password: this machine alone unless told otherwise.
HOST ?= 127.0.0.1
VENV := .venv
# cpu, or gpu for TensorFlow with CUDA; more after a comma: `make setup EXTRAS=gpu,tensorflow-examples`.
# What was chosen once stays chosen when the environment is renewed.
EXTRAS ?= $(shell cat $(VENV)/.extras 2>/dev/null || echo cpu)
BIN := $(VENV)/bin
# Stages run as `python -m stages.<stage>`, so the environment's python comes first.
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
# What a target needs is made in the order in which it is named.
.NOTPARALLEL:
.PHONY: help setup repro experiment table search pull worker sync test bench lint format ui app audit lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup:  ## make .venv with the locked versions (EXTRAS=gpu for CUDA)
	rm -rf $(VENV)
	$(MAKE) $(VENV)/.installed EXTRAS='$(EXTRAS)'

# Made on first use, and again when the requirements change.
$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11 to 3.13 is needed, and $(PYTHON) is another; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing the locked versions into $(VENV): a minute or two, 3 GB"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --quiet \
	  --constraint requirements.lock --editable '.[pipeline,$(EXTRAS),dev]'
	@echo '$(EXTRAS)' > $(VENV)/.extras
	@touch $@

repro: $(VENV)/.installed  ## run what has changed of the pipeline
	@python -m stages.params
	@git diff --quiet -- params.yaml 2>/dev/null || \
	  echo "Note: params.yaml differs from the commit (dvc params diff); git restore params.yaml goes back" >&2
	dvc repro
	@# A stage from the cache logs nothing; MLflow is a view, so trouble with it is no failure.
	@python -m stages.runs.sync >/dev/null || true
	@echo
	@echo "Report: reports/README.md   Metrics: metrics/*.json (dvc metrics show)   Runs: make ui"

experiment: $(VENV)/.installed  ## run a file of recipes/ as an experiment (RECIPE=smoke NAME= ARGS=)
	python -m recipes $(RECIPE) $(if $(NAME),--name '$(NAME)') $(ARGS)

table: $(VENV)/.installed  ## what experiments have changed and reached (ARGS=-A: all commits)
	@dvc exp show --only-changed --hide-workspace $(ARGS) \
	  --drop '.*(accuracy|boundary_f)|Created|(data|models|stages|metrics)(/|$$)'

search: $(VENV)/.installed  ## search parameters, here or on a cluster (SPACE=)
	python -m tools.search $(or $(SPACE),searches/unet.yaml)

pull:
	git pull --ff-only --quiet

# The pull comes first: what it brings may need another environment.
worker: pull $(VENV)/.installed  ## pull, run what changed and what is queued, push (JOBS=1)
	python -m tools.worker $(or $(JOBS),1)

sync: $(VENV)/.installed  ## fill in the MLflow runs of all that DVC has
	python -m stages.runs.sync

test: $(VENV)/.installed  ## the whole test suite
	python -m pytest -n 3 --dist loadfile

bench: $(VENV)/.installed  ## compare speeds side by side (FULL=1 DATASET= ARGS=)
	python -m tests.benchmarks $(if $(FULL),--full) $(if $(DATASET),--dataset '$(DATASET)') $(ARGS)

lint: $(VENV)/.installed  ## check format, rules and types
	ruff format --check .
	ruff check .
	mypy

format: $(VENV)/.installed  ## put the code in its format
	ruff format .
	ruff check --fix .

ui: $(VENV)/.installed  ## MLflow's pages, for this machine alone (PORT=5000)
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "The runs are at $$MLFLOW_TRACKING_URI"; exit;; esac; \
	echo "Runs: http://$(HOST):$(PORT)/#/experiments/1/runs?workflowType=machine_learning"; \
	MLFLOW_DISABLE_TELEMETRY=true exec mlflow server --host '$(HOST)' --port $(PORT) \
	  --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}" \
	  --default-artifact-root "$(CURDIR)/mlartifacts"

# Strict: a package that the database does not know, or an unreachable database, is not "all
# good".
audit: $(VENV)/.installed  ## look the locked versions up among known advisories
	python -m pip install --quiet pip-audit
	pip-audit --strict --requirement requirements.lock --no-deps --disable-pip

app: $(VENV)/.installed  ## a page to drop photographs on, and masks over HTTP (PORT=7860)
	@pets app --models models --port $(if $(filter-out file,$(origin PORT)),$(PORT),7860)

lock: $(VENV)/.installed  ## resolve the newest allowed versions into requirements.lock
	python -m pip install --quiet uv
	uv pip compile pyproject.toml --extra pipeline --extra cpu --extra gpu --extra s3 --extra heic --extra search --extra dev --upgrade --quiet \
	  --universal --fork-strategy fewest --python-version 3.11 \
	  --no-annotate --no-header --output-file requirements.lock

clean:  ## remove the environment and caches; data, models, runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dvc_plots *.egg-info
