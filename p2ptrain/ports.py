"""The ports: what a node needs from the world. Each has a real implementation and a simulated twin.

    port        real                                        simulated
    Transport   grpc.aio over TLS (network.transport)       in-memory links (simulation.links)
    Membership  records, heartbeats, DHT, peer exchange     the same, over the simulated transport
    Compute     one worker thread (training.compute)        inline, charged in virtual seconds
    Sink        JSON lines, the launcher's pipe, a list     a list
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import NewType, Protocol, TypeVar

from p2ptrain.telemetry.events import Event

PeerId = NewType("PeerId", str)
"""32 hex digits: the first 16 bytes of the SHA-256 of a node's Ed25519 public key."""

T = TypeVar("T")
Bytes = bytes | bytearray | memoryview


class Stream(Protocol):
    """One bidirectional call in progress, seen from either end. Everything raises `PeerError` when the other side is gone."""

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


class Transport(Protocol):
    """Calls to peers and from peers, by identity. Requests and replies are encoded protobuf messages."""

    async def call(self, peer: PeerId, method: str, request: bytes, timeout_s: float) -> bytes: ...

    def stream(self, peer: PeerId, method: str, timeout_s: float) -> AbstractAsyncContextManager[Stream]: ...

    def serve(self, method: str, handler: Answer) -> None: ...

    def serve_stream(self, method: str, handler: StreamHandler) -> None: ...


class Membership(Protocol):
    """Who is there."""

    def view(self) -> list["Member"]:
        """The peers that are alive as far as this node knows, without itself, in order of their ids."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Ticks after each change of the view."""
        ...


class Member(Protocol):
    """One peer as the view shows it."""

    peer: PeerId
    name: str
    slot: int
    step: int
    state: str


class Compute(Protocol):
    """Runs work on the thread that owns the model."""

    async def run(self, work: Callable[[], T]) -> T: ...


class Sink(Protocol):
    """Takes events; never blocks, never raises."""

    def emit(self, event: Event) -> None: ...
