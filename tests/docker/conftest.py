"""A real engine with the image in it: `make test-docker` sees to both."""

import subprocess
import time
from collections.abc import Callable

import pytest

from node import docker_engine
from node.docker_engine import LABEL
from p2ptrain.errors import ConfigError

FIGURES: list[str] = []


def docker(*arguments: str, timeout_s: float = 60) -> str:
    """What the command says; its complaint is in the error when it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Look again and again; nobody tells us."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not {what} within {timeout_s:g} s"
        time.sleep(0.2)


def left_over() -> str:
    """Containers and networks of swarms."""
    label = f"label={LABEL}"
    return docker("ps", "--all", "--quiet", "--filter", label) + docker("network", "ls", "--quiet", "--filter", label)


@pytest.fixture(scope="session")
def figures() -> list[str]:
    """Lines to be printed in the end."""
    return FIGURES


def pytest_sessionstart() -> None:
    try:
        docker_engine.check("p2ptrain")
    except ConfigError as error:
        pytest.exit(f"{error}, and `make test-docker` sees to both", returncode=1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in FIGURES:
        terminalreporter.write_line(line)
