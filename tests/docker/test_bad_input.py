"""What a user has to mend before containers can run: one line, with what to do next, and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from node import docker_engine
from node.docker_engine import DockerError, docker
from p2ptrain.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def up(out: Path, **environment: str) -> tuple[int, list[str]]:
    """Exit code and lines of complaint."""
    command = [
        sys.executable,
        "-m",
        "node",
        "up",
        "topologies/quickstart.yaml",
        "--runtime",
        "docker",
        "--out",
        str(out),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr.splitlines()


def test_where_no_engine_answers_it_says_where_it_looked(tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nobody"
    code, (line,) = up(tmp_path / "out", DOCKER_HOST=nowhere)
    assert code == 2
    assert line.endswith(f"no Docker engine answers: look at DOCKER_HOST={nowhere}")


def test_without_docker_it_asks_for_it(tmp_path: Path) -> None:
    code, (line,) = up(tmp_path / "out", PATH=str(tmp_path))
    assert code == 2
    assert line.endswith("there is no docker command here: install Docker")


def test_without_the_image_it_says_how_to_build_it() -> None:
    with pytest.raises(ConfigError, match="there is no image p2ptrain-nowhere yet: `make docker-image` builds it"):
        docker_engine.check("p2ptrain-nowhere")


async def test_what_the_engine_says_is_passed_on_with_what_to_do() -> None:
    with pytest.raises(DockerError, match=r"docker image: .*No such image.*: `make docker-image` builds it"):
        await docker("image", "inspect", "p2ptrain-nowhere")
