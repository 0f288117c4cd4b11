# One word each. `make run` and `make test` are all that a newcomer needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q
WORKERS ?= 3

.PHONY: help run test check lint types bench bench-failover soak fuzz ohif docs lock tools clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-15s %s\n", $$1, $$2}'

$(VENV)/.run: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	$(PIP) install --require-hashes -r requirements-dev.lock
	touch $@

run: $(VENV)/.run ## a whole tour on loopback: stand-in primary, router, archive, replicator
	@exec $(BIN)/failover demo

tools:
	@tests/get_tools.sh
	@tests/get_dcmjs.sh

test: $(VENV)/.dev tools ## every test; gets Debian's Orthanc, DCMTK and Prometheus, and dcmjs-dimse from npm, when they are missing
	@PATH="$(CURDIR)/$(BIN):$$(tests/get_tools.sh --path):$$PATH" $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

compile: $(VENV)/.dev ## compile what each web request and each PDU passes, beside the sources (a C compiler, Python's headers)
	$(BIN)/python setup.py compile

test-compiled: $(VENV)/.dev tools ## the tests of web path and relay, and fuzzing, on compiled modules, in a copy
	@PATH="$(CURDIR)/$(BIN):$$(tests/get_tools.sh --path):$$PATH" $(BIN)/python -m tests.compiled

check: lint types ## all that needs no server

lint: $(VENV)/.dev ## ruff: rules, banned calls, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy

bench: $(VENV)/.dev ## we and the peers in one run; results in tests/bench/results/
	@tests/get_tools.sh bench
	@PATH="$(CURDIR)/$(BIN):$$(tests/get_tools.sh --path):$$PATH" $(BIN)/python -m tests.bench

bench-failover: $(VENV)/.dev ## the primary fails in every way, with us and the peers (as root: a network namespace)
	@tests/get_tools.sh bench
	@PATH="$(CURDIR)/$(BIN):$$(tests/get_tools.sh --path):$$PATH" $(BIN)/python -m tests.bench.outage
	@PATH="$(CURDIR)/$(BIN):$$(tests/get_tools.sh --path):$$PATH" $(BIN)/python -m tests.bench.outage --dicom

soak: $(VENV)/.dev ## ten minutes of callers that vanish: the router's descriptors, tasks and memory stay flat
	@$(BIN)/python -m tests.bench.soak

fuzz: $(VENV)/.dev ## a minute of hostile bytes for each parser
	$(BIN)/python -m tests.fuzz

ohif: $(VENV)/.dev tools ## OHIF (from npm) before the router, with the primary and without: lists, opens, uploads
	@pages=$$(tests/get_ohif.sh) && PATH="$(CURDIR)/$(BIN):$$(tests/get_tools.sh --path):$$PATH" $(BIN)/python -m tests.ohif "$$pages"

docs: $(VENV)/.dev ## write the generated pages anew: configuration, metrics, routing states
	$(BIN)/python -m docs.generate

lock: $(VENV)/.dev ## pin the dependencies anew
	$(PIP) install pip-tools
	env -u PIP_FIND_LINKS $(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --strip-extras -o requirements.lock pyproject.toml
	env -u PIP_FIND_LINKS $(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --strip-extras --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

clean: ## remove what the targets made
	find failover -name '*.so' -delete
	rm -f ./*__mypyc*.so
	rm -rf $(VENV) .tools build dist *.egg-info .mypy_cache .ruff_cache .hypothesis demo-data
