"""A real engine with the image in it: `make test-docker` sees to both."""

import subprocess
import time
from collections.abc import Callable

import pytest


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", "p2ptrain"))
    terminalreporter.write_line(f"the image p2ptrain has {size / 1e6:.0f} MB")
