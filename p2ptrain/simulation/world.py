"""A whole swarm in one process and virtual time: a pure function of (topology, seed).

The nodes are the real daemons (`p2ptrain.daemon`) on simulated machines. Every event goes into the trace, whose hash
is the same wherever and however often the same world runs.
"""

import asyncio
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from p2ptrain import chaos, seeds
from p2ptrain.config import NodeFile
from p2ptrain.daemon import Daemon, Machine
from p2ptrain.faults import carry_out
from p2ptrain.ports import Contact, PeerId
from p2ptrain.simulation.ether import Ether
from p2ptrain.simulation.links import Links, SimulatedTransport
from p2ptrain.simulation.loop import NODE, VirtualLoop
from p2ptrain.simulation.machine import Crashed, SimulatedCompute, SimulatedDirectory, SimulatedDisk
from p2ptrain.simulation.members import Table, TableMembers
from p2ptrain.swarm.records import peer_id_of
from p2ptrain.telemetry.events import Died, Event, Faulted, Noted, Restarted, Stamped, to_json
from p2ptrain.topology import Topology
from p2ptrain.topology.links import Link, Pair
from p2ptrain.training.devices import relative_speeds

EPOCH_UNIX_S = 1_800_000_000.0
DRAIN_S = 25.0
"""From being asked to stop to being killed."""
LOOPBACK = Link(latency=0.0002, jitter=0.0002)
"""Where the file says nothing of links: nodes on one machine."""
KEY = "the key of a simulated swarm"

OnEvent = Callable[[Stamped], None]


class Hang(AssertionError):
    """The swarm has not come to an end within the time given to it."""


@dataclass
class SimulatedNode:
    """One node of the file: what it is, what it keeps when it dies, and its present life if it has one."""

    name: str
    file: NodeFile
    private_key: Ed25519PrivateKey
    home: SimulatedDisk
    checkpoints: SimulatedDisk
    skew_s: float = 0.0
    lives: int = 0
    born: float = 0.0
    died: float = -1.0
    """When its present or last life began, and when the last one ended."""
    daemon: Daemon | None = None
    task: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    paused: bool = False
    due: bool = False
    """The power goes with its next write, and it is started again at once."""

    @property
    def is_to_tear(self) -> bool:
        """Whether the power goes with its next write."""
        return self.home.tear is not None or self.checkpoints.tear is not None

    def keep_power(self) -> None:
        """Whatever was to happen with its next write does not."""
        self.home.tear = self.checkpoints.tear = None
        self.due = False

    @property
    def public_key(self) -> bytes:
        return self.private_key.public_key().public_bytes_raw()

    @property
    def peer(self) -> PeerId:
        return peer_id_of(self.public_key)

    @property
    def alive(self) -> bool:
        return self.task is not None

    @property
    def life(self) -> str:
        """The name under which the loop knows this life of the node."""
        return f"{self.name}#{self.lives}"


class World:
    """`faults.Runtime` on a virtual loop. `run` it once, in `simulation.loop.run`."""

    def __init__(self, topology: Topology, on_event: OnEvent = lambda stamped: None) -> None:
        self.topology = topology
        self.on_event = on_event
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.num_events = 0
        self._is_over = False
        self._trace = hashlib.sha256()
        seed = topology.run.seed
        self.loop, self.context = _virtual_loop(), copy_context()
        topology.run.codec.warm()  # small as the vectors may be, there are many
        default = topology.links.get("default", Link()) if topology.links else LOOPBACK
        self.links = Links(seeds.python_random(seed, "links"), default)
        self.links.on_bug = self.fail
        self.ether = Ether(seeds.python_random(seed, "ether"), default)
        self.directory = SimulatedDirectory(lambda: EPOCH_UNIX_S + self.now)
        self.table = Table() if topology.simulation.members == "table" else None
        self.nodes = {file.node.name: self._node(file) for file in node_files(topology)}
        self.calm_since = 0.0
        """When a fault last began or ended."""
        self._contacts = {node.peer: Contact((node.file.node.listen,), b"") for node in self.nodes.values()}
        """Everyone's, for those who know everyone from the table."""
        self._names = {node.peer: node.name for node in self.nodes.values()}
        self._disturbed: dict[str, float] = {}
        self._shape_links()

    @property
    def now(self) -> float:
        return self.loop.time()

    def node_of(self, peer: str) -> SimulatedNode:
        return self.nodes[self._names[PeerId(peer)]]

    def disturbed(self, name: str) -> float:
        """When a fault last befell this node or a link of its."""
        return self._disturbed.get(name, -math.inf)

    def disturb(self, names: Iterable[str]) -> None:
        self.calm_since = self.now
        self._disturbed.update(dict.fromkeys(names, self.now))

    @property
    def trace(self) -> str:
        """SHA-256 of all events so far, in order."""
        return self._trace.hexdigest()

    async def run(self, limit_s: float = 24 * 3600.0) -> None:
        """From the first start to the last end. Raises `Hang` with who waits where when that takes too long, and what
        observers of events raise."""
        swarm = asyncio.ensure_future(self._run())
        try:
            done, _ = await asyncio.wait([swarm, self._failure], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise Hang(f"not over after {limit_s:g} s; these wait: {self.loop.waiting()}")
            for one in done:
                one.result()
        finally:
            self._failure.cancel()
            swarm.cancel()
            await asyncio.gather(swarm, return_exceptions=True)
            await self._clear()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            faults = group.create_task(carry_out(self.topology, self, lambda: self.now, self.say))
            for name, at in self._starts():
                group.create_task(self._start_at(name, at))
            await self._over()
            faults.cancel()

    async def _over(self) -> None:
        """Until nobody lives and nobody is yet to be started."""
        last_start_s = max(at for _, at in self._starts())
        last_start_s = max([last_start_s, *(deed.at for deed in self.topology.plan() if deed.verb == "start")])
        while True:
            while running := [node for node in self.nodes.values() if node.alive]:
                await asyncio.wait([asyncio.ensure_future(node.ended.wait()) for node in running])
            if self.now > last_start_s:
                return
            await asyncio.sleep(max(0.001, last_start_s - self.now))

    def _starts(self) -> list[tuple[str, float]]:
        return [(name, group.starts) for name, group in self.topology.members()]

    async def _start_at(self, name: str, at: float) -> None:
        await asyncio.sleep(at)
        await self.start(name)

    async def start(self, name: str) -> None:
        node = self.nodes[name]
        if node.alive:
            node.due = node.is_to_tear
        else:
            self._begin(node)

    def _begin(self, node: SimulatedNode) -> None:
        name = node.name
        if node.lives:
            self._log(name, Restarted())
        node.lives += 1
        node.born = self.now
        node.ended = asyncio.Event()
        context = copy_context()
        context.run(NODE.set, node.life)
        transport = self.links.transport(node.peer, node.file.node.listen, context)
        if self.table:
            transport.contacts = self._contacts
        node.task = self.loop.create_task(self._live(node, transport), context=context)

    async def _live(self, node: SimulatedNode, transport: SimulatedTransport) -> None:
        file, machine = self._equip(node, transport)
        try:
            node.daemon = await Daemon.assemble(file, machine)
            await node.daemon.run()
            await transport.close()
        except Crashed:
            return
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.fail(error)  # and not raised: nobody waits for this task
            return
        self._end(node)

    def _equip(self, node: SimulatedNode, transport: SimulatedTransport) -> tuple[NodeFile, Machine]:
        """What a new life of the node starts with."""
        alive = [other for other in self.nodes.values() if other.alive and other is not node]
        others = [other.file.node.listen for other in alive if other.file.node.calls][:3]
        bootstrap = tuple(dict.fromkeys((*node.file.node.bootstrap, *(others if node.lives > 1 else ()))))
        calls = node.file.node.calls
        config = node.file.node.model_copy(update={"bootstrap": bootstrap if calls and not self.table else ()})
        members = TableMembers(self.table, node.peer, node.name, config.slot) if self.table else None
        machine = Machine(
            peer=node.peer,
            public_key=node.public_key,
            sign=node.private_key.sign,
            certificate=b"",
            addresses=(config.listen,),
            bootstrap=config.bootstrap,
            transport=transport,
            directory=self.directory if config.dht and calls and not self.table else None,
            channel=None if config.carrier == "grpc" else self.ether.channel(node.peer),
            compute=self._compute(node),
            home=node.home,
            checkpoints=node.checkpoints,
            now_unix=lambda: EPOCH_UNIX_S + self.now + node.skew_s,
            emit=partial(self._log, node.name),
            life=node.life,
            spy=self._spy,
            members=members,
        )
        return node.file.model_copy(update={"node": config}), machine

    def _spy(self) -> tuple[dict[PeerId, Tensor], int]:
        """What all honest nodes would say now, and how many liars there are."""
        honest = {}
        for node in self.nodes.values():
            if node.daemon is not None and node.file.node.attack is None:
                offered = node.daemon.gatherer.offered
                honest[node.peer] = node.daemon.trainer.replica.snapshot() if offered is None else offered
        return honest, sum(node.file.node.attack is not None for node in self.nodes.values())

    def _compute(self, node: SimulatedNode) -> SimulatedCompute:
        rng = seeds.python_random(self.topology.run.seed, "compute", node.life)
        return SimulatedCompute(self.topology.simulation.step / node.file.node.speed, rng)

    def crash(self, name: str) -> None:
        """At once, in the middle of whatever it does."""
        node = self.nodes[name]
        if not node.alive:
            return
        self.loop.pause(node.life)
        self.links.sever(node.peer)
        self.ether.leave(node.peer)
        if self.table:
            self.table.remove(node.peer)
        self._log(name, Died(-9))
        self._end(node)

    def _end(self, node: SimulatedNode) -> None:
        node.died = self.now
        node.task, node.daemon, node.paused = None, None, False
        is_due = node.due
        node.keep_power()
        node.ended.set()
        if is_due:
            self.loop.call_soon(self._begin, node, context=self.context)

    async def kill(self, name: str) -> None:
        self.crash(name)

    async def stop(self, name: str) -> None:
        node = self.nodes[name]
        if node.daemon is None:
            self.crash(name)
            return
        node.daemon.stop()
        try:
            async with asyncio.timeout(DRAIN_S):
                await node.ended.wait()
        except TimeoutError:
            self._log(name, Noted("error", f"did not stop within {DRAIN_S:g} s, killed"))
            self.crash(name)

    async def pause(self, name: str) -> None:
        node = self.nodes[name]
        if node.alive:
            node.paused = True
            self.loop.pause(node.life)

    async def resume(self, name: str) -> None:
        node = self.nodes[name]
        if node.alive and node.paused:
            node.paused = False
            self.loop.resume(node.life)

    async def tear(self, name: str) -> None:
        node = self.nodes[name]
        if node.alive:
            node.checkpoints.tear = node.home.tear = partial(self.crash, name)

    async def skew(self, name: str, seconds: float) -> None:
        self.nodes[name].skew_s = seconds

    async def shape(self, links: Mapping[Pair, Link]) -> None:
        self.links.shape({(self._peer(a), self._peer(b)): link for (a, b), link in links.items()})

    async def reset(self, pairs: Sequence[Pair]) -> None:
        self.links.reset([(self._peer(a), self._peer(b)) for a, b in pairs])

    def fail(self, error: BaseException) -> None:
        """Something is wrong with the swarm, or with the program: the run ends with this error."""
        if not self._failure.done():
            self._failure.set_exception(error)

    def say(self, event: Event) -> None:
        """An event of the world itself."""
        if isinstance(event, Faulted):
            self.disturb(event.whom.replace(">", " ").split())
        self._log("", event)

    def _log(self, name: str, event: Event) -> None:
        if self._is_over:
            return
        stamped = Stamped(name, self.now, event)
        self.num_events += 1
        self._trace.update(to_json(stamped).encode())
        try:
            self.on_event(stamped)
        except AssertionError as error:
            self.fail(error)

    def _peer(self, name: str) -> PeerId:
        return self.nodes[name].peer

    def _node(self, file: NodeFile) -> SimulatedNode:
        seed, name = self.topology.run.seed, file.node.name
        private_key = Ed25519PrivateKey.from_private_bytes(seeds.derive(seed, "key", name).to_bytes(32, "big"))
        home, checkpoints = (SimulatedDisk(seeds.python_random(seed, "disk", name, part)) for part in range(2))
        return SimulatedNode(name, file, private_key, home, checkpoints)

    def _shape_links(self) -> None:
        """The file's links, and the devices' uplinks where the file says anything of links."""
        if not self.topology.links:
            return
        names, others = list(self.nodes), self.topology.links.keys() - {"default"}
        special = {
            (a, b): link for a in names for b in names
            if a != b and others and (link := self.topology.link((a, b))) != self.links.default
        }  # fmt: skip
        self.links.shape({(self._peer(a), self._peer(b)): link for (a, b), link in special.items()})
        for name, group in self.topology.members():
            if group.profile.speed:  # else it is this machine, whose own network is what it is
                self.links.limit(self._peer(name), group.profile.uplink_mbit_s * 1e6)

    async def _clear(self) -> None:
        """The dead may end now, unheard, so that nothing is left on the loop."""
        chaos.interfere = chaos.observe = None
        self._is_over = True
        tasks = self.loop.release()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def node_files(topology: Topology) -> list[NodeFile]:
    """The configuration of each node, in order of slots."""
    members = topology.members()
    speeds = relative_speeds([group.device for _, group in members])
    shards = topology.run.data.shards or len(members)
    run = topology.run.model_copy(update={"data": topology.run.data.model_copy(update={"shards": shards})})
    first = None if topology.door is None else f"{members[topology.door][0]}:1"
    files = []
    for slot, (name, group) in enumerate(members):
        own = {
            "name": name, "slot": slot, "home": Path(name), "listen": f"{name}:1", "profile": group.device,
            "bootstrap": (first,) if topology.door not in (None, slot) else (), "speed": speeds[slot],
            "attack": group.attack, "device": "cpu", "carrier": topology.carrier(group),
            "mqtt": topology.mqtt,
        }  # fmt: skip
        settings = {"name": topology.name, "run": run, "graph": topology.graph}
        files.append(NodeFile.model_validate({**settings, "node": {"key": KEY, **topology.node, **own}}))
    return files


def _virtual_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "run it in simulation.loop.run"
    return loop
