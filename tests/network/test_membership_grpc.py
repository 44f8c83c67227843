"""Membership over real gRPC and TLS on loopback, with and without the DHT."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from p2ptrain.network.dht import DhtDirectory
from p2ptrain.network.identity import Identity
from p2ptrain.network.tls import Credentials
from p2ptrain.network.transport import GrpcTransport
from p2ptrain.seeds import python_random
from p2ptrain.swarm.beats import Settings
from p2ptrain.swarm.membership import Membership
from p2ptrain.swarm.records import Record, seal
from p2ptrain.telemetry.events import Event, Noted

SWARM, KEY = "swarm", "swarm key"


class Host:
    """One node as the daemon composes it."""

    def __init__(self, heartbeat_s: float = 1.0, key: str | None = KEY) -> None:
        self.identity = Identity.ephemeral()
        self.heartbeat_s, self.key = heartbeat_s, key
        self.events: list[Event] = []
        self.address = "127.0.0.1:0"

    @asynccontextmanager
    async def running(self, *bootstrap: str, directory: DhtDirectory | None = None) -> AsyncIterator[None]:
        peer = self.identity.peer
        credentials = Credentials(self.identity, self.key, SWARM)
        transport = GrpcTransport(peer, credentials, lambda source, error: None)
        self.address = transport.bind(self.address)
        await transport.start()

        def make_record(sequence: int, expires_unix_s: float) -> bytes:
            dht = tuple(directory.addresses()) if directory else ()
            record = Record(
                peer, "node", 0, (self.address,), dht, credentials.certificate_der, sequence, expires_unix_s
            )
            return seal(record, SWARM, self.key, self.identity.public_key, self.identity.sign)

        self.membership = Membership(
            transport,
            directory,
            make_record,
            Settings(peer, SWARM, self.key, self.heartbeat_s, bootstrap),
            rng=python_random(0, peer),
            now_unix=time.time,
            emit=self.events.append,
        )
        task = asyncio.create_task(self.membership.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await transport.close(0)
            if not task.cancelled():
                task.result()

    def sees(self) -> list[str]:
        return [member.peer for member in self.membership.view()]

    def notes(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Noted)]


async def whole(*hosts: Host, timeout_s: float = 10.0) -> float:
    """Seconds until everyone sees everyone."""
    everyone = sorted(host.identity.peer for host in hosts)
    since = time.monotonic()
    async with asyncio.timeout(timeout_s):
        for host in hosts:
            while host.sees() != [peer for peer in everyone if peer != host.identity.peer]:
                await host.membership.changed()
    return time.monotonic() - since


@pytest.mark.parametrize("heartbeat_s", [1.0, 5.0])
async def test_eight_at_once_become_one_view(heartbeat_s: float) -> None:
    first, *others = hosts = [Host(heartbeat_s) for _ in range(8)]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(first.running())
        for host in others:
            await stack.enter_async_context(host.running(first.address))
        print(f"heartbeat {heartbeat_s} s: 8 nodes whole after {await whole(*hosts):.2f} s")


async def test_the_bootstrap_comes_last() -> None:
    first, *others = hosts = [Host() for _ in range(4)]
    async with first.running():
        pass
    async with AsyncExitStack() as stack:
        for host in others:
            await stack.enter_async_context(host.running(first.address))
        async with asyncio.timeout(10):
            while not all(host.notes() for host in others):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await stack.enter_async_context(first.running())
        print(f"bootstrap last: whole after {await whole(*hosts):.2f} s; {others[0].notes()}")


async def test_a_restarted_node_has_another_certificate_and_is_let_in_again() -> None:
    first, second, third = Host(), Host(), Host()
    async with first.running(), second.running(first.address):
        async with third.running(first.address):
            await whole(first, second, third)
        async with third.running(first.address):
            await whole(first, second, third)
            assert all(host.membership.find(third.identity.peer) for host in (first, second))
        print(f"stopped: dropped after {await whole(first, second):.2f} s")


async def test_a_stranger_stays_outside_and_is_told() -> None:
    first, member, stranger = Host(), Host(), Host(key="another key")
    async with first.running(), member.running(first.address), stranger.running(first.address):
        await whole(first, member)
        async with asyncio.timeout(10):
            while not stranger.notes():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert "another swarm key" in stranger.notes()[0]
        print(stranger.notes())
        assert stranger.sees() == []
        assert len(first.sees()) == len(member.sees()) == 1


@pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")  # see test_dht.py
async def test_the_dht_introduces(tmp_path: Path) -> None:
    hosts = [Host() for _ in range(3)]
    bootstrap: list[str] = []
    async with AsyncExitStack() as stack:
        for index, host in enumerate(hosts):
            directory = DhtDirectory(
                SWARM, KEY, home=tmp_path / str(index), listen="127.0.0.1:0", bootstrap=bootstrap,
                emit=host.events.append, retry_s=0.5,
            )  # fmt: skip
            await directory.start()
            bootstrap = bootstrap or directory.addresses()
            stack.push_async_callback(directory.close)
            task = asyncio.create_task(directory.run())
            stack.callback(task.cancel)
            await stack.enter_async_context(host.running(directory=directory))
        print(f"3 nodes that only share a DHT: whole after {await whole(*hosts):.2f} s")
        assert hosts[0].membership.view()[0].dht
