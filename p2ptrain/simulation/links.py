"""Simulated links: the `Transport` port over queues, with latency, loss, duplication, reordering, cuts and partitions.

Every message's fate is drawn from one seeded generator, so a run is a pure function of the seed.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from p2ptrain.errors import PeerError
from p2ptrain.ports import Answer, Bytes, Contact, PeerId, Stream, StreamHandler

WINDOW = 16
"""Messages of one direction of a stream that may be under way before `send` waits."""


@dataclass
class Faults:
    """Chances per message, and seconds. All may be changed while the world runs."""

    latency_s: tuple[float, float] = (0.001, 0.01)
    cut: float = 0.0
    """The stream breaks; what is under way is lost."""
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """The message may overtake others."""


@dataclass
class Links:
    """All nodes' network. Nodes are known by peer id and by address."""

    rng: random.Random
    faults: Faults = field(default_factory=Faults)
    _nodes: dict[PeerId, "SimulatedTransport"] = field(default_factory=dict)
    _addresses: dict[str, PeerId] = field(default_factory=dict)
    _sides: dict[PeerId, int] = field(default_factory=dict)
    _pipes: list["_Pipe"] = field(default_factory=list)

    def transport(self, me: PeerId, address: str) -> "SimulatedTransport":
        """A node that comes up (again) under this id and address."""
        node = SimulatedTransport(self, me)
        self._nodes[me] = node
        self._addresses[address] = me
        return node

    async def kill(self, peer: PeerId) -> None:
        """The node is gone at once: its streams break, its handlers stop where they are."""
        node = self._nodes.pop(peer)
        self._cut_where(lambda pipe: peer in pipe.ends)
        await node.stop()

    def partition(self, *sides: list[PeerId]) -> None:
        """Only nodes of the same side reach each other; a node in no side reaches those in none."""
        self._sides = {peer: index for index, side in enumerate(sides) for peer in side}
        self._cut_where(lambda pipe: not self.connected(*pipe.ends))

    def heal(self) -> None:
        self._sides = {}

    def connected(self, one: PeerId, other: PeerId) -> bool:
        return self._sides.get(one) == self._sides.get(other)

    def find(self, caller: PeerId, peer: PeerId | None) -> "SimulatedTransport":
        if peer is None or peer not in self._nodes or not self.connected(caller, peer):
            raise PeerError("unreachable", "connection refused")
        return self._nodes[peer]

    def at(self, address: str) -> PeerId | None:
        return self._addresses.get(address)

    def latency(self) -> float:
        return self.rng.uniform(*self.faults.latency_s)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def pipe(self, one: PeerId, other: PeerId) -> tuple["_Pipe", "_Pipe"]:
        there, back = _Pipe(self, (one, other)), _Pipe(self, (one, other))
        there.twin, back.twin = back, there
        self._pipes = [pipe for pipe in self._pipes if not pipe.closed]
        self._pipes += [there, back]
        return there, back

    def _cut_where(self, hit: Any) -> None:
        for pipe in self._pipes:
            if not pipe.closed and hit(pipe):
                pipe.cut()


class _Pipe:
    """One direction of a stream."""

    def __init__(self, links: Links, ends: tuple[PeerId, PeerId]) -> None:
        self.ends = ends
        self.closed = False
        self.twin = self
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._in_line: deque[bytes] = deque()
        self._arrived: deque[bytes] = deque()
        self._room = asyncio.Semaphore(WINDOW)
        self._wake = asyncio.Event()
        self._last_arrival = 0.0
        self._under_way = 0
        self._ending = False

    async def send(self, message: Bytes) -> None:
        await self._room.acquire()
        if self.closed or self._ending:
            raise PeerError("closed", "the stream is cut")
        faults = self._links.faults
        if self._links.chance(faults.cut):
            self.cut()
            raise PeerError("closed", "the stream is cut")
        if self._links.chance(faults.drop):
            self._room.release()
            return
        for _ in range(2 if self._links.chance(faults.duplicate) else 1):
            self._schedule(bytes(message))

    def _schedule(self, message: bytes) -> None:
        when = self._loop.time() + self._links.latency()
        self._under_way += 1
        if self._links.chance(self._links.faults.reorder):
            self._loop.call_at(when, self._arrive, message)
        else:
            # Timers that are due at the same time fire in no particular order, so each takes the next in line.
            self._last_arrival = max(when, self._last_arrival)
            self._in_line.append(message)
            self._loop.call_at(self._last_arrival, lambda: self._arrive(self._in_line.popleft()))

    def _arrive(self, message: bytes) -> None:
        self._under_way -= 1
        if not self.closed:
            self._arrived.append(message)
        self._wake.set()

    async def receive(self) -> bytes:
        while not self._arrived:
            if self.closed or (self._ending and not self._under_way):
                raise PeerError("closed", "the stream is cut")
            self._wake.clear()
            await self._wake.wait()
        self._room.release()
        return self._arrived.popleft()

    def end(self) -> None:
        """What is under way still arrives, then the stream is closed."""
        self._ending = True
        self._wake.set()
        self._room.release()

    def cut(self) -> None:
        for pipe in (self, self.twin):
            pipe.closed = True
            pipe._arrived.clear()
            pipe._wake.set()
            for _ in range(WINDOW):
                pipe._room.release()


@dataclass
class _SimulatedStream:
    peer: PeerId
    outgoing: _Pipe
    incoming: _Pipe

    async def send(self, message: Bytes) -> None:
        await self.outgoing.send(message)

    async def receive(self) -> Bytes:
        return await self.incoming.receive()


class SimulatedTransport:
    """One node's end of the links; see `ports.Transport`."""

    def __init__(self, links: Links, me: PeerId) -> None:
        self.me = me
        self.contacts: dict[PeerId, Contact] = {}
        self._links = links
        self._answers: dict[str, Answer] = {}
        self._handlers: dict[str, StreamHandler] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def learn(self, peer: PeerId, contact: Contact) -> None:
        self.contacts[peer] = contact

    def forget(self, peer: PeerId) -> None:
        self.contacts.pop(peer, None)

    def serve(self, method: str, handler: Answer) -> None:
        self._answers[method] = handler

    def serve_stream(self, method: str, handler: StreamHandler) -> None:
        self._handlers[method] = handler

    async def call(self, peer: PeerId, method: str, request: bytes, timeout_s: float) -> bytes:
        if peer not in self.contacts:
            raise PeerError("unknown-peer", peer)
        return await self._call(peer, method, request, timeout_s)

    async def greet(self, address: str, method: str, request: bytes, timeout_s: float) -> bytes:
        return await self._call(self._links.at(address), method, request, timeout_s)

    @asynccontextmanager
    async def stream(self, peer: PeerId, method: str, timeout_s: float) -> AsyncIterator[Stream]:
        if peer not in self.contacts:
            raise PeerError("unknown-peer", peer)
        await asyncio.sleep(self._links.latency())
        node = self._links.find(self.me, peer)
        there, back = self._links.pipe(self.me, peer)
        node.spawn(node.handle(method, _SimulatedStream(self.me, back, there)))
        try:
            yield _SimulatedStream(peer, there, back)
        finally:
            there.end()
            back.cut()

    async def handle(self, method: str, stream: _SimulatedStream) -> None:
        """Serve one stream that another node opened."""
        try:
            await self._handlers[method](stream)
        except PeerError:
            pass
        finally:
            stream.outgoing.end()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _call(self, peer: PeerId | None, method: str, request: bytes, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self._links.latency())
                node = self._links.find(self.me, peer)
                lost = self._links.faults.drop + self._links.faults.cut
                if self._links.chance(lost):
                    await asyncio.sleep(timeout_s)
                answers = [node.answer(self.me, method, request)]
                if self._links.chance(self._links.faults.duplicate):
                    answers.append(node.answer(self.me, method, request))
                replies = [await self._answered(node.spawn(answer)) for answer in answers]
                await asyncio.sleep(self._links.latency())
                if self._links.chance(lost) or not self._links.connected(self.me, node.me):
                    await asyncio.sleep(timeout_s)
                return replies[0]
        except TimeoutError:
            raise PeerError("deadline", method) from None

    async def _answered(self, answering: asyncio.Task[bytes]) -> bytes:
        await asyncio.wait({answering})
        if answering.cancelled():
            raise PeerError("unreachable", "the node died while it answered")
        return answering.result()

    async def answer(self, caller: PeerId, method: str, request: bytes) -> bytes:
        """Serve one unary call."""
        return await self._answers[method](caller, request)
