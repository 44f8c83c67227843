# make swarm   set up and bring up the default swarm          make test   set up and test
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install install-dev swarm test check tests test-topologies test-docker docker-image secrets bench protos clean

help:
	@echo "make swarm        four unequal nodes train a small language model, in about two minutes"
	@echo "make test         lint, types, imports, tests"
	@echo "make test-topologies  every file in topologies/ as real processes, in about fifteen minutes"
	@echo "make test-docker  the same nodes in containers; makes a Docker engine where there is none"
	@echo "make secrets      what docker compose up needs: a swarm key and a broker's password, in .env"
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

# Swarms of real daemons have both cores to themselves; the rest runs two at a time.
SWARMS := $(wildcard tests/node/test_swarm*.py) tests/node/test_agree.py

tests: install-dev
	$(BIN)/python -m pytest -q -n 2 $(addprefix --ignore=,$(SWARMS))
	$(BIN)/python -m pytest -q $(SWARMS)

test-topologies: install-dev
	$(BIN)/python -m pytest -q tests/processes

test-docker: install-dev
	environment=$$(docker/engine.sh) && eval "$$environment" && $(MAKE) docker-image PIP_ARGS=--no-index && \
		$(BIN)/python -m pytest -q tests/docker

docker-image: docker/wheels/made
	docker build --quiet --file docker/Dockerfile --build-arg PIP_ARGS="$(PIP_ARGS)" --tag p2ptrain .

docker/wheels/made: pyproject.toml constraints.txt | .venv/bin/python
	rm -f docker/wheels/*.whl
	$(BIN)/python -m pip wheel --quiet --wheel-dir docker/wheels --constraint constraints.txt . 'setuptools>=77'
	rm docker/wheels/p2ptrain-*.whl
	touch $@

secrets: .env

.env:
	umask 077 && $(PYTHON) -c 'from secrets import token_hex as new; \
		print(f"P2PTRAIN_KEY={new(24)}\nP2PTRAIN_MQTT_PASSWORD={new(24)}")' > $@

bench: install-dev
	for name in codec exchange average overlap idle join agree; do $(BIN)/python -m benchmarks.$$name || exit 1; done

protos: install-dev
	PYTHON=$(BIN)/python sh protos/generate.sh

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
