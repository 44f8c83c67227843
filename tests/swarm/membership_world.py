"""A small world for membership: simulated links, a table for a directory, nodes that come and go."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2ptrain.ports import Directory, PeerId
from p2ptrain.seeds import derive, python_random
from p2ptrain.simulation.links import Links, SimulatedTransport
from p2ptrain.swarm.beats import Settings
from p2ptrain.swarm.membership import Membership
from p2ptrain.swarm.records import Record, peer_id_of, seal
from p2ptrain.telemetry.events import Event, Joined, Left, Noted
from p2ptrain.topology.links import Link

WAN = Link(latency=0.005, jitter=0.045)
EPOCH = 1_800_000_000.0
SWARM, KEY = "swarm", "swarm key"


class Table:
    """A directory that keeps what it is given until it expires, and the record of a dead peer with it."""

    def __init__(self, world: "World") -> None:
        self.records: dict[str, tuple[bytes, float]] = {}
        self.broken = False
        self._world = world

    async def publish(self, peer: PeerId, record: bytes, expires_unix_s: float) -> bool:
        if not self.broken:
            self.records[peer] = (record, expires_unix_s)
        return not self.broken

    async def lookup(self) -> list[bytes]:
        now = self._world.now_unix()
        return [] if self.broken else [record for record, expires in self.records.values() if expires > now]


@dataclass
class Node:
    """One node; its identity, address and home stay when it is started again."""

    world: "World"
    index: int
    bootstrap: tuple[str, ...] = ()
    skew_s: float = 0.0
    key: str = KEY
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.private_key = Ed25519PrivateKey.from_private_bytes(derive(self.index, "key").to_bytes(32, "big"))
        self.public_key = self.private_key.public_key().public_bytes_raw()
        self.me = peer_id_of(self.public_key)
        self.address = f"node-{self.index}:7000"
        self.membership: Membership
        self._task: asyncio.Task[None] | None = None

    def record(self, sequence: int, expires_unix_s: float) -> Record:
        return Record(self.me, f"node-{self.index}", self.index, (self.address,), (), b"", sequence, expires_unix_s)

    def seal(self, sequence: int, expires_unix_s: float, swarm: str = SWARM, key: str | None = None) -> bytes:
        return seal(
            self.record(sequence, expires_unix_s), swarm, key or self.key, self.public_key, self.private_key.sign
        )

    def now_unix(self) -> float:
        return self.world.now_unix() + self.skew_s

    def start(self, directory: Directory | None = None) -> None:
        self.transport: SimulatedTransport = self.world.links.transport(self.me, self.address)
        self.membership = Membership(
            self.transport,
            directory,
            self.seal,
            Settings(self.me, SWARM, self.key, self.world.heartbeat_s, self.bootstrap),
            rng=python_random(self.world.seed, "membership", self.index),
            now_unix=self.now_unix,
            emit=self.events.append,
        )
        self._task = asyncio.get_running_loop().create_task(self.membership.run())

    async def kill(self) -> None:
        await self.stop()
        await self.world.links.kill(self.me)

    async def stop(self) -> None:
        """End `run`, as a node does that drains; a bug in it comes out here."""
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def sees(self) -> list[PeerId]:
        return [member.peer for member in self.membership.view()]

    def joins_of(self, other: "Node") -> int:
        return sum(isinstance(event, Joined) and event.peer == other.me for event in self.events)

    def left(self) -> list[tuple[str, str]]:
        return [(event.name, event.reason) for event in self.events if isinstance(event, Left)]

    def notes(self) -> list[str]:
        return [f"{event.level}: {event.message}" for event in self.events if isinstance(event, Noted)]


class World:
    def __init__(self, num_nodes: int, heartbeat_s: float = 5.0, seed: int = 0, link: Link = WAN) -> None:
        self.heartbeat_s = heartbeat_s
        self.seed = seed
        self.links = Links(random.Random(seed), link)
        self.nodes = [Node(self, index, ("node-0:7000",)) for index in range(num_nodes)]
        self.table = Table(self)

    def now_unix(self) -> float:
        return EPOCH + self.now()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def stop(self) -> None:
        for node in self.nodes:
            await node.stop()

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> float:
        """Seconds until the condition holds; fails if that takes too long."""
        since = self.now()
        while not condition():
            assert self.now() - since < timeout_s, "not within the time"
            await asyncio.sleep(0.01)
        return self.now() - since

    def is_whole(self, *nodes: Node) -> bool:
        """Each of these sees all others of these, and nobody else."""
        ids = sorted(node.me for node in nodes or self.nodes)
        return all(node.sees() == [peer for peer in ids if peer != node.me] for node in nodes or self.nodes)
