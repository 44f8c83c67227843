"""One hivemind DHT node and its `p2pd`: all that p2ptrain knows of hivemind's interface, its errors and its habits."""

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.network import hivemind_part
from p2ptrain.network.multiaddrs import Multiaddr
from p2ptrain.ports import PeerId
from p2ptrain.swarm import records
from p2ptrain.waiting import within

START_S_MAX = 15.0
CLOSE_S_MAX = 2.0
DYING_S = 1.0
"""So long after its connections broke a process may be told to have died."""


class DhtNode:
    """A node that was started; it is replaced when its `p2pd` dies, never mended."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._p2p = node.p2p

    @classmethod
    async def start(cls, listen: str, identity: Path, gate: "Gate") -> "DhtNode":
        """Alone; `dial` others then. Raises `ConfigError` when `p2pd` does not come up."""
        hivemind_part.load()
        from hivemind.dht.node import DHTNode
        from hivemind.p2p import P2P, P2PDaemonError

        started: list[P2P] = []

        class Tracked(P2P):
            """hivemind loses sight of a `p2pd` that it starts in vain."""

            def __init__(self) -> None:
                super().__init__()
                started.append(self)

        try:
            _check_free(listen)
            if not identity.exists():
                await asyncio.to_thread(_create_identity, P2P, identity)
            p2p = await Tracked.create(
                host_maddrs=[listen],
                identity_path=str(identity),
                check_if_identity_free=False,  # would start a second p2pd to find out, and fail after a restart
                nat_port_map=not ipaddress.ip_address(listen.split("/")[2]).is_loopback,
                startup_timeout=START_S_MAX,
            )
            return cls(await DHTNode.create(p2p=p2p, record_validator=gate))  # type: ignore[arg-type]
        except BaseException as error:
            for p2p in started:
                await _end(p2p)
            if isinstance(error, P2PDaemonError | OSError):
                text = f"the DHT node cannot start at {listen} with {identity}: {_last_line(error)}"
                raise ConfigError(text) from None
            raise

    @property
    def is_alone(self) -> bool:
        return not self._node.protocol.routing_table.uid_to_peer_id

    def neighbours(self) -> set[str]:
        """Ids of the DHT nodes that answered last time."""
        return {peer.to_base58() for peer in self._node.protocol.routing_table.uid_to_peer_id.values()}

    def addresses(self) -> list[Multiaddr]:
        """Where this node listens."""
        return [Multiaddr(str(location), self._p2p.peer_id.to_base58()) for location in self._p2p._visible_maddrs]

    async def exited(self) -> None:
        """Returns when `p2pd` is dead."""
        await self._p2p._child.wait()

    async def ailment(self, timeout_s: float) -> str | None:
        """What is wrong with `p2pd`, if anything is."""
        if self._p2p._child.returncode is None:
            try:
                async with asyncio.timeout(timeout_s):
                    with _translated():
                        await self._p2p.get_visible_maddrs(latest=True)
                return None
            except (PeerError, TimeoutError):
                await within(DYING_S, self.exited())
        code = self._p2p._child.returncode
        return "does not answer" if code is None else f"died (exit code {code})"

    async def dial(self, address: Multiaddr) -> None:
        """Make that node a neighbour, and find more through it. Raises `PeerError`."""
        from hivemind.dht.protocol import ValidationError
        from hivemind.p2p import PeerID
        from hivemind.utils.multiaddr import Multiaddr as HivemindMultiaddr

        with _translated():
            peer = PeerID.from_base58(address.peer)
            # without its /p2p part, which hivemind's Multiaddr encodes wrongly
            await self._p2p._client.connect(peer, [HivemindMultiaddr(address.location)])
            try:
                answer = await self._node.protocol.call_ping(peer, validate=True)
            except ValidationError as error:
                raise PeerError("refused", str(error)) from None
            if answer is None:
                raise PeerError("refused", "what listens there is not a DHT node")
            await self._node.find_nearest_nodes([self._node.node_id])

    async def store(self, key: str, subkey: PeerId, value: bytes, expires_unix_s: float) -> bool:
        with _translated():
            return await self._node.store(key=key, subkey=subkey, value=value, expiration_time=expires_unix_s)

    async def get(self, key: str) -> dict[Any, Any]:
        """Values by subkey; what strangers stored is not yet sorted out."""
        with _translated():
            found = await self._node.get(key, latest=True)  # or else: a cached answer, nearly as old as records get
        entries = found.value if found is not None and isinstance(found.value, dict) else {}
        return {subkey: entry.value for subkey, entry in entries.items()}

    async def close(self) -> None:
        """Bounded: a shutdown asks `p2pd` to do things, and waits for ever if that is dead."""
        if self._p2p._child.returncode is None:
            with contextlib.suppress(TimeoutError, PeerError):
                async with asyncio.timeout(CLOSE_S_MAX):
                    with _translated():
                        await self._node.shutdown()
        self._node.is_alive = False
        await _end(self._p2p)


class Gate:
    """Decides which records a DHT node stores and believes: those of members of its own swarm, under their own ids.

    Without it a stranger could replace a member's record by nonsense that lives longer. Only what does not depend on
    the time is checked: one record that looks expired to this node must not spoil the whole reply that it came in."""

    def __init__(self, swarm: str, key: str | None) -> None:
        self._swarm, self._key = swarm, key
        self.dht_key = records.swarm_secret(key or "p2ptrain-open-swarm-v1", f"dht {swarm}").hex()

    def validate(self, record: Any) -> bool:
        import msgpack
        from hivemind.dht.routing import DHTID

        if record.key != DHTID.generate(source=self.dht_key).to_bytes() or len(record.value) > records.SIZE_BYTES_MAX:
            return False
        try:
            peer, signed = msgpack.unpackb(record.subkey), msgpack.unpackb(record.value)
            if not isinstance(signed, bytes):
                return False
            owned = records.unseal(signed, self._swarm, self._key)
        except (PeerError, ValueError, msgpack.UnpackException):
            return False
        return owned.peer == peer and record.expiration_time <= owned.expires_unix_s + 1.0

    def sign_value(self, record: Any) -> bytes:
        return record.value

    def strip_value(self, record: Any) -> bytes:
        return record.value


async def _end(p2p: Any) -> None:
    """No process and no socket file is left."""
    p2p._terminate()
    if p2p._child is not None:
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await p2p._child.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                p2p._child.kill()
            await p2p._child.wait()
    for address in (p2p._daemon_listen_maddr, p2p._client_listen_maddr):
        Path(address["unix"]).unlink(missing_ok=True)
    control = p2p._client and p2p._client.control
    tasks = [p2p._reader_task, p2p._listen_task, *([control._read_task, control._write_task] if control else [])]
    for task in tasks:
        if task is not None and task.done() and not task.cancelled():
            task.exception()  # or else asyncio complains that nobody asked for it


def _check_free(listen: str) -> None:
    """libp2p sets SO_REUSEPORT: a second `p2pd` would take every other connection to the port, without a word."""
    _, _, host, _, port = listen.split("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(port)))


def _create_identity(p2p_class: Any, path: Path) -> None:
    """All of the file or none: half a key would stop every later start."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    p2p_class.generate_identity(str(draft))
    draft.rename(path)


@contextmanager
def _translated() -> Iterator[None]:
    """hivemind's errors as `PeerError`."""
    from hivemind.p2p import P2PDaemonError, P2PHandlerError

    try:
        yield
    except (P2PDaemonError, P2PHandlerError, OSError, EOFError, ValueError) as error:
        raise PeerError("unreachable", _last_line(error)) from None


def _last_line(error: BaseException) -> str:
    """Go's errors are nested; the cause comes last: `* [/ip4/...] dial tcp4 ...: connect: connection refused`."""
    return (str(error) or type(error).__name__).strip().splitlines()[-1].strip(" *")[-200:]
