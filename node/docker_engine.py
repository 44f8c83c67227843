"""The Docker engine, through its command line: it knows where the engine is and how to talk to each version of it."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Sequence

from p2ptrain.errors import ConfigError

LABEL = "p2ptrain.launcher"
"""On every container and network: whose they are."""
TIMEOUT_S = 60.0


class DockerError(ConfigError):
    """The engine refused; its last words."""


async def docker(*arguments: str) -> str:
    """What the command says; raises `DockerError`."""
    process = await asyncio.create_subprocess_exec(
        "docker", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(TIMEOUT_S):
            said, complaint = await process.communicate()
    except TimeoutError:
        raise DockerError(f"docker {arguments[0]}: no answer within {TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last_words = (complaint.decode(errors="replace").strip() or "no reason given").splitlines()[-1]
        raise DockerError(f"docker {arguments[0]}: {last_words}")
    return said.decode(errors="replace").strip()


def check(image: str) -> int:
    """How many CPUs it has. Raises `ConfigError` when there is none, or not the image."""
    try:
        engine = subprocess.run(
            ["docker", "info", "--format", "{{.NCPU}}"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ConfigError("--runtime docker: there is no docker command here: install Docker") from None
    if engine.returncode or not int(engine.stdout or 0):
        raise ConfigError("--runtime docker: no Docker engine answers: start it, or say with DOCKER_HOST where it is")
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode:
        raise ConfigError(f"--runtime docker: there is no image {image} yet: `make docker-image` builds it")
    return int(engine.stdout)


def label(swarm: str) -> str:
    """Of what belongs to a swarm of this process."""
    return f"{LABEL}={socket.gethostname()}/{os.getpid()}/{swarm}"


async def remove_leftovers() -> None:
    """What launchers of this machine have left that are no more."""
    kinds = (("ps", "--all"), ("network", "ls"))
    found = [
        await docker(*kind, "--filter", f"label={LABEL}", "--format", f'{{{{.Label "{LABEL}"}}}}') for kind in kinds
    ]
    labels = {label for text in found for label in text.split()}
    await remove([f"{LABEL}={label}" for label in labels if _is_orphan(label)])


def _is_orphan(label: str) -> bool:
    host, pid, _ = label.split("/")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, and alive
        pass
    return False


async def remove(labels: Sequence[str]) -> None:
    """Containers and networks."""
    for label in labels:
        if containers := (await docker("ps", "--all", "--quiet", "--filter", f"label={label}")).split():
            await docker("rm", "--force", *containers)
        if networks := (await docker("network", "ls", "--quiet", "--filter", f"label={label}")).split():
            await docker("network", "rm", *networks)
