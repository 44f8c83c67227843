"""The docker runtime: each node of a topology in a container of its own, limited as its device is.

Each site has a network of its own (`node.docker_networks`); links are shaped and cut inside the containers
(`node.docker_links`). The process that stands for a node is `docker run`, attached: it passes on what the node says,
SIGTERM, the exit code, and when the launcher dies, the end of standard input.
"""

import asyncio
import contextlib
import os
import secrets
from collections import defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from node import docker_engine, docker_links, resolve
from node.docker_engine import DockerError, docker
from node.docker_networks import Networks
from node.launcher import OnEvent, Swarm
from p2ptrain.config import NodeFile
from p2ptrain.errors import Misplaced
from p2ptrain.telemetry.events import Noted, Stamped, Started
from p2ptrain.topology import Topology
from p2ptrain.topology.links import Link, Pair
from p2ptrain.training.devices import PROFILES, Profile

IMAGE = "p2ptrain"
USER = 10001
"""The image's own, for whoever is root here: a node never is."""
PORT, DHT_PORT = 7000, 7001
MIN_CPUS = 0.2
"""With less, a node misses its deadlines; what is still too fast then, waits."""
GATE = "gate"
GO = "go"
GATED = f'echo {GATE}; while read -r word; do [ "$word" = {GO} ] && exec "$@"; done'
"""A node starts once its links are as they should be; orders that come before are said again."""
ENDING_S = 5.0
PAUSE_TRIES = 10


class DockerSwarm(Swarm):
    """As `Swarm`, in containers."""

    def __init__(self, topology: Topology, out: Path, on_event: OnEvent | None = None) -> None:
        for index, group in enumerate(topology.nodes):
            if group.broker:
                raise Misplaced(("nodes", index, "broker"), f"the image {IMAGE} has no broker in it; give node.mqtt")
        self._num_cpus = docker_engine.check(IMAGE)
        self._swarm = f"p2ptrain-{secrets.token_hex(3)}"
        self._label = docker_engine.label(self._swarm)
        self._networks = Networks(topology, self._swarm, self._label)
        self._tasks: list[asyncio.Task[None]] = []
        names = [name for name, _ in topology.members()]
        self._links = {(a, b): topology.link((a, b)) for a in names for b in names if a != b}
        self._made: dict[str, list[str]] = {}
        """What each container was last told about its links; before it can be told anything, it is not in here."""
        self._link_turns = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self._paused: set[str] = set()
        self._told_about_netem = False
        super().__init__(topology, out, on_event)

    def container(self, name: str) -> str:
        return f"{self._swarm}-{name}"

    async def bring_up(self) -> None:
        await docker_engine.remove_leftovers()
        await self._networks.make()
        await super().bring_up()

    async def close(self) -> None:
        try:
            await super().close()
            await asyncio.gather(*self._tasks)
        finally:
            await docker_engine.remove([self._label])

    async def pause(self, name: str) -> None:
        """By the engine: it stands still, with all its connections."""
        async with self._link_turns[name]:
            if name in self._made and name not in self._paused:
                await self._freeze(name)

    async def _freeze(self, name: str) -> None:
        """On a busy machine the engine gives up on processes that do not all hold still at once: ask it again."""
        for tries_left in reversed(range(PAUSE_TRIES)):
            try:
                await docker("pause", self.container(name))
            except DockerError:
                if name not in self.running:
                    return
                if not tries_left:
                    raise
            else:
                self._paused.add(name)
                return

    async def resume(self, name: str) -> None:
        """With its links as they are by then: in one that is paused nothing can be changed."""
        async with self._link_turns[name]:
            if name not in self._paused:
                return
            with contextlib.suppress(DockerError):  # a signal has resumed it, or it is gone
                await docker("unpause", self.container(name))
            self._paused.discard(name)
        await self._make_links(name)

    async def shape(self, links: Mapping[Pair, Link]) -> None:
        """From now on these directions are such links; the others stay as they are."""
        self._links.update(links)
        async with asyncio.TaskGroup() as group:
            for name in self._made:
                group.create_task(self._make_links(name))

    async def reset(self, pairs: Sequence[Pair]) -> None:
        """Break the connections between these. One end is enough, and one that is paused cannot be."""
        others: dict[str, list[str]] = defaultdict(list)
        for a, b in pairs:
            others[a] += [address for _, address in self._networks.paths(a, b)]
        async with asyncio.TaskGroup() as group:
            for name in others.keys() & set(self.running) - self._paused:
                group.create_task(self._inside(name, docker_links.broken(others[name])))

    async def _prepare_links(self) -> None:
        """They are made in each container once it is there."""

    def _node_files(self) -> dict[str, NodeFile]:
        files = super()._node_files()
        first = next(iter(files.values())).node
        limits = cpu_limits([file.node.speed for file in files.values()], first.threads or 1, self._num_cpus)
        self._cpus = {name: max(cpus, MIN_CPUS) for name, cpus in zip(files, limits, strict=True)}
        doors = {first.listen: f"{first.name}:{PORT}"}
        return {
            name: resolve.with_node(
                file,
                listen=f"0.0.0.0:{PORT}",
                announce=(f"{name}:{PORT}",),
                dht_listen=f"0.0.0.0:{DHT_PORT}",
                bootstrap=tuple(doors.get(door, door) for door in file.node.bootstrap),
                threads=file.node.threads or 1,
                speed=cpus / self._cpus[name],
            )
            for (name, file), cpus in zip(files.items(), limits, strict=True)
        }

    def _address(self, name: str) -> str:
        return self.files[name].node.announce[0]

    def _command(self, name: str, arguments: list[str]) -> list[str]:
        self._made.pop(name, None)
        self._paused.discard(name)
        home, site = self.home(name), self._networks.legs(name)[0]
        options = {
            "name": self.container(name), "label": self._label, "network": site.network, "ip": site.address,
            "user": _own(home), "mount": f"type=bind,source={home},target={home}",
            "memory": f"{self._profile(name).memory_gib:g}g", "env": "HOME=/tmp",
            "cap-drop": "ALL", "cap-add": "NET_ADMIN",  # not the node's, who is no root: for `_inside`
            "log-driver": "none", "entrypoint": "sh",
        }  # fmt: skip
        command = ["docker", "run", "--rm", "--interactive", "--init"]
        command += [f"--{option}={value}" for option, value in options.items()]
        command += [f"--add-host={other}:{address}" for other, address in self._networks.hosts(name).items()]
        if self.files[name].node.device.startswith("cuda"):
            command.append("--gpus=all")
        task = Path(self.topology.run.task.name)
        if task.suffix == ".py":  # it may read what lies beside it
            folder = task.absolute().parent
            command += [f"--mount=type=bind,source={folder},target={folder},readonly", f"--workdir={Path.cwd()}"]
        return [*command, IMAGE, "-c", GATED, "sh", "p2ptrain", *arguments]

    def _profile(self, name: str) -> Profile:
        return PROFILES[self.files[name].node.profile or "this-machine"]

    def _kill(self, names: list[str]) -> None:
        for name in names:
            self._processes[name].asked = True
            self._in_background(self._kill_container(name))

    async def _kill_container(self, name: str) -> None:
        """Also one that is only just being made."""
        while name in self.running:
            try:
                await docker("kill", self.container(name))
            except DockerError:
                await asyncio.sleep(0.2)
            else:
                return

    def _exit_code(self, code: int) -> int:
        return 128 - code if code > 130 else code

    def _line(self, name: str, line: bytes) -> None:
        if line.decode(errors="replace").strip() == GATE:
            self._in_background(self._let_go(name))
        else:
            super()._line(name, line)

    def _take(self, stamped: Stamped) -> None:
        super()._take(stamped)
        if isinstance(stamped.event, Started):
            self._in_background(self._slow_down(stamped.node))

    async def _slow_down(self, name: str) -> None:
        """To its device's speed, from here on: loading libraries would take the slow ones minutes."""
        cpus = self._cpus[name]
        with contextlib.suppress(DockerError):  # it has just ended
            await docker("update", f"--cpus={cpus:.2f}", f"--cpu-shares={1024 * cpus:.0f}", self.container(name))

    async def _let_go(self, name: str) -> None:
        """It is in its site's network: make its links, then let the node start."""
        try:
            for leg in self._networks.legs(name)[1:]:
                await self._tell(name, "network", "connect", "--ip", leg.address, leg.network, self.container(name))
            self._made[name] = []
            await self._make_links(name)
        except DockerError as error:
            self._fold(name, Noted("error", f"its links cannot be made: {error}"))
            self._kill([name])
        else:
            self._open(name)

    def _open(self, name: str) -> None:
        if name in self.running:
            self._processes[name].order(GO)
            if name in self._skews:
                self._processes[name].order(f"skew {self._skews[name]}")

    async def _make_links(self, name: str) -> None:
        """As they are by now; what is so already is left alone, with the packets that wait in it."""
        async with self._link_turns[name]:
            if name in self._paused or name not in self._made:
                return
            made, scripts = self._made[name], self._scripts(name)
            for script in scripts:
                if name in self.running and script not in made:
                    await self._inside(name, script)
            made[:] = scripts  # the list is the container's: the next one has its own

    def _scripts(self, name: str) -> list[str]:
        """What each of its devices has to be told, and what concerns all."""
        others = [other for other in self.files if other != name]
        paths = [(other, leg, address) for other in others for leg, address in self._networks.paths(name, other)]
        arriving = {address: self._links[other, name] for other, _, address in paths}
        uplink = self._profile(name).uplink_mbit_s * 1e6
        leaving = [
            docker_links.leaving(
                own.address, uplink, {address: self._links[name, other] for other, leg, address in paths if leg == own}
            )
            for own in self._networks.legs(name)
        ]
        return [*leaving, docker_links.arriving(arriving)]

    async def _inside(self, name: str, script: str) -> None:
        """Beside the node, but as root, with the network's rights, which it has not."""
        said = await self._tell(name, "exec", "--user=root", self.container(name), "sh", "-c", script)
        if docker_links.NO_NETEM in said and not self._told_about_netem:
            self._told_about_netem = True
            self._fold(name, Noted("warning", "this kernel has no netem: links have no latency and no jitter"))

    async def _tell(self, name: str, *command: str) -> str:
        """Something that concerns this container; that it has just ended is no error."""
        try:
            return await docker(*command)
        except DockerError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ENDING_S):
                    await self._ended(name)
                    return ""
            raise

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))


def cpu_limits(speeds: Sequence[float], threads: int, num_cpus: float) -> list[float]:
    """CPUs for nodes of these relative speeds, none more than its threads can use, all together what there is."""
    whole = min(threads, num_cpus / sum(speeds))
    return [whole * speed for speed in speeds]


def _own(home: Path) -> str:
    """Who the container's node is: the launcher's user, or when that is root the image's own. The files are theirs."""
    user, group = (os.getuid(), os.getgid()) if os.getuid() else (USER, USER)
    for path in (home, home / "node.yaml"):
        os.chown(path, user, group)
    return f"{user}:{group}"
