"""The real `Directory`: hivemind's DHT in this process's own event loop, with its `p2pd` child under watch.

    key       derived from the swarm's name and key      subkey   peer id      value   signed record

hivemind's own start, where `p2pd` dials the initial peers, fails when all are dead. So the node starts alone and then
dials: its bootstrap, and DHT addresses from peers' records, again and again while it is alone. A dead `p2pd` is
silent (stores succeed into nowhere, lookups find nothing): its exit is awaited, and everything has a deadline.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.network import multiaddrs
from p2ptrain.network.dht_node import DhtNode, Gate
from p2ptrain.network.multiaddrs import Multiaddr
from p2ptrain.ports import PeerId
from p2ptrain.swarm.records import ADDRESSES_MAX, SIZE_BYTES_MAX
from p2ptrain.telemetry.events import Event, Noted

IDENTITY_NAME = "dht-identity"
LEARNT_MAX = 16
RECORDS_MAX = 1024
CALL_S_MAX = 5.0
SELDOM_S = 30.0


class DhtDirectory:
    """`start` it, `run` it beside everything else, then `close` it. See `ports.Directory`."""

    def __init__(
        self,
        swarm: str,
        key: str | None,
        *,
        home: Path,
        listen: str,
        bootstrap: Iterable[str],
        emit: Callable[[Event], None],
        announce_hosts: Iterable[str] = (),
        retry_s: float = 5.0,
    ) -> None:
        """`listen` is host:port, `bootstrap` are multiaddrs; raises `ConfigError` for anything else.

        `announce_hosts`: IP addresses of this machine that it does not know of itself."""
        self._listen = multiaddrs.of_listener(listen, "dht_listen")
        self._bootstrap = [multiaddrs.parse(text) for text in bootstrap]
        self._announce_hosts = tuple(announce_hosts)
        self._gate = Gate(swarm, key)
        self._identity = home / IDENTITY_NAME
        self._emit = emit
        self._retry_s = retry_s
        self._learnt: dict[str, Multiaddr] = {}
        self._node: DhtNode | None = None
        self._silent: set[str] = set()
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Have a `p2pd` run. Raises `ConfigError` when none can: the port is taken, hivemind is not installed."""
        self._identity.parent.mkdir(parents=True, exist_ok=True)
        self._node = await DhtNode.start(self._listen, self._identity, self._gate)
        # others have this port in our record: after a restart it must be the same
        self._listen = self._listen.rpartition("/")[0] + "/" + self._node.addresses()[0].location.split("/")[-1]

    async def run(self) -> None:
        """Until cancelled: dial whom we lack, and replace a `p2pd` that died or hangs."""
        next_bootstrap_s = 0.0
        while True:
            self._wake.clear()
            node = await self._healthy()
            if node is not None:
                now = asyncio.get_running_loop().time()
                if node.is_alone:
                    await self._dial_all(node, [*self._bootstrap, *self._learnt.values()])
                elif now >= next_bootstrap_s:  # two DHTs that do not know of each other would stay two
                    neighbours = node.neighbours()
                    await self._dial_all(node, [peer for peer in self._bootstrap if peer.peer not in neighbours])
                    next_bootstrap_s = now + SELDOM_S
            await self._pause(node)

    async def publish(self, peer: PeerId, record: bytes, expires_unix_s: float) -> bool:
        if self._node is None:
            return False
        try:
            async with asyncio.timeout(CALL_S_MAX):
                stored = await self._node.store(self._gate.dht_key, peer, record, expires_unix_s)
        except (PeerError, TimeoutError):
            return False
        return stored and self._node is not None and not self._node.is_alone

    async def lookup(self) -> list[bytes]:
        if self._node is None:
            return []
        try:
            async with asyncio.timeout(CALL_S_MAX):
                found = await self._node.get(self._gate.dht_key)
        except (PeerError, TimeoutError):
            return []
        signed = [value for value in found.values() if isinstance(value, bytes) and len(value) <= SIZE_BYTES_MAX]
        return signed[:RECORDS_MAX]

    def learn(self, addresses: Iterable[str]) -> None:
        """DHT addresses from peers' records: where to dial when alone. Nonsense is left out."""
        for text in addresses:
            try:
                address = multiaddrs.parse(text)
            except ConfigError:
                continue
            if address.peer not in self._learnt and len(self._learnt) >= LEARNT_MAX:
                del self._learnt[next(iter(self._learnt))]
            self._learnt[address.peer] = address
            self._wake.set()

    def addresses(self) -> list[str]:
        """Multiaddrs under which others reach this DHT node, for this node's record."""
        if self._node is None:
            return []
        found = self._node.addresses()
        port, peer = found[0].location.split("/")[-1], found[0].peer
        announced = [Multiaddr(f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}", peer)
                     for host in self._announce_hosts]  # fmt: skip
        outside = [address for address in found if not _is_loopback(address)]
        return [str(address) for address in [*announced, *(outside or found)]][:ADDRESSES_MAX]

    async def close(self) -> None:
        """No `p2pd` is left, whatever state it was in. Cancel `run` first."""
        node, self._node = self._node, None
        if node is not None:
            await node.close()

    async def _healthy(self) -> DhtNode | None:
        """The node, or a new one in its place if its `p2pd` is dead or hangs."""
        ailment = "is not running" if self._node is None else await self._node.ailment(CALL_S_MAX)
        if ailment is None:
            return self._node
        if self._node is not None:
            self._emit(Noted("warning", f"DHT: p2pd {ailment}; starting it again"))
        await self.close()
        try:
            self._node = await DhtNode.start(self._listen, self._identity, self._gate)
        except ConfigError as error:
            self._complain("p2pd", f"{error}")
        else:
            self._silent.discard("p2pd")
            self._emit(Noted("info", "DHT: p2pd runs again"))
        return self._node

    async def _dial_all(self, node: DhtNode, addresses: list[Multiaddr]) -> None:
        own = {address.peer for address in node.addresses()}
        async with asyncio.TaskGroup() as group:
            for address in addresses:
                if address.peer not in own:
                    group.create_task(self._dial(node, address))

    async def _dial(self, node: DhtNode, address: Multiaddr) -> None:
        try:
            async with asyncio.timeout(CALL_S_MAX):
                await node.dial(address)
        except (PeerError, TimeoutError) as error:
            if address in self._bootstrap:
                reason = str(error) or f"deadline: no answer within {CALL_S_MAX:g} s"
                self._complain(
                    str(address), f"DHT bootstrap {address}: {reason}; trying again every {self._retry_s:g} s"
                )
        else:
            if str(address) in self._silent:
                self._emit(Noted("info", f"DHT bootstrap {address}: answers now"))
            self._silent.discard(str(address))

    def _complain(self, about: str, message: str) -> None:
        """Once, until it works again."""
        if about not in self._silent:
            self._silent.add(about)
            self._emit(Noted("warning", message))

    async def _pause(self, node: DhtNode | None) -> None:
        """Until it is time again, or something happened."""
        waits: list[asyncio.Task[Any]] = [asyncio.ensure_future(self._wake.wait())]
        if node is not None:
            waits.append(asyncio.ensure_future(node.exited()))
        try:
            await asyncio.wait(waits, timeout=self._retry_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _is_loopback(address: Multiaddr) -> bool:
    kind, host = address.location.split("/")[1:3]
    return kind.startswith("ip") and ipaddress.ip_address(host).is_loopback
