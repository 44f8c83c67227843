"""The image: who it runs as, and whether it knows that its node is well."""

import subprocess
from collections.abc import Iterator

import pytest
from conftest import docker, until

SITE = "/opt/p2ptrain/lib/python3.11/site-packages"


def test_nobody_is_root_in_the_image() -> None:
    assert docker("run", "--rm", "--entrypoint", "id", "p2ptrain", "--user") == "10001"


def test_the_image_is_not_much_more_than_its_torch(figures: list[str]) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", "p2ptrain"))
    figures.append(f"the image p2ptrain has {size / 1e6:.0f} MB")
    torch = docker("run", "--rm", "--entrypoint", "du", "p2ptrain", "--summarize", "--bytes", f"{SITE}/torch")
    assert size - int(torch.split()[0]) < 900e6


def test_what_the_image_is_built_with_stays_behind() -> None:
    left = "ls -d /wheels /source $PWD/pip $PWD/torch/include; find . -type d -name tests"
    assert docker("run", "--rm", "--workdir", SITE, "--entrypoint", "sh", "p2ptrain", "-c", f"{left} 2>/dev/null") == ""


@pytest.fixture
def lonely_node() -> Iterator[str]:
    """A container whose health is looked at every second."""
    options = ["--health-interval=1s", "--health-timeout=3s", "--health-start-period=0s", "--health-retries=60"]
    node = ["node", "--task", "digits", "--listen", "0.0.0.0:7000", "--set", "run.seconds=600"]
    container = docker("run", "--detach", "--init", *options, "p2ptrain", *node)
    try:
        yield container
    finally:
        docker("rm", "--force", container)


def test_a_node_is_healthy_while_it_answers_and_not_when_it_stands_still(lonely_node: str) -> None:
    def is_healthy() -> bool:
        command = ["docker", "exec", lonely_node, "python", "/opt/p2ptrain/health.py"]
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0

    until(lambda: docker("inspect", "--format", "{{.State.Health.Status}}", lonely_node) == "healthy", 60, "healthy")
    docker("exec", lonely_node, "python", "-c", SIGNAL, "SIGSTOP")
    assert not is_healthy()
    docker("exec", lonely_node, "python", "-c", SIGNAL, "SIGCONT")
    assert is_healthy()


SIGNAL = """
import os, signal, sys
from pathlib import Path
(node,) = [path.parent.name for path in Path("/proc").glob("[0-9]*/comm") if path.read_text() == "p2ptrain\\n"]
os.kill(int(node), signal.Signals[sys.argv[1]])
"""
