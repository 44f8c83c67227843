"""The one pipeline of a pairwise swap: snapshot, encode, send, receive, decode, screen, combine, correct.

Each side ends with `own + combine(sent, received) - sent`, where `sent` is its own vector as the other side decoded
it. So the two corrections cancel, whatever the codec loses, and the sum of the replicas changes only by training.

Both sides apply a swap or neither does: see `decisions`.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from p2ptrain import chaos, frames
from p2ptrain.aggregators import Aggregator
from p2ptrain.aggregators.mean import Mean
from p2ptrain.codecs import Codec, Packet
from p2ptrain.decisions import Decisions, Doubt
from p2ptrain.errors import PeerBusy, PeerError
from p2ptrain.pace import Pace
from p2ptrain.ports import Bytes, PeerId, Stream, Transport
from p2ptrain.seeds import derive
from p2ptrain.telemetry.events import Event, Exchanged, Failed, Rejected
from p2ptrain.training.replica import Lease, Replica
from p2ptrain.wire.exchange_pb2 import Commit, Done, Open, Ready, Refuse, SwapMessage

SWAP = "/p2ptrain.v1.Exchange/Swap"

CHUNK_BYTES = 2 << 20
"""About so long is a frame: shorter ones cost more time each, longer ones more memory in transit."""
MAX_CHUNK_SIZE = 1 << 21
"""Elements per chunk at most, however few bytes they make."""
MAX_CHUNKS = 1 << 16
WINDOW = 4
"""Chunks that a side may be ahead of the other."""
SAMPLE_EVERY = 8
"""The distance between the two replicas is measured on every eighth chunk."""
MAX_NORM_RATIO = 1e3
"""A vector this many times longer than one's own is not a replica of the same model."""
GRACE_S, MIN_BYTES_PER_S = 30.0, 1 << 14
"""A peer that trickles just fast enough for each message must not keep the replica for ever."""
SWAP_TIMEOUT_S = 24 * 3600.0
"""For gRPC, which wants one; the deadlines that matter are `Pace`'s and the one above."""


@dataclass
class _Tally:
    """What one swap moved."""

    bytes_sent: int = 0
    bytes_received: int = 0
    squared_distance: float = 0.0
    squared_norm: float = 0.0
    applied: bool = False
    """The swap counts, whatever happens to the stream from now on."""
    refused: bool = False
    """The swap never began: the caller was told why, and may hang up before the stream has ended."""
    in_doubt: bool = False
    """The swap may count: the caller did not say."""

    @property
    def distance(self) -> float:
        return self.squared_distance / self.squared_norm if self.squared_norm else 0.0

    def outcome(self, peer: PeerId, seconds: float, initiated: bool) -> Exchanged:
        return Exchanged(peer, self.bytes_sent, self.bytes_received, seconds, self.distance, initiated)


@dataclass
class Exchanger:
    """One node's side of all its swaps. At most one runs at a time: that is what bounds the memory."""

    transport: Transport
    replica: Replica
    run: str
    codec: Codec
    aggregator: Aggregator
    emit: Callable[[Event], None]
    rng: random.Random
    step: Callable[[], int]
    ready: Callable[[], bool] = lambda: True
    """False until the replica holds weights worth mixing."""
    pace: Pace = field(default_factory=Pace)
    _memory: Tensor | None = None

    def __post_init__(self) -> None:
        self.transport.serve_stream(SWAP, self._respond)
        self.decisions = Decisions(self.transport, self.replica, self.pace, self.emit)

    async def swap(self, peer: PeerId) -> None:
        """Average with `peer`. Raises `PeerBusy` when either side is in another swap, and `PeerError` when the swap
        came to nothing on both sides."""
        exchange = self.rng.randbytes(16)
        async with (
            self._account(peer, initiated=True) as tally,
            self._lease() as lease,
            self.transport.stream(peer, SWAP, SWAP_TIMEOUT_S) as stream,
        ):
            mine = self._open(exchange, seed=self.rng.getrandbits(63))
            await self._send(stream, SwapMessage(open=mine), tally)
            theirs = await self._expect(stream, "open", tally)
            self._check(theirs.open, mine.chunk_size)
            await self._transfer(stream, lease, mine, tally, follow=False)
            await self._expect(stream, "ready", tally)
            self.decisions.commit(exchange)
            self.replica.commit(lease)
            chaos.tell("applied", exchange, peer, lease)
            tally.applied = True
            with suppress(PeerError):  # the swap counts; a responder that did not hear so will ask
                await self._send(stream, SwapMessage(commit=Commit()), tally)
                await self._expect(stream, "done", tally)

    async def settle_doubts(self) -> None:
        """Runs beside the node; see `Decisions`."""
        await self.decisions.settle_doubts()

    async def settled(self) -> None:
        """Returns once no swap is in doubt."""
        await self.decisions.settled()

    async def _respond(self, stream: Stream) -> None:
        """The responder's side of `swap`."""
        async with self._account(stream.peer, initiated=False) as tally:
            theirs = (await self._expect(stream, "open", tally)).open
            try:
                self._check(theirs, theirs.chunk_size)
                self.decisions.check_new(theirs.exchange)
                async with self._lease() as lease:
                    self.decisions.answer(theirs.exchange)
                    await self._answer(stream, lease, theirs, tally)
            except PeerError as error:
                if error.reason in _REFUSALS:
                    await self._refuse(stream, error, tally)
                raise

    async def _refuse(self, stream: Stream, why: PeerError, tally: _Tally) -> None:
        tally.refused = True
        with suppress(PeerError):  # the peer need not be told
            await self._send(stream, SwapMessage(refuse=Refuse(reason=why.reason, detail=why.detail)), tally)

    async def _answer(self, stream: Stream, lease: Lease, theirs: Open, tally: _Tally) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        mine = self._open(theirs.exchange, theirs.seed, theirs.chunk_size)
        await self._send(stream, SwapMessage(open=mine), tally)
        await self._transfer(stream, lease, mine, tally, follow=True)
        try:
            await self._send(stream, SwapMessage(ready=Ready()), tally)
            await self._expect(stream, "commit", tally)
        except BaseException as error:
            outcome = tally.outcome(stream.peer, loop.time() - started, initiated=False)
            self.decisions.set_aside(Doubt(theirs.exchange, lease.out - lease.own, outcome))
            tally.in_doubt = True
            if isinstance(error, PeerError):
                raise PeerError("in-doubt", str(error)) from None
            raise
        self.replica.commit(lease)
        chaos.tell("applied", theirs.exchange, stream.peer, lease)
        tally.applied = True
        with suppress(PeerError):  # applied on both sides; only the courtesy is lost
            await self._send(stream, SwapMessage(done=Done()), tally)

    async def _transfer(self, stream: Stream, lease: Lease, mine: Open, tally: _Tally, follow: bool) -> None:
        """Send and receive all chunks at once, mixing each as soon as both sides' are there.

        With a codec that chooses coordinates, the responder (`follow`) answers each chunk on the initiator's
        coordinates."""
        chunks = list(_chunks(lease.own.numel(), mine.chunk_size))
        follow = follow and self.codec.uses_memory
        sent: asyncio.Queue[Packet] = asyncio.Queue(WINDOW)

        async def send_chunk(index: int, like: Packet | None = None) -> None:
            packet = self._encode(lease, chunks[index], derive(mine.seed, index), like)
            await sent.put(packet)
            await self._send(stream, frames.encode_chunk(index, packet.payload), tally)

        async def send_all() -> None:
            for index in range(len(chunks)):
                await send_chunk(index)

        async def receive_all() -> None:
            for index, where in enumerate(chunks):
                received = await self._receive_chunk(stream, index, where.stop - where.start, tally)
                if follow:
                    await send_chunk(index, received)
                self._mix(lease, where, await sent.get(), received, tally if index % SAMPLE_EVERY == 0 else None)

        with _deadline_is_peer_error():
            async with asyncio.timeout(GRACE_S + self.codec.max_nbytes(lease.own.numel()) / MIN_BYTES_PER_S):
                await (receive_all() if follow else _both(send_all(), receive_all()))
        if tally.squared_norm and tally.squared_distance > MAX_NORM_RATIO**2 * tally.squared_norm:
            raise PeerError("too-far", f"distance {tally.distance**0.5:.3g} times the own norm")

    def _encode(self, lease: Lease, where: slice, seed: int, like: Packet | None) -> Packet:
        memory = None
        if self.codec.uses_memory:
            if self._memory is None:
                self._memory = lease.own.clone()
            memory = self._memory[where]
        return self.codec.encode(lease.own[where], seed=seed, memory=memory, like=like)

    def _mix(self, lease: Lease, where: slice, sent: Packet, received: Packet, tally: _Tally | None) -> None:
        own, out = lease.own[where], lease.out[where]
        if isinstance(self.aggregator, Mean):
            self.codec.mix(own, sent, received, 0.5, out)
        else:
            mine = self.codec.decode(sent)
            torch.add(own, self.aggregator(mine, self.codec.decode(received)[None]) - mine, out=out)
        if tally is not None:
            # out - own is half the difference of the two vectors
            tally.squared_distance += 4 * float(torch.dist(out, own)) ** 2
            tally.squared_norm += float(torch.linalg.vector_norm(own)) ** 2

    async def _receive_chunk(self, stream: Stream, index: int, size: int, tally: _Tally) -> Packet:
        frame = frames.decode(await self._receive(stream, tally, self.codec.max_nbytes(size)))
        if not isinstance(frame, frames.ChunkFrame):
            raise PeerError("malformed", f"{frame.WhichOneof('body')} where chunk {index} was due")
        if frame.index != index:
            raise PeerError("malformed", f"chunk {frame.index} where {index} was due")
        if len(frame.payload) > self.codec.max_nbytes(size):
            raise PeerError("oversized", f"{len(frame.payload)} bytes for {size} elements")
        return Packet(frame.payload, size)

    async def _expect(self, stream: Stream, body: str, tally: _Tally) -> SwapMessage:
        message = frames.decode(await self._receive(stream, tally))
        kind = "chunk" if isinstance(message, frames.ChunkFrame) else message.WhichOneof("body")
        if isinstance(message, SwapMessage) and kind == "refuse":
            if message.refuse.reason == "busy":
                raise PeerBusy
            reason = message.refuse.reason if message.refuse.reason in _REFUSALS else "refused"
            raise PeerError(reason, f"the peer says: {message.refuse.detail[:200]}")
        if isinstance(message, frames.ChunkFrame) or kind != body:
            raise PeerError("malformed", f"{kind} where {body} was due")
        return message

    async def _send(self, stream: Stream, message: SwapMessage | Bytes, tally: _Tally) -> None:
        encoded = message.SerializeToString() if isinstance(message, SwapMessage) else message
        await chaos.point("send")
        with _deadline_is_peer_error():
            async with asyncio.timeout(self.pace.patience(stream.peer, len(encoded))):
                await stream.send(encoded)
        tally.bytes_sent += len(encoded)

    async def _receive(self, stream: Stream, tally: _Tally, nbytes: int = 0) -> Bytes:
        """The next message, which may have `nbytes`."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        with _deadline_is_peer_error():
            async with asyncio.timeout(self.pace.patience(stream.peer, nbytes)):
                message = await stream.receive()
        await chaos.point("received")
        self.pace.observe(stream.peer, loop.time() - started)
        tally.bytes_received += len(message)
        return message

    def _open(self, exchange: bytes, seed: int, chunk_size: int | None = None) -> Open:
        return Open(
            exchange=exchange,
            run=self.run,
            model=self.replica.fingerprint,
            size=self.replica.size,
            chunk_size=chunk_size or chunk_size_of(self.codec),
            codec=self.codec.model_dump_json(),
            step=self.step(),
            seed=seed,
        )

    def _check(self, theirs: Open, chunk_size: int) -> None:
        """Refuse a swap that cannot make sense, with the reason that the other side is told."""
        if not self.ready():
            raise PeerError("not-ready", "no weights yet")
        if theirs.run != self.run:
            raise PeerError("wrong-run", f"{theirs.run[:63]!r}, here {self.run!r}")
        if theirs.model != self.replica.fingerprint or theirs.size != self.replica.size:
            raise PeerError("wrong-model", f"{theirs.size} elements, here {self.replica.size} of another layout")
        if theirs.codec != self.codec.model_dump_json():
            raise PeerError("wrong-codec", f"{theirs.codec[:200]}, here {self.codec.model_dump_json()}")
        if len(theirs.exchange) != 16 or theirs.chunk_size != chunk_size or theirs.seed >= 1 << 63:
            raise PeerError("malformed", "bad Open")
        fits = 1 <= chunk_size <= MAX_CHUNK_SIZE and chunk_size % self.codec.granularity == 0
        fits = fits and self.codec.max_nbytes(chunk_size) <= frames.MAX_PAYLOAD_BYTES
        if not fits or self.replica.size > chunk_size * MAX_CHUNKS:
            raise PeerError("malformed", f"chunks of {chunk_size} elements")

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[Lease]:
        """A hold on the replica that ends with the block, whether committed or not."""
        if self.decisions.is_full:
            raise PeerBusy
        lease = self.replica.lease()
        try:
            yield lease
        finally:
            self.replica.release(lease)

    @asynccontextmanager
    async def _account(self, peer: PeerId, initiated: bool) -> AsyncIterator[_Tally]:
        """Emit what became of a swap."""
        loop = asyncio.get_running_loop()
        started, tally = loop.time(), _Tally()
        try:
            yield tally
        except PeerBusy:
            raise
        except PeerError as error:
            self.emit(Failed(peer, error.reason, initiated))
            if error.reason in _LIES:
                self.emit(Rejected(peer, error.reason, error.detail))
            raise
        except asyncio.CancelledError:  # the other side hung up: at once after the last message, or in the middle
            if not tally.applied and not tally.refused:
                self.emit(Failed(peer, "in-doubt" if tally.in_doubt else "closed", initiated))
            raise
        finally:
            if tally.applied:
                self.emit(tally.outcome(peer, loop.time() - started, initiated))


_REFUSALS = frozenset({"busy", "not-ready", "wrong-run", "wrong-model", "wrong-codec"})
_LIES = frozenset(
    {"malformed", "oversized", "replayed", "not-finite", "too-far", "wrong-run", "wrong-model", "wrong-codec"}
)


def chunk_size_of(codec: Codec) -> int:
    """Elements per chunk that make about `CHUNK_BYTES`: what initiators choose."""
    size = MAX_CHUNK_SIZE
    while codec.max_nbytes(size) > CHUNK_BYTES * 9 // 8 and size > codec.granularity:
        size //= 2
    return max(size // codec.granularity, 1) * codec.granularity


def _chunks(size: int, chunk_size: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk_size, size)) for start in range(0, size, chunk_size))


async def _both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Run two coroutines at once; the first failure ends both and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(one)
            group.create_task(other)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


@contextmanager
def _deadline_is_peer_error() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise PeerError("deadline", "the peer is silent") from None
