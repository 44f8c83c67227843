"""Real DHT nodes with real p2pd processes on loopback. Waits are for conditions, with a deadline."""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
import pytest
from real_broker import free_port

from p2ptrain.errors import ConfigError
from p2ptrain.network.dht import DhtDirectory
from p2ptrain.network.identity import Identity
from p2ptrain.swarm.records import Record, seal, verify
from p2ptrain.telemetry.events import Event, Noted

SWARM, KEY = "swarm", "swarm key"

# When a call to p2pd is cancelled, hivemind leaves the connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Here, and not in somebody else's test."""
    yield
    gc.collect()


class Host:
    """One node: an identity, a directory that runs, and its record."""

    def __init__(self, home: Path, *bootstrap: str, listen: str = "127.0.0.1:0", key: str | None = KEY) -> None:
        self.identity = Identity.ephemeral()
        self.peer = self.identity.peer
        self.events: list[Event] = []
        self.directory = DhtDirectory(
            SWARM, key, home=home / self.peer, listen=listen, bootstrap=bootstrap, emit=self.events.append, retry_s=0.3
        )

    def seal(self, sequence: int = 1, expires_unix_s: float | None = None, key: str | None = KEY) -> bytes:
        record = Record(
            self.peer, "n", 0, ("127.0.0.1:1",), (), b"c" * 560, sequence, expires_unix_s or time.time() + 60
        )
        return seal(record, SWARM, key, self.identity.public_key, self.identity.sign)

    async def publish(self) -> bool:
        expires_unix_s = time.time() + 60
        signed = self.seal(int(time.time() * 1000), expires_unix_s)
        return await self.directory.publish(self.peer, signed, expires_unix_s)

    async def peers(self) -> list[str]:
        """Owners of the records that it finds."""
        return sorted(verify(signed, SWARM, KEY, time.time()).peer for signed in await self.directory.lookup())

    @property
    def p2pd(self) -> int:
        assert self.directory._node is not None
        return self.directory._node._p2p._child.pid

    def notes(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Noted)]


@asynccontextmanager
async def running(*hosts: Host) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        tasks = []
        for host in hosts:
            await host.directory.start()
            stack.push_async_callback(host.directory.close)
            tasks.append(group.create_task(host.directory.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 20.0) -> float:
    since = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return time.monotonic() - since


async def see_each_other(*hosts: Host) -> bool:
    everyone = sorted(host.peer for host in hosts)
    for host in hosts:
        await host.publish()
    return all([await host.peers() == everyone for host in hosts])


async def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("num_hosts", [2, 8])
async def test_nodes_find_each_other(tmp_path: Path, num_hosts: int) -> None:
    first = Host(tmp_path)
    assert not await first.publish()
    async with running(first):
        (address,) = first.directory.addresses()
        assert address.startswith("/ip4/127.0.0.1/tcp/")
        others = [Host(tmp_path, address) for _ in range(num_hosts - 1)]
        async with running(*others):
            seconds = await until(lambda: see_each_other(first, *others))
            print(f"{num_hosts} nodes: found each other in {seconds:.2f} s")
            assert all(host.notes() == [] for host in [first, *others])
            pids = [host.p2pd for host in [first, *others]]
    for pid in pids:
        assert await is_gone(pid)
    assert await first.directory.lookup() == []


# hivemind leaves its connection to a p2pd that does not answer to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("has_own_port", [False, True])
async def test_a_dead_or_hanging_p2pd_is_replaced(
    tmp_path: Path, how: signal.Signals, has_own_port: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2ptrain.network.dht.CALL_S_MAX", 1.0)
    first = Host(tmp_path, listen=f"127.0.0.1:{free_port() if has_own_port else 0}")
    async with running(first):
        second = Host(tmp_path, *first.directory.addresses())
        async with running(second):
            await until(lambda: see_each_other(first, second))
            for victim in (second, first):  # the one that dials, and the one that is dialled
                old, addresses = victim.p2pd, victim.directory.addresses()
                os.kill(old, how)
                await until(_replaced(victim, old))
                await until(lambda: see_each_other(first, second))
                assert victim.directory.addresses() == addresses
                assert await is_gone(old)
                word = "died (exit code -9)" if how == signal.SIGKILL else "does not answer"
                assert f"DHT: p2pd {word}; starting it again" in victim.notes()
                assert victim.notes()[-1] == "DHT: p2pd runs again"


def _replaced(host: Host, old: int) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return host.directory._node is not None and host.p2pd != old

    return condition


async def test_a_dead_bootstrap_is_noted_once_and_joined_when_it_comes(tmp_path: Path) -> None:
    bootstrap = Host(tmp_path)
    async with running(bootstrap):
        (address,) = bootstrap.directory.addresses()
    host = Host(tmp_path, address)
    async with running(host):
        await until(lambda: _has_notes(host, 1))
        assert host.notes() == [
            f"DHT bootstrap {address}: unreachable: [{address.partition('/p2p/')[0]}] dial tcp4 "
            f"{address.split('/')[2]}:{address.split('/')[4]}: connect: connection refused; trying again every 0.3 s"
        ]
        assert not await host.publish()  # kept here, but nobody else took it
        assert await host.peers() == [host.peer]
        async with running(bootstrap):
            assert bootstrap.directory.addresses() == [address]
            await until(lambda: see_each_other(host, bootstrap))
            assert host.notes()[1:] == [f"DHT bootstrap {address}: answers now"]


async def _has_notes(host: Host, num: int) -> bool:
    return len(host.notes()) >= num


async def test_addresses_learnt_from_records_are_dialled(tmp_path: Path) -> None:
    one, other = Host(tmp_path), Host(tmp_path)
    async with running(one, other):
        other.directory.learn(["nonsense", *other.directory.addresses(), *one.directory.addresses()])
        await until(lambda: see_each_other(one, other))
        assert other.notes() == []


async def test_what_others_store_is_checked(tmp_path: Path) -> None:
    """A stranger who knows where our records are kept can neither add to them nor replace them."""
    honest, listener = Host(tmp_path), Host(tmp_path)
    async with running(honest):
        stranger = Host(tmp_path, *honest.directory.addresses())
        listener = Host(tmp_path, *honest.directory.addresses())
        async with running(stranger, listener):
            await until(lambda: see_each_other(honest, listener, stranger))
            assert stranger.directory._node is not None
            node, key = stranger.directory._node._node, honest.directory._gate.dht_key
            node.protocol.record_validator = None
            later = time.time() + 3000
            everyone = sorted([honest.peer, listener.peer, stranger.peer])
            for subkey, value in [
                (None, b"a plain value instead of all records"),
                (honest.peer, b"nonsense in the place of a record"),
                (honest.peer, honest.seal()),  # its own record, made to stay after it expired
                (honest.peer, stranger.seal(expires_unix_s=later)),
                ("0" * 32, stranger.seal(expires_unix_s=later)),
                (stranger.peer, stranger.seal(expires_unix_s=later, key="another key")),
                ("1" * 32, bytes(100_000)),
                (7, {"a": [1, 2]}),
            ]:
                await node.store(key, value, later, subkey=subkey, exclude_self=True)
            await node.store("another key", b"value", later, exclude_self=True)
            for host in (honest, listener):
                assert await host.peers() == everyone
                assert host.directory._node is not None
                assert len(host.directory._node._node.protocol.storage) <= 1
            # and what it keeps itself and answers with is not believed
            node.protocol.storage.store(_dht_id(key), b"\x01", later, subkey=honest.peer)
            for host in (honest, listener):
                assert set(await host.peers()) <= set(everyone)
                assert honest.peer in await host.peers()


def _dht_id(key: str):  # type: ignore[no-untyped-def]
    from hivemind.dht.routing import DHTID

    return DHTID.generate(source=key)


async def test_a_taken_port_is_a_config_error(tmp_path: Path) -> None:
    async with running(host := Host(tmp_path)):
        port = host.directory.addresses()[0].split("/")[4]
        with pytest.raises(ConfigError, match=f"cannot start at /ip4/127.0.0.1/tcp/{port}"):
            await Host(tmp_path, listen=f"127.0.0.1:{port}").directory.start()


async def test_a_damaged_identity_is_a_config_error(tmp_path: Path) -> None:
    host = Host(tmp_path)
    path = tmp_path / host.peer / "dht-identity"
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="dht-identity"):
        await host.directory.start()


async def test_no_socket_files_are_left(tmp_path: Path) -> None:
    async with running(host := Host(tmp_path)):
        words = psutil.Process(host.p2pd).cmdline()
        sockets = [Path(found) for word in words for found in re.findall(r"/unix(/tmp/hivemind-.*\.sock)", word)]
        assert sockets
        assert any(socket.exists() for socket in sockets)
        os.kill(host.p2pd, signal.SIGKILL)
    assert not any(socket.exists() for socket in sockets)


def test_typos_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean '/ip4/'"):
        Host(tmp_path, "/ip/127.0.0.1/tcp/1/p2p/12D3KooWRcAiLP1XxtQepqzvkBHTPQ7h2WuhcokSkdfz8jbMSD4M")
    with pytest.raises(ConfigError, match="dht_listen"):
        Host(tmp_path, listen="localhost")


def test_hivemind_is_loaded_in_part_and_still_whole_for_others() -> None:
    script = """
import logging, sys, warnings
warnings.simplefilter("error")
from p2ptrain.network import hivemind_part
node = hivemind_part.load()
assert "hivemind.optim" not in sys.modules and "hivemind.averaging" not in sys.modules
assert logging.getLevelName(logging.WARNING) == "WARNING"
assert not logging.getLogger("hivemind").handlers
warnings.simplefilter("ignore")
import hivemind
assert not hasattr(hivemind, "__wrapped__") and "hivemind.optim" not in sys.modules
assert hivemind.dht.node is node
from hivemind import DHT, Optimizer
assert hivemind.__version__ and hivemind.DHT is DHT is hivemind.dht.DHT
import hivemind.moe.server
assert not hasattr(hivemind, "nonsense")
assert hivemind_part.load() is node
print("whole")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("whole\n", "")
