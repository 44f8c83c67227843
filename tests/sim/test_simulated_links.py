import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2ptrain.errors import PeerError
from p2ptrain.ports import Bytes, Contact, PeerId, Stream
from p2ptrain.simulation.links import Links, SimulatedTransport
from p2ptrain.topology.links import Link

A, B = PeerId("a" * 32), PeerId("b" * 32)


def pair(link: Link, seed: int = 0) -> tuple[Links, SimulatedTransport, SimulatedTransport]:
    links = Links(random.Random(seed), link)
    one, other = links.transport(A, "a:1"), links.transport(B, "b:1")
    for node, peer in ((one, B), (other, A)):
        node.learn(peer, Contact((), b""))
        node.serve("echo", echo)
        node.serve_stream("echo", echo_all)
    return links, one, other


async def echo(peer: PeerId, request: Bytes) -> bytes:
    return bytes(request)


def listen(node: SimulatedTransport) -> list[bytes]:
    """What it is told from now on as a `note`."""
    heard: list[bytes] = []

    async def note(peer: PeerId, request: Bytes) -> bytes:
        heard.append(bytes(request))
        return b""

    node.serve("note", note)
    return heard


async def echo_all(stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def took(low: float, high: float) -> AsyncIterator[None]:
    before = now()
    yield
    assert low - 1e-9 <= now() - before <= high


async def test_a_call_takes_the_latency_twice_and_the_first_also_a_connection() -> None:
    links, one, _ = pair(Link(latency=0.1))
    for _ in range(2):
        async with took(0.8, 0.8001):
            assert await one.call(B, "echo", b"hello", 5) == b"hello"
        async with took(0.2, 0.2001):
            assert await one.call(B, "echo", b"hello", 5) == b"hello"
        async with took(0.2, 0.2001), one.stream(B, "echo", 100) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
            links.reset([(A, B)])


async def test_calls_at_once_wait_for_one_connection_and_a_greeting_has_its_own() -> None:
    _, one, _ = pair(Link(latency=0.1))
    async with took(0.8, 0.8001):
        await asyncio.gather(*(one.call(B, "echo", b"", 5) for _ in range(3)))
    async with took(0.8, 0.8001):
        await one.greet("b:1", "echo", b"", 5)
    async with took(0.2, 0.2001):
        await one.call(B, "echo", b"", 5)


async def test_what_is_given_up_before_there_is_a_connection_is_never_heard() -> None:
    _, one, other = pair(Link(latency=0.1))
    heard = listen(other)
    with pytest.raises(PeerError, match="deadline"):
        await one.call(B, "note", b"too soon", 0.5)
    await one.call(B, "note", b"in time", 0.5)  # the connection was being made meanwhile
    assert heard == [b"in time"]


async def test_another_address_is_another_connection() -> None:
    _, one, _ = pair(Link(latency=0.1))
    await one.call(B, "echo", b"", 5)
    one.learn(B, Contact((), b""))
    async with took(0.2, 0.2001):
        await one.call(B, "echo", b"", 5)
    one.learn(B, Contact(("b:2",), b""))
    async with took(0.8, 0.8001):
        await one.call(B, "echo", b"", 5)


async def test_bandwidth_is_a_queue() -> None:
    _, one, _ = pair(Link(bandwidth=8000.0))
    async with took(2.0, 2.01):  # a thousand bytes a second, there and back
        await one.call(B, "echo", bytes(1000), 50)
    async with took(4.0, 4.01):  # three at once wait for each other on the way there
        await asyncio.gather(*(one.call(B, "echo", bytes(1000), 50) for _ in range(3)))


async def test_a_node_shares_its_uplink_between_all_it_talks_to() -> None:
    links, one, _ = pair(Link())
    third = links.transport(PeerId("c" * 32), "c:1")
    third.serve("echo", echo)
    one.learn(third.me, Contact((), b""))
    links.limit(A, 8000.0)
    async with took(2.0, 2.01):
        await asyncio.gather(one.call(B, "echo", bytes(1000), 50), one.call(third.me, "echo", bytes(1000), 50))


async def test_a_link_that_is_down_delays_what_was_sent_and_breaks_nothing() -> None:
    links, one, _ = pair(Link(latency=0.01))
    async with one.stream(B, "echo", 100) as stream:
        await stream.send(b"1")
        assert await stream.receive() == b"1"
        links.shape({(A, B): Link(latency=0.01, down=True)})
        await stream.send(b"2")
        await stream.send(b"3")
        with pytest.raises(PeerError, match="deadline"):
            await one.call(B, "echo", b"", 3)
        asyncio.get_running_loop().call_later(5, links.shape, {(A, B): Link(latency=0.01)})
        async with took(5.0, 5.1):
            assert await stream.receive() == b"2"
        assert await stream.receive() == b"3"


async def test_half_open_one_way_passes_and_the_other_does_not() -> None:
    links, one, other = pair(Link(latency=0.01))
    heard = listen(other)
    links.shape({(B, A): Link(down=True)})
    with pytest.raises(PeerError, match="deadline"):
        await one.call(B, "note", b"heard", 1)
    assert heard == [b"heard"]
    with pytest.raises(PeerError, match="deadline"):
        await other.call(A, "echo", b"", 1)


async def test_a_reset_breaks_both_ends_and_new_connections_can_be_made() -> None:
    links, one, _ = pair(Link(latency=0.01))
    call = asyncio.ensure_future(one.call(B, "echo", b"", 5))
    async with one.stream(B, "echo", 100) as stream:
        await asyncio.sleep(0.015)
        links.reset([(B, A)])
        with pytest.raises(PeerError, match="closed"):
            await stream.receive()
    with pytest.raises(PeerError, match="unreachable"):
        await call
    assert await one.call(B, "echo", b"again", 5) == b"again"


async def test_the_dead_are_unreachable_and_take_their_connections_with_them() -> None:
    links, one, _ = pair(Link(latency=0.01))
    async with one.stream(B, "echo", 100) as stream:
        await stream.send(b"1")
        links.sever(B)
        with pytest.raises(PeerError, match="closed"):
            await stream.receive()
    with pytest.raises(PeerError, match="unreachable"):
        await one.call(B, "echo", b"", 5)


async def test_a_flipped_bit_ends_the_connection() -> None:
    _, one, _ = pair(Link(corrupt=1.0))
    with pytest.raises(PeerError, match="unreachable"):
        await one.call(B, "echo", b"", 5)
    async with one.stream(B, "echo", 100) as stream:
        with pytest.raises(PeerError, match="closed"):
            await stream.send(b"1")


async def test_messages_keep_their_order_however_much_the_latency_varies() -> None:
    _, one, _ = pair(Link(latency=0.001, jitter=1.0))
    async with one.stream(B, "echo", 1000) as stream:
        for number in range(10):
            await stream.send(bytes([number]))
        assert [await stream.receive() for _ in range(10)] == [bytes([number]) for number in range(10)]


@pytest.mark.parametrize("seed", range(3))
async def test_the_same_seed_is_the_same_network(seed: int) -> None:
    async def arrivals() -> list[float]:
        _, one, _ = pair(Link(latency=0.01, jitter=0.1, loss=0.2), seed)
        began = now()
        return [now() - began for _ in range(20) if await one.call(B, "echo", b"", 50) == b""]

    assert await arrivals() == pytest.approx(await arrivals(), abs=1e-9)
