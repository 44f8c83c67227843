"""`docker compose up`: the default swarm trains, and its broker passes on what it says to who has the password."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import docker

ROOT = Path(__file__).resolve().parents[2]
NODES = {"bootstrap", "node-1", "node-2", "node-3", "node-4"}
START_S = 150
HAS_PLUGIN = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
COMPOSE = ["docker", "compose"] if HAS_PLUGIN else ["docker-compose"]
PASSWORD = "a-password-of-the-test"
SECRETS = {"P2PTRAIN_KEY": "a-key-of-the-test", "P2PTRAIN_MQTT_PASSWORD": PASSWORD, "P2PTRAIN_MQTT_PORT": "0"}


def compose(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [*COMPOSE, "--project-name", "p2ptrain-test", "--file", str(ROOT / "compose.yaml"), *arguments]
    environment = {**os.environ, "COMPOSE_DISABLE_ENV_FILE": "1", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture(scope="module")
def swarm() -> Iterator[None]:
    try:
        up = compose("up", "--detach", "--no-build", **SECRETS)
        assert up.returncode == 0, up.stderr
        yield
    finally:
        down = compose("down", "--volumes", "--timeout", "1", **SECRETS)
        assert down.returncode == 0, down.stderr


def broker(*command: str) -> "subprocess.CompletedProcess[str]":
    return compose("exec", "-T", "broker", *command, **SECRETS)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("swarm")
def test_all_five_nodes_swap_and_the_broker_hears_of_it() -> None:
    listen = ["mosquitto_sub", "-u", "p2ptrain", "-P", PASSWORD, "-t", "p2ptrain/compose/+/exchanged"]
    command = [
        *COMPOSE,
        "--project-name",
        "p2ptrain-test",
        "--file",
        str(ROOT / "compose.yaml"),
        "exec",
        "-T",
        "broker",
    ]
    environment = {**os.environ, **SECRETS}
    heard: set[str] = set()
    with subprocess.Popen(
        ["timeout", str(START_S), *command, *listen], env=environment, stdout=subprocess.PIPE, text=True
    ) as subscriber:
        assert subscriber.stdout
        for line in subscriber.stdout:
            heard.add(json.loads(line)["node"])
            if heard == NODES:
                break
        subscriber.terminate()
    assert heard == NODES, compose("logs", "--tail=5", **SECRETS).stdout


@pytest.mark.usefixtures("swarm")
def test_the_broker_lets_in_nobody_without_the_password() -> None:
    for credentials in ([], ["-u", "p2ptrain", "-P", "a-guess"]):
        refused = broker("mosquitto_pub", *credentials, "-t", "p2ptrain/x", "-m", "x")
        assert refused.returncode != 0
        assert "not authorised" in refused.stderr + refused.stdout


@pytest.mark.usefixtures("swarm")
def test_nodes_have_the_cpus_that_the_file_gives_them() -> None:
    found = {name: container(name) for name in NODES}
    limits = {
        name: int(docker("inspect", "--format", "{{.HostConfig.NanoCpus}}", id)) / 1e9 for name, id in found.items()
    }
    assert limits == {"bootstrap": 1.0, "node-1": 0.6, "node-2": 0.4, "node-3": 0.3, "node-4": 0.2}


def container(service: str) -> str:
    return compose("ps", "--quiet", service, **SECRETS).stdout.strip()


def test_without_secrets_it_says_how_to_make_them() -> None:
    refused = compose("config", P2PTRAIN_KEY="", P2PTRAIN_MQTT_PASSWORD="")
    assert refused.returncode != 0
    assert "run make secrets first" in refused.stderr
