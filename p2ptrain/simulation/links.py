"""Simulated links: the `Transport` port over queues, with latency, bandwidth, loss, cuts and silence.

What passes is what TCP would let pass: a link that is down delays, a lost packet delays, and a connection that breaks
takes with it what is under way. On top, for protocols to be tried with worse than that, whole messages can be
dropped, duplicated and reordered. Every message's fate is drawn from one seeded generator.
"""

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from typing import Any

from p2ptrain.errors import PeerError
from p2ptrain.ports import Answer, Bytes, Contact, PeerId, Stream, StreamHandler
from p2ptrain.topology.links import Link, retransmission_s

WINDOW = 16
"""Messages of one direction of a stream that may be under way before `send` waits."""
SETUP_ROUND_TRIPS = 3.0
"""What a new connection takes before its first message: TCP's greeting, TLS's, HTTP/2's. Measured with gRPC."""
LAN = Link(latency=0.001, jitter=0.009)
Way = tuple[PeerId, PeerId]


class Links:
    """All nodes' network. Nodes are known by peer id and by address."""

    def __init__(self, rng: random.Random, default: Link = LAN, cut: float = 0.0) -> None:
        """`cut`: the chance, per message, that its connection breaks."""
        self.rng, self.default, self.cut = rng, default, cut
        self.on_bug: Callable[[BaseException], None] = lambda error: None
        """Told what a handler raises that is no `PeerError`."""
        self.behind_nat: set[PeerId] = set()
        """These call others and cannot be called."""
        self._loop = asyncio.get_running_loop()
        # What is on the wire arrives even if its sender has stopped meanwhile: it belongs to no node.
        self._context = copy_context()
        self._nodes: dict[PeerId, SimulatedTransport] = {}
        self._addresses: dict[str, PeerId] = {}
        self._links: dict[Way, Link] = {}
        self._uplinks: dict[PeerId, float] = {}
        self._free_at: defaultdict[Way | PeerId, float] = defaultdict(float)
        self._stalled: defaultdict[Way, list[Callable[[], None]]] = defaultdict(list)
        self._connections: defaultdict[PeerId, dict[_Connection, None]] = defaultdict(dict)

    def transport(self, me: PeerId, address: str, context: Context | None = None) -> "SimulatedTransport":
        """A node that comes up (again) under this id and address; calls to it are answered in its `context`."""
        node = SimulatedTransport(self, me, context)
        self._nodes[me] = node
        self._addresses[address] = me
        return node

    def sever(self, peer: PeerId) -> None:
        """The node is gone at once: its connections break, and nobody listens there any more."""
        self._nodes.pop(peer, None)
        self._break(list(self._connections.pop(peer, ())))

    async def kill(self, peer: PeerId) -> None:
        """As `sever`; what it was serving is cancelled."""
        node = self._nodes[peer]
        self.sever(peer)
        await node.stop()

    def limit(self, peer: PeerId, bits_per_s: float) -> None:
        """All that the node sends shares one uplink."""
        self._uplinks[peer] = bits_per_s

    def shape(self, links: Mapping[Way, Link]) -> None:
        for way, link in links.items():
            self._links[way] = link
            if not link.down:
                for arrive in self._stalled.pop(way, ()):
                    self.deliver(way, 0, arrive)

    def partition(self, *sides: list[PeerId]) -> None:
        """Connections between the sides break, and no new ones can be made."""
        ways = [(a, b) for one in sides for other in sides if one is not other for a in one for b in other]
        self.shape({way: self.link(way).model_copy(update={"down": True}) for way in ways})
        self.reset(ways)

    def heal(self) -> None:
        """Every link is the default one."""
        self.shape(dict.fromkeys(self._links, self.default))

    def reset(self, ways: Iterable[Way]) -> None:
        """Break the connections between these."""
        pairs = {frozenset(way) for way in ways}
        hit = [link for links in self._connections.values() for link in links if frozenset(link.ends) in pairs]
        self._break(list(dict.fromkeys(hit)))

    def reset_all(self, peer: PeerId) -> None:
        """Break this node's connections."""
        self._break(list(self._connections[peer]))

    def link(self, way: Way) -> Link:
        return self._links.get(way, self.default)

    def setup_s(self, way: Way) -> float:
        """How long a new connection takes to be there."""
        there, back = self.link(way), self.link((way[1], way[0]))
        return SETUP_ROUND_TRIPS * (there.latency + back.latency + (there.jitter + back.jitter) / 2)

    def deliver(
        self, way: Way, num_bytes: int, arrive: Callable[[], None], not_before: float = 0.0, wait_s: float = 0.0
    ) -> float:
        """Have `arrive` called when so many bytes, sent after `wait_s`, have come through, after `not_before`; returns
        when that will be, as far as one can tell."""
        when = max(not_before, wait_s + self._arrival(way, num_bytes))
        self._loop.call_at(when, self._land, way, arrive, context=self._context)
        return when

    def _arrival(self, way: Way, num_bytes: int) -> float:
        link, left = self.link(way), self._loop.time()
        for queue, rate in ((way, link.bandwidth), (way[0], self._uplinks.get(way[0]))):
            if rate is not None:
                self._free_at[queue] = left = max(left, self._free_at[queue]) + 8 * num_bytes / rate
        delay = link.latency + (link.jitter * self.rng.random() if link.jitter else 0.0)
        return left + delay + (retransmission_s(link, num_bytes, self.rng.random()) if link.loss else 0.0)

    def _land(self, way: Way, arrive: Callable[[], None]) -> None:
        if self.link(way).down:
            self._stalled[way].append(arrive)
        else:
            arrive()

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def find(self, peer: PeerId) -> "SimulatedTransport":
        if peer not in self._nodes or peer in self.behind_nat:
            raise PeerError("unreachable", "connection refused")
        return self._nodes[peer]

    def at(self, address: str) -> PeerId | None:
        return self._addresses.get(address)

    def connect(self, connection: "_Connection") -> None:
        for end in connection.ends:
            self._connections[end][connection] = None

    def disconnect(self, connection: "_Connection") -> None:
        for end in connection.ends:
            self._connections[end].pop(connection, None)

    def _break(self, connections: list["_Connection"]) -> None:
        for connection in connections:
            self.disconnect(connection)
            if caller := self._nodes.get(connection.ends[0]):
                caller.hang_up(connection.ends[1])
            connection.cut()


class _Connection:
    """Something between two nodes that can break."""

    def __init__(self, links: Links, ends: Way) -> None:
        self.links, self.ends = links, ends
        links.connect(self)

    def cut(self) -> None:
        raise NotImplementedError


class _Streaming(_Connection):
    """A stream: a pipe each way."""

    def __init__(self, links: Links, ends: Way) -> None:
        super().__init__(links, ends)
        self.there, self.back = _Pipe(self, ends), _Pipe(self, (ends[1], ends[0]))

    def cut(self) -> None:
        self.links.disconnect(self)
        self.there.close()
        self.back.close()


class _Pipe:
    """One direction of a stream."""

    def __init__(self, streaming: _Streaming, way: Way) -> None:
        self.closed = False
        self._streaming, self._links, self._way = streaming, streaming.links, way
        self._in_line: deque[bytes] = deque()
        self._arrived: deque[bytes] = deque()
        self._room = asyncio.Semaphore(WINDOW)
        self._wake = asyncio.Event()
        self._last_arrival = 0.0
        self._under_way = 0
        self._ending = self._ended = False

    async def send(self, message: Bytes) -> None:
        await self._room.acquire()
        if self.closed or self._ending:
            raise PeerError("closed", "the stream is cut")
        links, link = self._links, self._links.link(self._way)
        # TLS sees a flipped bit, and ends the connection.
        if links.chance(links.cut) or links.chance(link.corrupt):
            self._streaming.cut()
            raise PeerError("closed", "the stream is cut")
        if links.chance(link.drop):
            self._room.release()
            return
        for _ in range(2 if links.chance(link.duplicate) else 1):
            self._schedule(bytes(message), in_order=not links.chance(link.reorder))

    def _schedule(self, message: bytes, in_order: bool) -> None:
        self._under_way += 1
        if not in_order:
            self._links.deliver(self._way, len(message), lambda: self._arrive(message))
            return
        # Whichever arrival comes first, after a link was down, brings the message that is next.
        self._in_line.append(message)
        arrive = lambda: self._arrive(self._in_line.popleft())  # noqa: E731
        self._last_arrival = self._links.deliver(self._way, len(message), arrive, self._last_arrival)

    def _arrive(self, message: bytes) -> None:
        self._under_way -= 1
        if not self.closed:
            self._arrived.append(message)
        self._wake.set()

    async def receive(self) -> bytes:
        while not self._arrived:
            if self.closed or (self._ended and not self._under_way):
                raise PeerError("closed", "the stream is cut")
            self._wake.clear()
            await self._wake.wait()
        self._room.release()
        return self._arrived.popleft()

    def end(self) -> None:
        """What is under way still arrives, then the stream is closed."""
        self._ending = True
        self._room.release()
        self._links.deliver(self._way, 0, self._finish, self._last_arrival)

    def _finish(self) -> None:
        self._ended = True
        self._wake.set()

    def close(self) -> None:
        self.closed = True
        self._arrived.clear()
        self._wake.set()
        for _ in range(WINDOW):
            self._room.release()


class _SimulatedStream:
    def __init__(self, peer: PeerId, outgoing: _Pipe, incoming: _Pipe) -> None:
        self.peer = peer
        self.send, self.receive, self.end = outgoing.send, incoming.receive, outgoing.end


class _Call(_Connection):
    """One unary call under way."""

    def __init__(self, links: Links, ends: Way, method: str, request: bytes, wait_s: float) -> None:
        super().__init__(links, ends)
        self._method, self._request, self._wait_s = method, request, wait_s
        self._reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def reply(self, timeout_s: float) -> bytes:
        links, way = self.links, self.ends
        deadline = asyncio.get_running_loop().call_later(timeout_s, self._settle, PeerError("deadline", self._method))
        try:
            if links.chance(links.cut) or links.chance(links.link(way).corrupt):
                raise PeerError("unreachable", "the connection broke")
            if self._wait_s < timeout_s:  # or it is given up before there is a connection
                for _ in range(2 if links.chance(links.link(way).duplicate) else 1):
                    self._pass(way, len(self._request), self._ask, self._wait_s)
            return await self._reply
        finally:
            deadline.cancel()
            links.disconnect(self)

    def cut(self) -> None:
        self._settle(PeerError("unreachable", "the connection broke"))

    def _pass(self, way: Way, num_bytes: int, arrive: Callable[[], None], wait_s: float = 0.0) -> None:
        if not self.links.chance(self.links.link(way).drop):
            self.links.deliver(way, num_bytes, arrive, wait_s=wait_s)

    def _ask(self) -> None:
        try:
            node = self.links.find(self.ends[1])
        except PeerError as error:
            self._settle(error)
        else:
            node.spawn(node.answer(self.ends[0], self._method, self._request)).add_done_callback(self._answered)

    def _answered(self, answer: asyncio.Task[bytes]) -> None:
        if answer.cancelled():
            self._settle(PeerError("unreachable", "the node died while it answered"))
            return
        error = answer.exception()
        reply = b"" if error else answer.result()
        self._pass((self.ends[1], self.ends[0]), len(reply), lambda: self._settle(error or reply))

    def _settle(self, outcome: bytes | BaseException) -> None:
        if self._reply.done():
            return
        if isinstance(outcome, BaseException):
            self._reply.set_exception(outcome)
        else:
            self._reply.set_result(outcome)


class SimulatedTransport:
    """One node's end of the links; see `ports.Transport`."""

    def __init__(self, links: Links, me: PeerId, context: Context | None) -> None:
        self.me = me
        self.contacts: dict[PeerId, Contact] = {}
        self._links, self._context = links, context
        self._ready_at: dict[PeerId, float] = {}
        """Whom there is a connection to, or will be then."""
        self._answers: dict[str, Answer] = {}
        self._handlers: dict[str, StreamHandler] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def learn(self, peer: PeerId, contact: Contact) -> None:
        if self.contacts.get(peer) != contact:
            self.hang_up(peer)
            self.contacts[peer] = contact

    def forget(self, peer: PeerId) -> None:
        self.contacts.pop(peer, None)
        self.hang_up(peer)

    def hang_up(self, peer: PeerId) -> None:
        """The next call to it needs a new connection."""
        self._ready_at.pop(peer, None)

    def serve(self, method: str, handler: Answer) -> None:
        self._answers[method] = handler

    def serve_stream(self, method: str, handler: StreamHandler) -> None:
        self._handlers[method] = handler

    async def start(self) -> None:
        """Calls come in from the beginning: who makes a transport here also starts it."""

    async def close(self) -> None:
        self._links.sever(self.me)
        await self.stop()

    async def call(self, peer: PeerId, method: str, request: bytes, timeout_s: float) -> bytes:
        if peer not in self.contacts:
            raise PeerError("unknown-peer", peer)
        call = _Call(self._links, (self.me, peer), method, request, self._wait_s(peer))
        return await call.reply(timeout_s)

    async def greet(self, address: str, method: str, request: bytes, timeout_s: float) -> bytes:
        peer = self._links.at(address)
        if peer is None:
            raise PeerError("unreachable", "connection refused")
        way = (self.me, peer)
        return await _Call(self._links, way, method, request, self._links.setup_s(way)).reply(timeout_s)

    @asynccontextmanager
    async def stream(self, peer: PeerId, method: str, timeout_s: float) -> AsyncIterator[Stream]:
        if peer not in self.contacts:
            raise PeerError("unknown-peer", peer)
        streaming = _Streaming(self._links, (self.me, peer))
        there, back = streaming.there, streaming.back

        def arrive() -> None:
            try:
                node = self._links.find(peer)
            except PeerError:
                streaming.cut()
            else:
                node.spawn(node.handle(method, _SimulatedStream(self.me, back, there)))

        there._last_arrival = self._links.deliver((self.me, peer), 0, arrive, wait_s=self._wait_s(peer))
        try:
            yield _SimulatedStream(peer, there, back)
        finally:
            there.end()
            back.close()
            self._links.disconnect(streaming)

    async def handle(self, method: str, stream: _SimulatedStream) -> None:
        """Serve one stream that another node opened."""
        try:
            await self._handlers[method](stream)
        except PeerError:
            pass
        finally:
            stream.end()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, context=self._context)
        self._tasks[task] = None
        task.add_done_callback(self._served)
        return task

    def _served(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, PeerError):
            self._links.on_bug(error)

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wait_s(self, peer: PeerId) -> float:
        """Until there is a connection to it, which is made if need be."""
        now = asyncio.get_running_loop().time()
        if peer not in self._ready_at:
            self._ready_at[peer] = now + self._links.setup_s((self.me, peer))
        return max(0.0, self._ready_at[peer] - now)

    async def answer(self, caller: PeerId, method: str, request: bytes) -> bytes:
        """Serve one unary call."""
        return await self._answers[method](caller, request)
