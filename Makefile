# `make` lists what there is. Everything installs itself on first use.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
TOOLS := .tools
UV := $(TOOLS)/bin/uv
RUN := .venv/bin/
# Results and state of the local cloud; `make wipe` removes them.
LOCAL := $(CURDIR)/.local-cloud
SWEEP ?= examples/quick.yaml
STAMP := .venv/.set-up

export UV_COMPILE_BYTECODE := 1
export UV_LINK_MODE := copy
# Compiled once: tests start hundreds of our commands.
unexport PYTHONDONTWRITEBYTECODE
export GCLOUD_OPS_LOCAL_FOLDER ?= $(LOCAL)

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 12

.PHONY: setup
setup: $(STAMP)  ## install everything into .venv (the other targets do it too)

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.12 or newer is needed, this is %d.%d: set PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 12) else 0)'
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install --quiet --disable-pip-version-check 'uv==0.13.9'

$(STAMP): $(UV) pyproject.toml requirements.lock $(wildcard packages/*/pyproject.toml)
	@echo 'Setting up .venv (a minute or two the first time) ...' >&2
	@$(UV) sync --quiet --python $(PYTHON)
	@touch $@

.PHONY: demo
demo: $(STAMP)  ## two real trainings on the local cloud, from launch to results (SWEEP=file for others)
	@$(RUN)gcloud-ops --local sweep launch $(SWEEP) --new-name --watch --pull $(LOCAL)/results && status=0 || status=$$?; \
	$(RUN)gcloud-ops local stop >&2; \
	echo 'The local cloud is stopped, and its MLflow with it; `make console` brings both back.' >&2; \
	exit $$status

.PHONY: console
console: $(STAMP)  ## the console, on the local cloud
	@$(RUN)sinergym-tui --local

.PHONY: test
test: $(STAMP)  ## all tests
	@$(RUN)pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: test-fast
test-fast: $(STAMP)  ## the tests that take about a second or less each
	@$(RUN)pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: check
check: $(STAMP)  ## format, lint, types, import contracts, the lock
	@$(RUN)ruff format --check .
	@$(RUN)ruff check .
	@$(RUN)mypy packages/*/src packages/*/tests tests benchmarks
	@$(RUN)lint-imports
	@$(UV) lock --check --quiet
	@$(MAKE) --no-print-directory --silent export | diff -u requirements.lock - || { echo 'requirements.lock is out of date: run `make lock`' >&2; exit 1; }

.PHONY: chaos
chaos: $(STAMP)  ## 500 random schedules of mishaps (CHAOS_SEED=... plays the same again)
	@CHAOS_SCHEDULES=$${CHAOS_SCHEDULES:-500} CHAOS_SHARDS=6 $(RUN)pytest tests/chaos -s -n 6 --dist loadgroup

.PHONY: pictures
pictures: $(STAMP)  ## draw the console's pictures anew: those of README and docs, and those of the tests
	@UPDATE_PICTURES=1 $(RUN)pytest -q packages/tui/tests/test_gallery.py packages/tui/tests/test_pictures.py packages/tui/tests/test_pictures_of_places.py
	@git status --short docs/images packages/tui/tests/pictures

.PHONY: bench
bench: $(STAMP)  ## measure, beside the baseline and the limit
	@$(RUN)python -m benchmarks

.PHONY: lock
lock: $(UV)  ## resolve anew within pyproject's exclude-newer, and pin what was found
	@$(UV) lock --upgrade
	@$(MAKE) --no-print-directory --silent export > requirements.lock

.PHONY: export
export: $(UV)
	@$(UV) export --quiet --no-emit-workspace --no-header --format requirements-txt

.PHONY: format
format: $(STAMP)  ## rewrite the code in the house's format
	@$(RUN)ruff format .
	@$(RUN)ruff check --fix .

.PHONY: wipe
wipe: $(STAMP)  ## remove the local cloud's state and all its results
	@$(RUN)gcloud-ops local wipe
