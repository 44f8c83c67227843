# make swarm   set up and bring up the default swarm          make test   set up and test
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install install-dev swarm test check tests test-faults test-topologies test-repeats test-finetune \
	test-docker docker-tests test-docker-topologies docker-topologies docker-image again secrets bench protos clean

help:
	@echo "make swarm            four unequal nodes train a small language model, in about two minutes"
	@echo "make test             lint, types, imports, tests"
	@echo "make test-faults      files in topologies/ with faults as real processes: kills, pauses, cut and slow links"
	@echo "make test-topologies  every file in topologies/ as real processes, two at a time"
	@echo "make test-repeats     the tests of whole swarms twenty times, until one fails (TIMES=20)"
	@echo "make test-finetune    fine-tuning of Hugging Face models, with 180 MB of the extra finetune, in seconds"
	@echo "make test-docker      the same nodes in containers; makes a Docker engine where there is none"
	@echo "make test-docker-topologies  every file in topologies/ in containers"
	@echo "make docker-image     the image for docker compose and for --runtime docker"
	@echo "make secrets          what docker compose up needs: a swarm key and a broker's password, in .env"
	@echo "make install          a .venv with everything that a node needs"
	@echo "make bench            all benchmarks, as tables"
	@echo "make protos           regenerate p2ptrain/wire from protos/"

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

.venv/installed-finetune: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[finetune]'
	touch $@

swarm: install
	$(BIN)/p2ptrain up topologies/quickstart.yaml

test: check tests

check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Swarms of real daemons wait more than they work: two at a time of their own kind, handed out one by one. What hangs on
# deadlines of fractions of a second has the machine to itself.
SWARMS := $(wildcard tests/node/test_swarm*.py) tests/node/test_agree.py
TWO_AT_A_TIME := $(BIN)/python -m pytest -q -n 2 --maxschedchunk=1
TEST_SWARMS := $(TWO_AT_A_TIME) $(SWARMS)

tests: install-dev
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(addprefix --ignore=,$(SWARMS) tests/network)
	$(TEST_SWARMS)
	$(BIN)/python -m pytest -q tests/network

# Does any of them fail now and then?
TIMES ?= 20

test-repeats: install-dev
	for round in $$(seq $(TIMES)); do echo "round $$round of $(TIMES)" && $(TEST_SWARMS) || exit 1; done

test-topologies: install-dev
	$(TWO_AT_A_TIME) tests/processes

# One at a time, so that a slow machine has a node up again while the others still train.
test-faults: install-dev
	$(BIN)/python -m pytest -q -m faults tests/processes

test-finetune: .venv/installed-finetune
	$(BIN)/python -m pytest -q tests/finetune

test-docker: install-dev docker/wheels/made
	docker/engine.sh $(MAKE) --no-print-directory docker-image docker-tests

test-docker-topologies: install-dev docker/wheels/made
	docker/engine.sh $(MAKE) --no-print-directory docker-image docker-topologies

docker-topologies:
	$(BIN)/python -m pytest -q tests/docker/test_topologies.py

docker-tests:
	$(BIN)/python -m pytest -q tests/docker -m "not long"

# What a build leaves of the one before it goes.
docker-image: docker/wheels/made
	docker build --quiet --file docker/Dockerfile --tag p2ptrain . \
		--build-arg PIP_ARGS="$$(ls docker/wheels/*.whl >/dev/null 2>&1 && echo --no-index || echo '$(PIP_ARGS)')"
	docker image prune --force --filter label=p2ptrain.image >/dev/null

# With this machine's pip, its indexes and its cache, where its Python is the image's; else the build takes them itself.
docker/wheels/made: pyproject.toml constraints.txt $(if $(PIP_ARGS),again) | .venv/bin/python
	rm -f docker/wheels/*.whl
	if $(BIN)/python -c 'import sys; sys.exit(sys.platform != "linux" or sys.version_info[:2] != (3, 11))'; then \
		$(BIN)/python -m pip wheel --quiet --wheel-dir docker/wheels --constraint constraints.txt $(PIP_ARGS) \
			. 'setuptools>=77' && rm docker/wheels/p2ptrain-*.whl; fi
	touch $@

secrets: .env

.env:
	umask 077 && $(PYTHON) -c 'from secrets import token_hex as new; \
		print(f"P2PTRAIN_KEY={new(24)}\nP2PTRAIN_MQTT_PASSWORD={new(24)}")' > $@

bench: install-dev
	for name in codec exchange average overlap idle join agree simulator onebyte robust flag; do $(BIN)/python -m benchmarks.$$name || exit 1; done

protos: install-dev
	PYTHON=$(BIN)/python sh protos/generate.sh

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f docker/wheels/*
