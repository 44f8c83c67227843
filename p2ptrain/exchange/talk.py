"""How two peers talk while they exchange vectors: one message at a time, within deadlines, counted and checked."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from p2ptrain import chaos
from p2ptrain.attacks import Attack
from p2ptrain.codecs import Codec, Packet
from p2ptrain.errors import PeerBusy, PeerError
from p2ptrain.exchange import frames
from p2ptrain.exchange.reputation import Reputation
from p2ptrain.pace import Pace, deadline_is_peer_error
from p2ptrain.ports import Bytes, PeerId, Stream
from p2ptrain.telemetry.events import Event, Exchanged, Failed, Rejected
from p2ptrain.training.replica import Shared
from p2ptrain.wire.exchange_pb2 import Open, Refuse, SwapMessage

CHUNK_BYTES = 1 << 20
"""About so long is a frame. Shorter ones cost more time each; while gRPC copies longer ones, training waits for the
interpreter."""
MAX_CHUNK_SIZE = 1 << 21
"""Elements per chunk at most, however few bytes they make."""
MAX_CHUNKS = 1 << 16
GRACE_S, MIN_BYTES_PER_S = 30.0, 1 << 14
"""A peer that trickles just fast enough for each message must not keep anything for ever."""

MAX_NORM_RATIO = 1e3
"""A vector this many times longer than one's own is not a replica of the same model."""

_REFUSALS = frozenset({"busy", "not-ready", "wrong-run", "wrong-model", "wrong-codec", "quarantined"})
_MISTAKES = frozenset({"wrong-run", "wrong-model", "wrong-codec"})
_LIES = frozenset({"malformed", "oversized", "replayed", "not-finite", "too-far", "bad-signature"})


@dataclass
class Tally:
    """What one exchange moved, and how far it came."""

    bytes_sent: int = 0
    bytes_received: int = 0
    squared_distance: float = 0.0
    squared_norm: float = 0.0
    applied: bool = False
    """It counts, whatever happens to the stream from now on."""
    refused: bool = False
    """It never began: the other side was told why, and may hang up before the stream has ended."""
    in_doubt: bool = False
    """It may count: the caller did not say."""

    @property
    def distance(self) -> float:
        return self.squared_distance / self.squared_norm if self.squared_norm else 0.0

    def outcome(self, peer: PeerId, seconds: float, initiated: bool) -> Exchanged:
        return Exchanged(peer, self.bytes_sent, self.bytes_received, seconds, self.distance, initiated)


@dataclass
class Talk:
    """One node's side of the talking, whomever with."""

    run: str
    shared: Shared
    codec: Codec
    pace: Pace
    emit: Callable[[Event], None]
    step: Callable[[], int]
    ready: Callable[[], bool]
    """False until the replica holds weights worth mixing."""
    attack: Attack | None = None
    """How this node breaks the protocol."""
    reputation: Reputation | None = None
    """Of those it talks to; None: all are trusted."""

    def open(self, exchange: bytes, seed: int, chunk_size: int | None = None, account: bytes = b"") -> Open:
        return Open(
            exchange=exchange,
            run=self.run,
            model=self.shared.fingerprint,
            size=self.shared.size,
            chunk_size=chunk_size or chunk_size_of(self.codec),
            codec=self.codec.model_dump_json(),
            step=self.step(),
            seed=seed,
            account=account,
        )

    def admit(self, peer: PeerId) -> None:
        """Refuse a call of somebody in quarantine."""
        if self.shuns(peer):
            raise PeerError("quarantined", "for what it did; it may call again in some minutes")

    def shuns(self, peer: PeerId) -> bool:
        return self.reputation is not None and self.reputation.shuns(peer)

    def check(self, theirs: Open, chunk_size: int) -> None:
        """Refuse an exchange that cannot make sense, with the reason that the other side is told."""
        if not self.ready():
            raise PeerError("not-ready", "no weights yet")
        if theirs.run != self.run:
            raise PeerError("wrong-run", f"{theirs.run[:63]!r}, here {self.run!r}")
        if theirs.model != self.shared.fingerprint or theirs.size != self.shared.size:
            raise PeerError("wrong-model", f"{theirs.size} elements, here {self.shared.size} of another layout")
        if theirs.codec != self.codec.model_dump_json():
            raise PeerError("wrong-codec", f"{theirs.codec[:200]}, here {self.codec.model_dump_json()}")
        if len(theirs.exchange) != 16 or theirs.chunk_size != chunk_size or theirs.seed >= 1 << 63:
            raise PeerError("malformed", "bad Open")
        if len(theirs.account) not in (0, 32):
            raise PeerError("malformed", f"an account of {len(theirs.account)} bytes")
        fits = 1 <= chunk_size <= MAX_CHUNK_SIZE and chunk_size % self.codec.granularity == 0
        fits = fits and self.codec.max_nbytes(chunk_size) <= frames.MAX_PAYLOAD_BYTES
        if not fits or self.shared.size > chunk_size * MAX_CHUNKS:
            raise PeerError("malformed", f"chunks of {chunk_size} elements")

    async def send(self, stream: Stream, message: SwapMessage | Bytes, tally: Tally) -> None:
        encoded = message.SerializeToString() if isinstance(message, SwapMessage) else message
        await chaos.point("send")
        if self.attack is not None:
            await asyncio.sleep(self.attack.delay_s(len(encoded)))
        with deadline_is_peer_error():
            async with asyncio.timeout(self.pace.patience(stream.peer, len(encoded))):
                await stream.send(encoded)
        tally.bytes_sent += len(encoded)

    async def send_chunk(self, stream: Stream, index: int, packet: Packet, tally: Tally) -> None:
        payload = packet.payload if self.attack is None else self.attack.swollen(packet.payload)
        await self.send(stream, frames.encode_chunk(index, payload), tally)

    async def expect(self, stream: Stream, body: str, tally: Tally) -> SwapMessage:
        """The next message, which must be of this kind."""
        message = _accepted(await self._receive(stream, tally))
        kind = "chunk" if isinstance(message, frames.ChunkFrame) else message.WhichOneof("body")
        if isinstance(message, frames.ChunkFrame) or kind != body:
            raise PeerError("malformed", f"{kind} where {body} was due")
        return message

    async def receive_chunk(self, stream: Stream, index: int, size: int, tally: Tally) -> Packet:
        frame = _accepted(await self._receive(stream, tally, self.codec.max_nbytes(size)))
        if not isinstance(frame, frames.ChunkFrame):
            raise PeerError("malformed", f"{frame.WhichOneof('body')} where chunk {index} was due")
        if frame.index != index:
            raise PeerError("malformed", f"chunk {frame.index} where {index} was due")
        if len(frame.payload) > self.codec.max_nbytes(size):
            raise PeerError("oversized", f"{len(frame.payload)} bytes for {size} elements")
        return Packet(frame.payload, size)

    async def refuse(self, stream: Stream, why: PeerError, tally: Tally) -> None:
        """Tell the other side why, if that is something it should know."""
        if why.reason in _REFUSALS:
            tally.refused = True
            with suppress(PeerError):  # the peer need not be told
                message = SwapMessage(refuse=Refuse(reason=why.reason, detail=why.detail))
                await self.send(stream, message, tally)

    async def call_off(self, stream: Stream, why: PeerError, tally: Tally) -> None:
        """Refuse what this node has asked for itself. Whoever hangs up at once may not be heard: wait for the end."""
        await self.refuse(stream, why, tally)
        with suppress(PeerError):
            async with self.transfer():
                while True:
                    await self._receive(stream, tally, CHUNK_BYTES)

    @asynccontextmanager
    async def transfer(self) -> AsyncIterator[None]:
        """A whole vector each way has its deadline, however the peer spreads its messages."""
        with deadline_is_peer_error():
            async with asyncio.timeout(GRACE_S + self.codec.max_nbytes(self.shared.size) / MIN_BYTES_PER_S):
                yield

    @asynccontextmanager
    async def account(self, peer: PeerId, initiated: bool) -> AsyncIterator[Tally]:
        """Emit what became of an exchange."""
        loop = asyncio.get_running_loop()
        started, tally = loop.time(), Tally()
        try:
            yield tally
        except PeerBusy:
            raise
        except PeerError as error:
            self.emit(Failed(peer, error.reason, initiated))
            if error.reason in _LIES | _MISTAKES:
                self.emit(Rejected(peer, error.reason, error.detail))
            if error.reason in _LIES and self.reputation is not None:
                self.reputation.blame(peer, error.reason)
            raise
        except asyncio.CancelledError:  # the other side hung up: at once after the last message, or in the middle
            if not tally.applied and not tally.refused:
                self.emit(Failed(peer, "in-doubt" if tally.in_doubt else "closed", initiated))
            raise
        finally:
            if tally.applied:
                self.emit(tally.outcome(peer, loop.time() - started, initiated))

    async def _receive(self, stream: Stream, tally: Tally, nbytes: int = 0) -> Bytes:
        """The next message, which may have `nbytes`."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        with deadline_is_peer_error():
            async with asyncio.timeout(self.pace.patience(stream.peer, nbytes)):
                message = await stream.receive()
        await chaos.point("received")
        self.pace.observe(stream.peer, loop.time() - started)
        tally.bytes_received += len(message)
        return message


def _accepted(encoded: Bytes) -> SwapMessage | frames.ChunkFrame:
    """A message, unless it is a refusal, which is raised."""
    message = frames.decode(encoded)
    if isinstance(message, frames.ChunkFrame) or message.WhichOneof("body") != "refuse":
        return message
    if message.refuse.reason == "busy":
        raise PeerBusy
    reason = message.refuse.reason if message.refuse.reason in _REFUSALS else "refused"
    raise PeerError(reason, f"the peer says: {message.refuse.detail[:200]}")


def chunk_size_of(codec: Codec) -> int:
    """Elements per chunk that make about `CHUNK_BYTES`: what initiators choose."""
    size = MAX_CHUNK_SIZE
    while codec.max_nbytes(size) > CHUNK_BYTES * 9 // 8 and size > codec.granularity:
        size //= 2
    return max(size // codec.granularity, 1) * codec.granularity


def chunks(size: int, chunk_size: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk_size, size)) for start in range(0, size, chunk_size))
