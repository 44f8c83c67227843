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
HINTS = {
    "address pool": "`docker network prune` removes networks that nobody uses",
    "No such image": "`make docker-image` builds it",
    "no space left": "`docker system prune` makes room",
    "could not select device driver": "GPUs need NVIDIA's container toolkit, or node.device: cpu",
}


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
        raise DockerError(f"docker {arguments[0]}: {_last_words(complaint)}")
    return said.decode(errors="replace").strip()


def _last_words(complaint: bytes) -> str:
    """And where it is known, what to do about it."""
    words = (complaint.decode(errors="replace").strip() or "no reason given").splitlines()[-1]
    return words + next((f": {hint}" for sign, hint in HINTS.items() if sign in words), "")


def check(image: str) -> int:
    """How many CPUs it has. Raises `ConfigError` when there is none, or not the image."""
    engine = _ask("info", "--format", "{{.NCPU}}")
    num_cpus = engine.stdout.strip()
    if engine.returncode or not num_cpus.isdigit() or num_cpus == b"0":
        if b"permission denied" in engine.stderr:
            raise ConfigError(
                "--runtime docker: you may not talk to the Docker engine: join the group docker, or be root"
            )
        where = os.environ.get("DOCKER_HOST")
        advice = f"look at DOCKER_HOST={where}" if where else "start it, or say with DOCKER_HOST where it is"
        raise ConfigError(f"--runtime docker: no Docker engine answers: {advice}")
    if _ask("image", "inspect", image).returncode:
        raise ConfigError(f"--runtime docker: there is no image {image} yet: `make docker-image` builds it")
    return int(num_cpus)


def _ask(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, check=False, timeout=TIMEOUT_S)
    except FileNotFoundError:
        raise ConfigError("--runtime docker: there is no docker command here: install Docker") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"--runtime docker: the Docker engine says nothing for {TIMEOUT_S:g} s: restart it") from None


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
