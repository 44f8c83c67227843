# make swarm   set up and bring up the default swarm          make test   set up and test
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install install-dev swarm test check tests bench protos clean

help:
	@echo "make swarm        four unequal nodes train a small language model, in about two minutes"
	@echo "make test         lint, types, imports, tests"
	@echo "make install      a .venv with everything that a node needs"
	@echo "make bench        all benchmarks, as tables"
	@echo "make protos       regenerate p2ptrain/wire from protos/"

install: .venv/installed
install-dev: .venv/installed-dev

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

swarm: install
	$(BIN)/p2ptrain up topologies/quickstart.yaml

test: check tests

check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

tests: install-dev
	$(BIN)/python -m pytest -q

bench: install-dev
	for name in codec exchange average overlap idle; do $(BIN)/python -m benchmarks.$$name || exit 1; done

protos: install-dev
	PYTHON=$(BIN)/python sh protos/generate.sh

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
