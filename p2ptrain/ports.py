"""The ports: what a node needs from the world. Each has a real implementation and a simulated twin.

port        real                                        simulated
Transport   grpc.aio over TLS (network.transport)       in-memory links (simulation.links)
Channel     MQTT (network.channel)                      a list of ears (simulation.ether)
Directory   hivemind's DHT (network.dht)                the world's table, delayed and stale
Compute     one worker thread (training.compute)        inline, charged in virtual seconds
Disk        a folder (training.folder)                  a table that a crash tears (simulation.disk)
Sink        JSON lines, the launcher's pipe, a list     a list
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NewType, Protocol, TypeVar

from p2ptrain.telemetry.events import Event

PeerId = NewType("PeerId", str)
"""32 hex digits: the first 16 bytes of the SHA-256 of a node's Ed25519 public key."""

T = TypeVar("T")
AIRED_BYTES_MAX = 1 << 16
"""Of a message on a `Channel`: what brokers are told to take."""
Bytes = bytes | bytearray | memoryview


def peer_id_of(public_key: bytes) -> PeerId:
    return PeerId(hashlib.sha256(public_key).digest()[:16].hex())


class Stream(Protocol):
    """One bidirectional call in progress, seen from either end. Everything raises `PeerError` when the other side is
    gone."""

    peer: PeerId

    async def send(self, message: Bytes) -> None:
        """Returns when there is room for more: this is the back-pressure."""
        ...

    async def receive(self) -> Bytes:
        """The next message; raises `PeerError("closed")` at the end."""
        ...


Answer = Callable[[PeerId, Bytes], Awaitable[bytes]]
"""Serves one unary method: (authenticated caller, request) -> reply."""
StreamHandler = Callable[[Stream], Awaitable[None]]
"""Serves one streaming method; the stream ends when it returns. Raising `PeerError` closes the connection."""


@dataclass(frozen=True)
class Contact:
    """How to reach a peer, from its signed record."""

    addresses: tuple[str, ...]
    """host:port, tried in order."""
    certificate: bytes
    """DER; connections to the peer are pinned to it. Empty where there is no TLS."""


class Transport(Protocol):
    """Calls to peers and from peers, by identity. Requests and replies are encoded protobuf messages.

    Method names are the full gRPC ones, `/p2ptrain.v1.Membership/Heartbeat`. Every failure is a `PeerError`:
    `unknown-peer`, `unreachable`, `deadline`, `closed`, `refused`.
    """

    def learn(self, peer: PeerId, contact: Contact) -> None:
        """From now on `peer` is reached there; an open connection elsewhere is closed."""
        ...

    def forget(self, peer: PeerId) -> None: ...

    async def call(self, peer: PeerId, method: str, request: bytes, timeout_s: float) -> bytes: ...

    async def greet(self, address: str, method: str, request: bytes, timeout_s: float) -> bytes:
        """A call to an address whose owner is not known yet; what comes back must prove itself (a signed record)."""
        ...

    def stream(self, peer: PeerId, method: str, timeout_s: float) -> AbstractAsyncContextManager[Stream]: ...

    def serve(self, method: str, handler: Answer) -> None: ...

    def serve_stream(self, method: str, handler: StreamHandler) -> None: ...

    async def start(self) -> None:
        """Let calls in: everything is served by now."""
        ...

    async def close(self) -> None: ...


class Channel(Protocol):
    """Where all hear what anyone says. Messages get lost, come twice, late, and from anybody: they must prove
    themselves. Who it is that says something is not known here."""

    @property
    def is_up(self) -> bool:
        """False while the connection is known to be lost, and nobody can be heard."""
        ...

    async def say(self, message: Bytes, to: PeerId | None = None) -> None:
        """To one, or to all others. Returns when it is on its way, or lost."""
        ...

    async def hear(self) -> tuple[bytes, bool]:
        """The next message, of at most `AIRED_BYTES_MAX`, and whether it was to this node alone."""
        ...

    async def run(self) -> None:
        """Keep the connection, until cancelled."""
        ...


class Directory(Protocol):
    """Introduces peers to each other; says nothing of who is alive."""

    async def publish(self, peer: PeerId, record: bytes, expires_unix_s: float) -> bool:
        """Store this node's signed record; False when nobody took it."""
        ...

    async def lookup(self) -> list[bytes]:
        """Every record that can be found, unverified."""
        ...

    def addresses(self) -> list[str]:
        """Where others find this node's part of the directory, for its record."""
        ...

    def learn(self, addresses: Iterable[str]) -> None:
        """Such addresses, from peers' records. Nonsense is left out."""
        ...

    async def run(self) -> None:
        """Keep it going, until cancelled."""
        ...


class Compute(Protocol):
    """Runs work on the thread that owns the model, one piece at a time, in the order of the calls."""

    async def run(self, work: Callable[[], T]) -> T:
        """Evaluation, checkpoints, loading: whatever a slower device would also do in no time worth modelling."""
        ...

    async def train(self, work: Callable[[], T]) -> T:
        """A training step: returns no sooner than a device of this node's speed would be done."""
        ...

    async def aside(self, work: Callable[[], T]) -> T:
        """Work that needs not the model but time: writing a file, compiling. Beside everything else."""
        ...


class Disk(Protocol):
    """A flat folder of one node's own. Everything raises `ConfigError` when the disk does not do it."""

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, content: bytes) -> None:
        """Durable once it returns; a crash before that may leave any part of it."""
        ...

    def rename(self, name: str, to: str) -> None:
        """All or nothing, whenever the power goes; durable once it returns."""
        ...

    def remove(self, name: str) -> None: ...


class Sink(Protocol):
    """Takes events; never blocks, never raises."""

    def emit(self, event: Event) -> None: ...
