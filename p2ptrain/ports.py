"""The ports: what a node needs from the world. Each has a real implementation and a simulated twin.

port        real                                        simulated
Transport   grpc.aio over TLS (network.transport)       in-memory links (simulation.links)
Directory   hivemind's DHT (network.dht)                the world's table, delayed and stale
Compute     one worker thread (training.compute)        inline, charged in virtual seconds
Sink        JSON lines, the launcher's pipe, a list     a list
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NewType, Protocol, TypeVar

from p2ptrain.telemetry.events import Event

PeerId = NewType("PeerId", str)
"""32 hex digits: the first 16 bytes of the SHA-256 of a node's Ed25519 public key."""

T = TypeVar("T")
Bytes = bytes | bytearray | memoryview


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


class Directory(Protocol):
    """Introduces peers to each other; says nothing of who is alive."""

    async def publish(self, peer: PeerId, record: bytes, expires_unix_s: float) -> bool:
        """Store this node's signed record; False when nobody took it."""
        ...

    async def lookup(self) -> list[bytes]:
        """Every record that can be found, unverified."""
        ...


class Compute(Protocol):
    """Runs work on the thread that owns the model, one piece at a time, in the order of the calls."""

    async def run(self, work: Callable[[], T]) -> T:
        """Evaluation, checkpoints, loading: whatever a slower device would also do in no time worth modelling."""
        ...

    async def train(self, work: Callable[[], T]) -> T:
        """A training step: returns no sooner than a device of this node's speed would be done."""
        ...


class Sink(Protocol):
    """Takes events; never blocks, never raises."""

    def emit(self, event: Event) -> None: ...
