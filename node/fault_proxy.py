"""A TCP proxy on loopback that puts a topology's links between real processes: slow, lossy, cut, half-open, reset.

Each node dials out through an HTTP CONNECT port of its own (`node.proxy`): the port says who dials, the CONNECT whom,
so both ends of every connection are known. One direction of a connection is a pipe: bytes wait for their turn on the
line, are under way for as long as the link takes, and are held where it is down.
"""

import asyncio
import re
import socket
import struct
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from p2ptrain.seeds import python_random
from p2ptrain.topology import Topology
from p2ptrain.topology.links import PACKET_BYTES, Link, Pair, retransmission_s
from p2ptrain.training.devices import PROFILES

HOST = "127.0.0.1"
CHUNK_BYTES = 1 << 16
CHUNKS_MAX = 128
"""So many may be under way in one direction of a connection, 8 MiB; then its sender waits."""
KERNEL_BYTES = 1 << 17
"""The system's buffer for what arrives: with the usual megabytes, a sender would not notice how slow a link is."""
TURN_S = 0.01
"""What one connection sends before others have their turn on the same line."""
BURST_S = 0.02
"""A line that was idle may send ahead for so long: timers are no more exact than that."""
HEAD_S = 10.0
"""For a dialler to say whom it wants."""
BACKLOG = 1024

_CONNECT = re.compile(rb"CONNECT (\S+):(\d{1,5}) HTTP/1\.[01]\r\n")
RST_ON_CLOSE = socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)

_UnderWay = asyncio.Queue[tuple[float, bytes | None]]
"""Chunks and when they are due; at the end an empty one, or None after a reset."""


class Line:
    """A token bucket, as virtual scheduling: so many bits per second, whoever sends them."""

    def __init__(self, bits_per_s: float | None) -> None:
        self.bits_per_s = bits_per_s
        self._free_at = 0.0

    def take(self, size_bytes: int, now: float) -> float:
        """When the last of these bytes has left."""
        if self.bits_per_s is None:
            return now
        self._free_at = max(self._free_at, now - BURST_S) + 8 * size_bytes / self.bits_per_s
        return self._free_at


class Lane:
    """One direction between two nodes, shared by all their connections."""

    def __init__(self, pair: Pair, link: Link, uplink: Line, seed: int) -> None:
        self._uplink, self._line = uplink, Line(None)
        self._rng = python_random(seed, "lane", *pair)
        self.up = asyncio.Event()
        self.become(link)

    def become(self, link: Link) -> None:
        if link.loss == 1:  # as a delay it would outlast the heal by hours
            link = link.model_copy(update={"loss": 0.0, "down": True})
        self._link = link
        self._line.bits_per_s = link.bandwidth
        if link.down:
            self.up.clear()
        else:
            self.up.set()

    @property
    def turn_bytes(self) -> int:
        rates = [line.bits_per_s for line in (self._uplink, self._line) if line.bits_per_s is not None]
        return min([CHUNK_BYTES, *(max(PACKET_BYTES, int(rate / 8 * TURN_S)) for rate in rates)])

    async def depart(self, size_bytes: int) -> None:
        """Wait until so many bytes have left the sender."""
        now = _now()
        await _until(max(line.take(size_bytes, now) for line in (self._uplink, self._line)))

    def travel_s(self, size_bytes: int) -> float:
        """From departure to arrival."""
        lost_s = retransmission_s(self._link, size_bytes, self._rng.random())
        return self._link.latency + self._rng.uniform(0, self._link.jitter) + lost_s


@dataclass(eq=False)
class _End:
    """The proxy's side of a connection to one of the two nodes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __post_init__(self) -> None:
        self.writer.transport.set_write_buffer_limits(0)  # `drain` returns when all is in the system's hands
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)

    @property
    def _socket(self) -> socket.socket:
        return self.writer.get_extra_info("socket")

    def close(self, *, reset: bool = False) -> None:
        if reset and not self.writer.transport.is_closing():
            self._socket.setsockopt(*RST_ON_CLOSE)
        self.writer.transport.abort()


class _Reset(Exception):
    """One end has broken the connection, and it is time that the other hears of it."""


async def _carry(lane: Lane, source: _End, target: _End) -> None:
    """One direction of a connection, to its end; raises `_Reset` when that is not an orderly one."""
    under_way: _UnderWay = asyncio.Queue(CHUNKS_MAX)
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(_send(lane, source.reader, under_way))
        await _arrive(lane, under_way, target.writer)
        sending.cancel()


async def _send(lane: Lane, reader: asyncio.StreamReader, under_way: _UnderWay) -> None:
    due, chunk = 0.0, b"..."
    while chunk:
        try:
            chunk = await reader.read(lane.turn_bytes)
        except OSError:
            chunk = None
        size = len(chunk or b"")
        await lane.depart(size)
        due = max(due, _now() + lane.travel_s(size))
        await under_way.put((due, chunk))


async def _arrive(lane: Lane, under_way: _UnderWay, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # nobody reads there any more, which the way back will tell
        while True:
            due, chunk = await under_way.get()
            await _until(due)
            await lane.up.wait()
            if chunk is None:
                raise _Reset
            if not chunk:
                writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()


@dataclass(eq=False)
class _Connection:
    """Between two nodes, through the proxy."""

    dialler: _End
    source: str
    target: str | None = None
    answerer: _End | None = None

    def close(self, *, reset: bool = False) -> None:
        for end in (self.dialler, self.answerer):
            if end:
                end.close(reset=reset)


class FaultProxy:
    """Construct it, `start` it, `close` it; `shape` and `reset` are what `p2ptrain.faults.Runtime` asks for."""

    def __init__(self, topology: Topology, names: Mapping[int, str]) -> None:
        """`names`: who listens at which port."""
        self._topology, self._names = topology, names
        self._uplinks = {name: Line(_uplink(topology, group.device)) for name, group in topology.members()}
        self._lanes: dict[Pair, Lane] = {}
        self._servers: list[asyncio.Server] = []
        self._connections: dict[_Connection, asyncio.Task[None]] = {}

    async def start(self) -> dict[str, str]:
        """Each node's own port, host:port."""
        doors = {}
        for name in self._names.values():
            listening = socket.create_server((HOST, 0), backlog=BACKLOG)
            accept = partial(self._accept, name)
            self._servers.append(await asyncio.start_server(accept, sock=listening, limit=CHUNK_BYTES))
            doors[name] = f"{HOST}:{listening.getsockname()[1]}"
        return doors

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._connections.values():
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections.values())

    @property
    def num_connections(self) -> int:
        """Open, or being opened."""
        return len(self._connections)

    def shape(self, links: Mapping[Pair, Link]) -> None:
        """From now on these directions are such links, also for what is under way."""
        for pair, link in links.items():
            self._lane(pair).become(link)

    def reset(self, pairs: Iterable[Pair]) -> None:
        """Break all connections between these; both ends are told at once."""
        wanted = {frozenset(pair) for pair in pairs}
        for connection, task in self._connections.items():
            if {connection.source, connection.target} in wanted:
                connection.close(reset=True)
                task.cancel()

    def _lane(self, pair: Pair) -> Lane:
        if pair not in self._lanes:
            topology = self._topology
            self._lanes[pair] = Lane(pair, topology.link(pair), self._uplinks[pair[0]], topology.run.seed)
        return self._lanes[pair]

    def _accept(self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(_End(reader, writer), source)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._forget(connection))

    def _forget(self, connection: _Connection) -> None:
        connection.close()
        del self._connections[connection]

    async def _serve(self, connection: _Connection) -> None:
        try:
            await self._connect(connection)
        except* _Reset:
            connection.close(reset=True)

    async def _connect(self, connection: _Connection) -> None:
        dialler = connection.dialler
        if (wanted := await _wanted(dialler.reader)) is None:
            return
        host, port = wanted
        connection.target = target = self._names.get(port)
        if target is None:
            dialler.writer.write(b"HTTP/1.1 403 Not a node of this swarm\r\n\r\n")
            return
        there, back = self._lane((connection.source, target)), self._lane((target, connection.source))
        try:
            await _unless_gone(dialler.reader, _dial(connection, there, back, host, port))
        except OSError:
            dialler.writer.write(b"HTTP/1.1 502 Nobody there\r\n\r\n")
        if connection.answerer:
            dialler.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(there, dialler, connection.answerer))
                group.create_task(_carry(back, connection.answerer, dialler))


async def _wanted(reader: asyncio.StreamReader) -> tuple[str, int] | None:
    """(host, port) of a CONNECT; None for anything else."""
    with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
        async with asyncio.timeout(HEAD_S):
            found = _CONNECT.match(await reader.readuntil(b"\r\n\r\n"))
        return (found[1].decode("ascii", "replace").strip("[]"), int(found[2])) if found else None
    return None


async def _dial(connection: _Connection, there: Lane, back: Lane, host: str, port: int) -> None:
    """A handshake takes a packet each way, for as long as it takes until both pass."""
    while not (there.up.is_set() and back.up.is_set()):
        await there.up.wait()
        await back.up.wait()
    await asyncio.sleep(there.travel_s(1) + back.travel_s(1))
    connection.answerer = _End(*await asyncio.open_connection(host, port, limit=CHUNK_BYTES))


async def _unless_gone(reader: asyncio.StreamReader, work: Coroutine[Any, Any, None]) -> None:
    """Do this, but leave off when whoever waits for it hangs up; until it is done, they have nothing to say."""

    async def gone() -> None:
        with suppress(OSError):
            await reader.read(1)

    tasks = {asyncio.create_task(gone()), working := asyncio.create_task(work)}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    if not working.cancelled():
        working.result()


def _uplink(topology: Topology, device: str) -> float | None:
    """Bits per second; None where the topology says nothing of links, or the node is just this machine."""
    if not topology.links or device == "this-machine":
        return None
    return PROFILES[device].uplink_mbit_s * 1e6


async def _until(moment: float) -> None:
    if (left_s := moment - _now()) > 0:
        await asyncio.sleep(left_s)


def _now() -> float:
    return asyncio.get_running_loop().time()
