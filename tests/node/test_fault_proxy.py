"""Real sockets through the proxy. Times are compared with each other, or bounded from below."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest

from node import fault_proxy
from node.fault_proxy import FaultProxy
from p2ptrain.network.transport import Cleartext, GrpcTransport
from p2ptrain.ports import Bytes, Contact, PeerId
from p2ptrain.topology import Topology
from p2ptrain.topology.links import Link

MUCH = 64 << 20
TIMEOUT_S = 20.0
QUIET_S = 0.3
"""Nothing has arrived for so long: nothing will."""
DOWN, CLEAR = Link(down=True), Link()

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class World:
    """Nodes a, b and c behind a proxy; everyone listens, and answers nothing by itself."""

    def __init__(self, links: dict[str, Any], device: str) -> None:
        nodes = [{"name": name, "device": device} for name in "abc"]
        run = {"task": "digits", "steps": 1}
        self._topology = Topology.model_validate({"run": run, "nodes": nodes, "links": links})
        self._accepted: dict[str, asyncio.Queue[Ends]] = {name: asyncio.Queue() for name in "abc"}
        self._writers: list[asyncio.StreamWriter] = []
        self._servers: list[asyncio.Server] = []
        self.ports: dict[str, int] = {}

    async def start(self) -> None:
        for name, accepted in self._accepted.items():
            server = await asyncio.start_server(partial(self._accept, accepted), "127.0.0.1", 0, backlog=2000)
            self._servers.append(server)
            self.ports[name] = server.sockets[0].getsockname()[1]
        self.proxy = FaultProxy(self._topology, {port: name for name, port in self.ports.items()})
        self.doors = await self.proxy.start()

    def _accept(self, accepted: asyncio.Queue[Ends], *ends: Any) -> None:
        self._writers.append(ends[1])
        accepted.put_nowait(ends)

    async def close(self) -> None:
        await self.proxy.close()
        for server in self._servers:
            server.close()
        self.hang_up()
        await asyncio.sleep(0)

    async def request(self, source: str, head: bytes) -> Ends:
        host, _, port = self.doors[source].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self._writers.append(writer)
        writer.write(head)
        return reader, writer

    async def dial(self, source: str, target: str) -> Ends:
        """What the dialler gets; before the answer."""
        address = f"127.0.0.1:{self.ports[target]}"
        return await self.request(source, f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())

    async def connect(self, source: str, target: str) -> tuple[Ends, Ends]:
        """Both ends of a new connection: the dialler's, the answerer's."""
        ours = await self.dial(source, target)
        assert b" 200 " in await soon(ours[0].readuntil(b"\r\n\r\n"))
        return ours, await soon(self._accepted[target].get())

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def idle(self, num_connections: int = 0) -> None:
        await until(lambda: self.proxy.num_connections == num_connections)


@asynccontextmanager
async def world(device: str = "this-machine", **links: Any) -> AsyncIterator[World]:
    made = World({"default": links} if links else {}, device)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def soon(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(TIMEOUT_S):
        return await work


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def silent(reader: asyncio.StreamReader) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            raise AssertionError(f"got {await reader.read(100)!r}")


async def says(one: Ends, other: Ends, content: bytes = b"hello") -> None:
    """What one writes, the other reads."""
    one[1].write(content)
    assert await soon(other[0].readexactly(len(content))) == content


async def seconds(work: Awaitable[Any]) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await soon(work)
    return loop.time() - begun


async def best_of_three(work: Callable[[], Awaitable[Any]]) -> float:
    """For bounds from above: a busy machine stalls now and then."""
    return min([await seconds(work()) for _ in range(3)])


async def send(ends: Ends, size: int) -> None:
    ends[1].write(bytes(size))
    await ends[1].drain()


async def test_bytes_pass_unchanged_both_ways_and_so_does_their_end() -> None:
    content = random.Random(0).randbytes(3 << 20)
    async with world() as net:
        ours, theirs = await net.connect("a", "b")
        await asyncio.gather(says(ours, theirs, content), says(theirs, ours, content[::-1]))
        ours[1].write_eof()
        assert await soon(theirs[0].read()) == b""
        await says(theirs, ours)  # half-closed is not closed
        theirs[1].close()
        assert await soon(ours[0].read()) == b""
        await net.idle()


async def test_a_lossy_jittery_link_keeps_content_and_order() -> None:
    content = random.Random(0).randbytes(3 << 20)
    async with world(latency=0.002, jitter=0.02, loss=0.001) as net:
        ours, theirs = await net.connect("a", "b")
        await says(ours, theirs, content)


async def test_latency_is_added_each_way_and_a_handshake_takes_a_round_trip() -> None:
    async with world(latency=0.15) as net:
        begun = asyncio.get_running_loop().time()
        ours, theirs = await net.connect("a", "b")
        assert asyncio.get_running_loop().time() - begun >= 0.3
        there = await seconds(says(ours, theirs))
        net.proxy.shape({("b", "a"): CLEAR})
        back = await seconds(says(theirs, ours))
        assert there >= 0.15
        assert back < there


async def test_bandwidth_is_shared_by_the_connections_of_a_pair_and_by_nobody_else() -> None:
    size = 500_000
    async with world(bandwidth=8e6) as net:
        one, other, apart = [await net.connect(*pair) for pair in ("ab", "ab", "ac")]

        async def move(*connections: tuple[Ends, Ends]) -> None:
            for ours, _ in connections:
                ours[1].write(bytes(size))
            await asyncio.gather(*(theirs[0].readexactly(size) for _, theirs in connections))

        alone = await seconds(move(one))
        shared = await seconds(move(one, other))
        beside = await best_of_three(lambda: move(one, apart))
        net.proxy.shape({("a", "b"): Link(bandwidth=32e6)})
        faster = await best_of_three(lambda: move(one))
        assert alone >= 0.45
        assert shared >= 0.95
        assert beside < 0.9 * shared
        assert faster < 0.6 * alone


async def test_all_that_a_node_sends_shares_its_uplink() -> None:
    async with world(device="laptop-cpu", latency=0.001) as net:  # 20 Mbit/s
        connections = [await net.connect(*pair) for pair in ("ab", "ac")]

        async def move() -> None:
            await asyncio.gather(*(send(ours, 1_000_000) for ours, _ in connections))
            await asyncio.gather(*(theirs[0].readexactly(1_000_000) for _, theirs in connections))

        assert await seconds(move()) >= 0.75


@pytest.mark.parametrize("hole", [DOWN, Link(loss=1)])
async def test_what_a_black_hole_swallows_arrives_when_it_heals(hole: Link) -> None:
    async with world() as net:
        ours, theirs = await net.connect("a", "b")
        await says(ours, theirs)
        net.proxy.shape({("a", "b"): hole, ("b", "a"): hole})
        ours[1].write(b"lost?")
        theirs[1].write(b"and found")
        await silent(theirs[0])
        await silent(ours[0])
        net.proxy.shape({("a", "b"): CLEAR, ("b", "a"): CLEAR})
        assert await soon(theirs[0].readexactly(5)) == b"lost?"
        assert await soon(ours[0].readexactly(9)) == b"and found"
        await says(ours, theirs)


async def test_nobody_hears_of_a_death_through_a_black_hole() -> None:
    async with world() as net:
        ours, theirs = await net.connect("a", "b")
        net.proxy.shape({("a", "b"): DOWN})
        ours[1].transport.abort()
        await silent(theirs[0])
        net.proxy.shape({("a", "b"): CLEAR})
        assert await soon(theirs[0].read()) == b""


async def test_a_new_connection_hangs_in_a_black_hole_until_it_heals_or_the_dialler_gives_up() -> None:
    async with world() as net:
        net.proxy.shape({("b", "a"): DOWN})  # one direction is enough: the answer to the handshake is lost
        patient, hasty = await net.dial("a", "b"), await net.dial("a", "b")
        await silent(patient[0])
        assert net.proxy.num_connections == 2
        hasty[1].close()
        await net.idle(1)
        net.proxy.shape({("b", "a"): CLEAR})
        assert b" 200 " in await soon(patient[0].readuntil(b"\r\n\r\n"))


async def test_a_half_open_link_passes_one_way_and_concerns_nobody_else() -> None:
    async with world() as net:
        forth, back, apart = [await net.connect(*pair) for pair in ("ab", "ba", "ac")]
        net.proxy.shape({("a", "b"): DOWN})
        forth[0][1].write(b"x")  # whoever made the connection
        back[1][1].write(b"x")
        await silent(forth[1][0])
        await silent(back[0][0])
        await says(forth[1], forth[0])
        await says(*back)
        await says(*apart)
        await says(apart[1], apart[0])


async def test_a_reset_is_seen_by_both_ends_and_new_connections_can_be_made() -> None:
    async with world() as net:
        forth, back, apart = [await net.connect(*pair) for pair in ("ab", "ba", "ac")]
        net.proxy.reset([("a", "b")])
        for reader, _ in (*forth, *back):
            with pytest.raises(ConnectionResetError):
                await soon(reader.read())
        await says(*apart)
        await says(*await net.connect("a", "b"))


async def test_the_end_of_a_process_is_passed_on() -> None:
    async with world() as net:
        ours, theirs = await net.connect("a", "b")
        theirs[1].get_extra_info("socket").setsockopt(*fault_proxy.RST_ON_CLOSE)
        theirs[1].transport.abort()
        with pytest.raises(ConnectionResetError):
            await soon(ours[0].read())
        await net.idle()


@pytest.mark.parametrize("stalled", ["reader", "link"])
async def test_a_sender_waits_for_who_does_not_read(stalled: str) -> None:
    async with world() as net:
        ours, theirs = await net.connect("a", "b")
        if stalled == "link":
            net.proxy.shape({("a", "b"): DOWN})
        ours[1].transport.set_write_buffer_limits(0)
        sent = 0

        async def push() -> None:
            nonlocal sent
            for _ in range(MUCH >> 16):
                await send(ours, 1 << 16)
                sent += 1 << 16

        pushing = asyncio.create_task(push())
        before = -1
        while sent > before:
            before = sent
            await asyncio.sleep(QUIET_S)
        assert 0 < sent < MUCH / 2
        net.proxy.shape({("a", "b"): CLEAR})
        await soon(theirs[0].readexactly(MUCH))
        await pushing


async def test_a_thousand_connections_leave_nothing_behind() -> None:
    async def once(index: int) -> None:
        ours, theirs = await net.connect("abc"[index % 3], "abc"[(index + 1) % 3])
        await says(ours, theirs, b"x" * 1000)
        [ours, theirs][index % 2][1].close()

    async with world() as net:
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
        tasks = len(asyncio.all_tasks())
        for start in range(0, 1000, 50):
            await asyncio.gather(*(once(index) for index in range(start, start + 50)))
        net.hang_up()
        await net.idle()
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        if before is not None:
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"x" * (1 << 18), b"CONNECT b HTTP/1.1\r\n\r\n"]
)
async def test_who_does_not_ask_properly_is_hung_up_on(head: bytes) -> None:
    async with world() as net:
        reader, _ = await net.request("a", head)
        with suppress(ConnectionResetError):  # when it left some unread
            assert await soon(reader.read()) == b""
        await net.idle()


async def test_grpc_dials_through_it_over_a_round_trip_of_more_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_grpc_proxy", "")

    async def answer(caller: PeerId, request: Bytes) -> bytes:
        return bytes(request) + b", " + caller.encode()

    me, other = PeerId("a" * 32), PeerId("b" * 32)
    there = GrpcTransport(other, Cleartext(), lambda caller, error: None)
    there.serve("/echo", answer)
    async with world(latency=0.6) as net:
        port = int(there.bind("127.0.0.1:0").rpartition(":")[2])
        await there.start()
        net.proxy._names[port] = "b"
        here = GrpcTransport(me, Cleartext(), lambda caller, error: None, net.doors["a"])
        here.learn(other, Contact((f"127.0.0.1:{port}",), b""))
        try:
            assert await here.call(other, "/echo", b"hello", TIMEOUT_S) == b"hello, " + me.encode()
            assert net.proxy.num_connections == 1
        finally:
            await here.close()
            await there.close()


async def test_strangers_are_not_connected_and_the_dead_are_not_there() -> None:
    async with world() as net:
        reader, _ = await net.request("a", b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n")
        assert b" 403 " in await soon(reader.read())
        net._servers[1].close()
        reader, _ = await net.dial("a", "b")
        assert b" 502 " in await soon(reader.read())
        await net.idle()
