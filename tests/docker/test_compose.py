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
START_S = 210
HAS_PLUGIN = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
COMPOSE = [*(["docker", "compose"] if HAS_PLUGIN else ["docker-compose"]), "--project-name", "p2ptrain-test"]
PASSWORD = "a-password-of-the-test"
SECRETS = {"P2PTRAIN_KEY": "a-key-of-the-test", "P2PTRAIN_MQTT_PASSWORD": PASSWORD, "P2PTRAIN_MQTT_PORT": "0"}


def compose(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command, environment = [*COMPOSE, *arguments], {**os.environ, **SECRETS, **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture(scope="module")
def swarm() -> Iterator[None]:
    compose("down", "--volumes", "--timeout", "1")  # what a run that was killed has left
    try:
        up = compose("up", "--detach", "--no-build")
        assert up.returncode == 0, up.stderr
        yield
    finally:
        down = compose("down", "--volumes", "--timeout", "1")
        assert down.returncode == 0, down.stderr


@pytest.mark.timeout(START_S + 30)
@pytest.mark.usefixtures("swarm")
def test_all_five_nodes_swap_and_the_broker_hears_of_it() -> None:
    heard: set[str] = set()
    listen = ["mosquitto_sub", "-u", "p2ptrain", "-P", PASSWORD, "-t", "p2ptrain/compose/+/exchanged"]
    for line in lines("exec", "-T", "broker", *listen):
        heard.add(json.loads(line)["node"])
        if heard == NODES:
            break
    assert heard == NODES, compose("logs", "--tail=5").stdout


@pytest.mark.usefixtures("swarm")
def test_the_live_table_is_read_from_the_broker(figures: list[str]) -> None:
    shown: list[str] = []
    for line in lines("run", "--rm", "-T", "top"):
        shown.append(line.strip())
        if "5/5 alive" in line:
            break
    assert "5/5 alive" in "".join(shown[-1:]), shown
    figures.append(f"docker compose up, seen through its broker: {shown[-1]}")


def lines(*arguments: str) -> Iterator[str]:
    """What the command says, until nobody wants to hear more."""
    command, environment = ["timeout", f"{START_S}", *COMPOSE, *arguments], {**os.environ, **SECRETS}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield from process.stdout
        finally:
            process.terminate()


@pytest.mark.usefixtures("swarm")
def test_the_broker_lets_in_nobody_without_the_password() -> None:
    for credentials in ([], ["-u", "p2ptrain", "-P", "a-guess"]):
        refused = compose("exec", "-T", "broker", "mosquitto_pub", *credentials, "-t", "p2ptrain/x", "-m", "x")
        assert refused.returncode != 0
        assert "not authorised" in refused.stderr


@pytest.mark.usefixtures("swarm")
def test_nodes_have_the_cpus_that_the_file_gives_them() -> None:
    found = docker("ps", "--quiet", "--filter", "label=com.docker.compose.project=p2ptrain-test").split()
    service_and_cpus = '{{index .Config.Labels "com.docker.compose.service"}} {{.HostConfig.NanoCpus}}'
    told = (line.split() for line in docker("inspect", "--format", service_and_cpus, *found).splitlines())
    limits = {service: int(nano) / 1e9 for service, nano in told if service != "broker"}
    assert limits == {"bootstrap": 1.0, "node-1": 0.6, "node-2": 0.4, "node-3": 0.3, "node-4": 0.2}


def test_without_secrets_it_says_how_to_make_them() -> None:
    refused = compose("config", P2PTRAIN_KEY="", P2PTRAIN_MQTT_PASSWORD="")
    assert refused.returncode != 0
    assert "run make secrets first" in refused.stderr
