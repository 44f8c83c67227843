"""The one pipeline of a pairwise swap: snapshot, encode, send, receive, decode, screen, combine, correct.

Each side ends with `own + combine(sent, received) - sent`, where `sent` is its own vector as the other side decoded
it. So the two corrections cancel, whatever the codec loses, and the sum of the replicas changes only by training.

Both sides apply a swap or neither does: see `decisions`.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2ptrain import chaos
from p2ptrain.aggregators import Aggregator
from p2ptrain.aggregators.mean import Mean
from p2ptrain.codecs import Codec, Packet
from p2ptrain.errors import PeerBusy, PeerError
from p2ptrain.exchange.decisions import Decisions, Doubt
from p2ptrain.exchange.liar import Liar
from p2ptrain.exchange.reputation import Reputation
from p2ptrain.exchange.talk import MAX_NORM_RATIO, Talk, Tally, chunks
from p2ptrain.pace import STREAM_TIMEOUT_S, Pace
from p2ptrain.ports import PeerId, Stream, Transport
from p2ptrain.seeds import derive
from p2ptrain.telemetry.events import Event
from p2ptrain.training.replica import Lease, Shared
from p2ptrain.waiting import both
from p2ptrain.wire.exchange_pb2 import Commit, Done, Open, Ready, SwapMessage

SWAP = "/p2ptrain.v1.Exchange/Swap"

WINDOW = 4
"""Chunks that a side may be ahead of the other."""
SAMPLE_EVERY = 8
"""The distance between the two replicas is measured on every eighth chunk."""


@dataclass
class Exchanger:
    """One node's side of all its swaps. At most one runs at a time: that is what bounds the memory."""

    transport: Transport
    shared: Shared
    """What swaps mix."""
    run: str
    codec: Codec
    aggregator: Aggregator
    emit: Callable[[Event], None]
    rng: random.Random
    step: Callable[[], int]
    ready: Callable[[], bool] = lambda: True
    """False until the replica holds weights worth mixing: no swap is asked for or answered."""
    pace: Pace = field(default_factory=Pace)
    liar: Liar | None = None
    """What this node says instead of the truth."""
    reputation: Reputation | None = None
    _memory: Tensor | None = None
    _asking: tuple[PeerId, bytes] | None = None
    """Whom this node has asked for a swap, and the exchange's id, until there is an answer."""

    def __post_init__(self) -> None:
        self.transport.serve_stream(SWAP, self._respond)
        self.decisions = Decisions(self.transport, self.shared, self.pace, self.emit)
        self.talk = Talk(
            self.run, self.shared, self.codec, self.pace, self.emit, lambda: self.step(), lambda: self.ready(),
            attack=self.liar.attack if self.liar is not None else None, reputation=self.reputation,
        )  # fmt: skip

    async def swap(self, peer: PeerId) -> None:
        """Average with `peer`. Raises `PeerBusy` when either side is in another swap or this one is not ready, and
        `PeerError` when the swap came to nothing on both sides."""
        if self._asking is not None or not self.ready() or not self._is_free_for(peer):
            raise PeerBusy
        async with (
            self.talk.account(peer, initiated=True) as tally,
            self.transport.stream(peer, SWAP, STREAM_TIMEOUT_S) as stream,
        ):
            mine, theirs = await self._ask(stream, tally)
            try:
                lease = self._lease(peer, mine.account)
            except PeerBusy as busy:  # this node has answered another one meanwhile
                await self.talk.call_off(stream, busy, tally)
                raise
            try:
                self.shared.agree(lease, theirs.account)
                await self._initiate(stream, lease, mine, tally)
            finally:
                self.shared.release(lease)

    async def settle_doubts(self) -> None:
        """Runs beside the node; see `Decisions`."""
        await self.decisions.settle_doubts()

    async def settled(self) -> None:
        """Returns once no swap is in doubt."""
        await self.decisions.settled()

    async def _ask(self, stream: Stream, tally: Tally) -> tuple[Open, Open]:
        """What this node says to begin with, and the answer. Nothing is held for that long, or of two that ask others
        each would find the other busy: the node still answers, and then calls off what it has asked for."""
        mine = self.talk.open(
            self.rng.randbytes(16), self.rng.getrandbits(63), account=self.shared.account(stream.peer)
        )
        self._asking = (stream.peer, mine.exchange)
        try:
            await self.talk.send(stream, SwapMessage(open=mine), tally)
            theirs = (await self.talk.expect(stream, "open", tally)).open
        finally:
            self._asking = None
        self.talk.check(theirs, mine.chunk_size)
        return mine, theirs

    async def _initiate(self, stream: Stream, lease: Lease, mine: Open, tally: Tally) -> None:
        await self._transfer(stream, lease, mine, tally, follow=False)
        await self.talk.expect(stream, "ready", tally)
        self.decisions.commit(mine.exchange)
        self.shared.commit(lease, mine.exchange)
        chaos.tell("applied", mine.exchange, stream.peer, lease)
        tally.applied = True
        with suppress(PeerError):  # the swap counts; a responder that did not hear so will ask
            await self.talk.send(stream, SwapMessage(commit=Commit()), tally)
            await self.talk.expect(stream, "done", tally)

    async def _respond(self, stream: Stream) -> None:
        """The responder's side of `swap`."""
        async with self.talk.account(stream.peer, initiated=False) as tally:
            theirs = (await self.talk.expect(stream, "open", tally)).open
            try:
                self.talk.admit(stream.peer)
                self.talk.check(theirs, theirs.chunk_size)
                self.decisions.check_new(theirs.exchange)
                if self.decisions.is_full or self._goes_first(stream.peer, theirs.exchange):
                    raise PeerBusy
                lease = self._lease(stream.peer)
                try:
                    self.decisions.answer(theirs.exchange)
                    await self._answer(stream, lease, theirs, tally)
                finally:
                    self.shared.release(lease)
            except PeerError as error:
                await self.talk.refuse(stream, error, tally)
                raise

    def _goes_first(self, peer: PeerId, exchange: bytes) -> bool:
        """Both have asked each other, and what this node has asked for is the one of the two swaps that is made."""
        return self._asking is not None and self._asking[0] == peer and self._asking[1] > exchange

    async def _answer(self, stream: Stream, lease: Lease, theirs: Open, tally: Tally) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        mine = self.talk.open(theirs.exchange, theirs.seed, theirs.chunk_size, self.shared.account(stream.peer))
        self.shared.agree(lease, theirs.account)
        await self.talk.send(stream, SwapMessage(open=mine), tally)
        await self._transfer(stream, lease, mine, tally, follow=True)
        try:
            await self.talk.send(stream, SwapMessage(ready=Ready()), tally)
            await self.talk.expect(stream, "commit", tally)
        except BaseException as error:
            outcome = tally.outcome(stream.peer, loop.time() - started, initiated=False)
            self.decisions.set_aside(Doubt(theirs.exchange, lease.out - lease.base, outcome))
            tally.in_doubt = True
            if isinstance(error, PeerError):
                raise PeerError("in-doubt", str(error)) from None
            raise
        self.shared.commit(lease, theirs.exchange)
        chaos.tell("applied", theirs.exchange, stream.peer, lease)
        tally.applied = True
        with suppress(PeerError):  # applied on both sides; only the courtesy is lost
            await self.talk.send(stream, SwapMessage(done=Done()), tally)

    async def _transfer(self, stream: Stream, lease: Lease, mine: Open, tally: Tally, follow: bool) -> None:
        """Send and receive all chunks at once, mixing each as soon as both sides' are there.

        With a codec that chooses coordinates, the responder (`follow`) answers each chunk on the initiator's
        coordinates."""
        where = list(chunks(lease.own.numel(), mine.chunk_size))
        follow = follow and self.codec.uses_memory
        sent: asyncio.Queue[Packet] = asyncio.Queue(WINDOW)
        said = lease.own if self.liar is None else self.liar.say(lease.own, stream.peer)

        async def send_chunk(index: int, like: Packet | None = None) -> None:
            seed = derive(mine.seed, index)
            packet = self._encode(said[where[index]], where[index], seed, like)
            # A liar mixes as if it had told the truth: its own replica is to stay one.
            await sent.put(packet if said is lease.own else self.codec.encode(lease.own[where[index]], seed=seed))
            await self.talk.send_chunk(stream, index, packet, tally)

        async def send_all() -> None:
            for index in range(len(where)):
                await send_chunk(index)

        async def receive_all() -> None:
            whole = None if self.aggregator.elementwise else _Whole(lease)
            for index, part in enumerate(where):
                received = await self.talk.receive_chunk(stream, index, part.stop - part.start, tally)
                if follow:
                    await send_chunk(index, received)
                self._mix(lease, part, await sent.get(), received, whole)
                if whole is None and index % SAMPLE_EVERY == 0:
                    _measure(lease, part, tally)
            if whole is not None:
                whole.combine(self.aggregator)
                _measure(lease, slice(None), tally)

        async with self.talk.transfer():
            await (receive_all() if follow else both(send_all(), receive_all()))
        if tally.squared_norm and tally.squared_distance > MAX_NORM_RATIO**2 * tally.squared_norm:
            raise PeerError("too-far", f"distance {tally.distance**0.5:.3g} times the own norm")

    def _encode(self, vector: Tensor, where: slice, seed: int, like: Packet | None) -> Packet:
        memory = None
        if self.codec.uses_memory:
            if self._memory is None:
                self._memory = self.shared.snapshot()
            memory = self._memory[where]
        return self.codec.encode(vector, seed=seed, memory=memory, like=like)

    def _mix(self, lease: Lease, where: slice, sent: Packet, received: Packet, whole: "_Whole | None") -> None:
        base, out = lease.base[where], lease.out[where]
        if isinstance(self.aggregator, Mean):
            self.codec.mix(base, sent, received, 0.5, out)
        elif whole is not None:
            whole.mine[where], whole.theirs[where] = self.codec.decode(sent), self.codec.decode(received)
        else:
            mine = self.codec.decode(sent)
            torch.add(base, self.aggregator(mine, self.codec.decode(received)[None]) - mine, out=out)

    def _lease(self, peer: PeerId, account: bytes | None = None) -> Lease:
        """A hold on what is shared, until released. `account`: what the peer was told, if it was told something."""
        if account is not None and account != self.shared.account(peer):
            raise PeerBusy  # there was another exchange with it since
        if not self._is_free_for(peer):
            raise PeerBusy
        return self.shared.lease(peer)

    def _is_free_for(self, peer: PeerId) -> bool:
        # Accounts cannot be compared before it is known which exchange was the last.
        is_unclear = bool(self.shared.account(peer)) and self.decisions.is_in_doubt(peer)
        return self.shared.is_free and not is_unclear


class _Whole:
    """Both vectors as they were sent, for rules that cannot combine them piece by piece."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.mine, self.theirs = torch.empty_like(lease.own), torch.empty_like(lease.own)

    def combine(self, rule: Aggregator) -> None:
        torch.add(self._lease.base, rule(self.mine, self.theirs[None]) - self.mine, out=self._lease.out)


def _measure(lease: Lease, where: slice, tally: Tally) -> None:
    # out - base is half the difference of the two vectors
    tally.squared_distance += 4 * float(torch.dist(lease.out[where], lease.base[where])) ** 2
    tally.squared_norm += float(torch.linalg.vector_norm(lease.own[where])) ** 2
