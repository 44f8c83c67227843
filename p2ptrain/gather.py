"""Vectors that peers show each other, for rules that look at many of them at once.

Every node offers one vector at a time, and keeps the latest that each peer has shown it. Nothing is decided, nothing is
summed, so nothing needs to be undone: whoever is cut off keeps what it has.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2ptrain.errors import PeerBusy, PeerError
from p2ptrain.liar import Liar
from p2ptrain.ports import PeerId, Stream, Transport
from p2ptrain.seeds import derive
from p2ptrain.talk import STREAM_TIMEOUT_S, Talk, Tally, both, chunks
from p2ptrain.waiting import News, within
from p2ptrain.wire.exchange_pb2 import Done, Open, SwapMessage

SHARE = "/p2ptrain.v1.Exchange/Share"

MAX_SHOWN = 64
"""Peers whose vectors are kept; of more, the oldest go."""
MAX_AT_ONCE = 16
"""Peers that this node calls, and as many that it answers, at a time: that bounds the memory."""
CALLS, BUSY_S = 3, 1.0
"""How often to call a peer that is busy, and how long to wait before the next time if it is with this node."""
MAX_NORM_RATIO = 1e3
"""A vector this many times longer than one's own is not a replica of the same model."""


@dataclass(frozen=True, eq=False)
class Shown:
    """The latest vector of a peer."""

    vector: Tensor
    """(d,) float32 on the CPU; whatever the peer likes, but finite."""
    step: int
    """Of the peer, as it says."""
    round: int
    """Of this node, when it came."""


@dataclass(frozen=True, eq=False)
class _Offer:
    """What this node shows in a round."""

    vector: Tensor
    step: int
    norm: float
    told: set[PeerId] = field(default_factory=set)
    """Who has it."""


@dataclass
class Gatherer:
    """One node's side of all its sharing."""

    me: PeerId
    transport: Transport
    talk: Talk
    rng: random.Random
    liar: Liar | None = None
    round: int = 0
    """How many times this node has combined what it was shown."""
    _shown: dict[PeerId, Shown] = field(default_factory=dict)
    _offered: _Offer | None = None
    _calling: dict[PeerId, None] = field(default_factory=dict)
    _answering: dict[PeerId, None] = field(default_factory=dict)
    _news: News = field(default_factory=News)

    def __post_init__(self) -> None:
        self.transport.serve_stream(SHARE, self._respond)

    def offer(self, vector: Tensor, step: int) -> None:
        """From now on show this vector, (d,), to whoever asks."""
        self._offered = _Offer(vector, step, float(torch.linalg.vector_norm(vector)))
        if self.liar is not None:
            self.liar.remember(vector)

    def shown(self, staleness: int) -> dict[PeerId, Tensor]:
        """By peer, in the order of their ids: the vectors that came at most so many rounds ago."""
        oldest = self.round - staleness
        return {peer: self._shown[peer].vector for peer in sorted(self._shown) if self._shown[peer].round >= oldest}

    def gather(self, staleness: int) -> dict[PeerId, Tensor]:
        """What is `shown`, to combine it. A new round begins: what comes from now on, also from peers that are quicker
        than this node, is of that one."""
        shown = self.shown(staleness)
        self.round += 1
        return shown

    @property
    def offered(self) -> Tensor | None:
        """What an honest node in this one's place shows."""
        return None if self._offered is None else self._offered.vector

    def forget(self, peer: PeerId) -> None:
        self._shown.pop(peer, None)

    async def news(self) -> None:
        """Returns when a peer has shown its vector, or an exchange with one has ended."""
        await self._news.next()

    async def share(self, peer: PeerId) -> None:
        """Show `peer` the offered vector and be shown its, each unless the other has it. Raises `PeerError`."""
        offer = self._present()
        for _ in range(CALLS):
            try:
                await self._call(peer)
                return
            except PeerBusy:
                # Perhaps it calls too, and is told the last offer only, because this one was made meanwhile.
                await within(BUSY_S, self._ended(peer))
                if peer in offer.told:
                    raise
        raise PeerBusy

    async def _ended(self, peer: PeerId) -> None:
        """Returns when there is no exchange with this peer."""
        while self.calls(peer) or self.answers(peer):
            await self.news()

    def calls(self, peer: PeerId) -> bool:
        """Whether a call of this node to that peer is under way."""
        return peer in self._calling

    def answers(self, peer: PeerId) -> bool:
        """Whether this peer has called and is being shown things now."""
        return peer in self._answering

    async def _call(self, peer: PeerId) -> None:
        async with (
            self._slot(peer, self._calling),
            self.talk.account(peer, initiated=True) as tally,
            self.transport.stream(peer, SHARE, STREAM_TIMEOUT_S) as stream,
        ):
            offer = self._present()
            mine = self._open(offer, peer, self.rng.randbytes(16), self.rng.getrandbits(63))
            await self.talk.send(stream, SwapMessage(open=mine), tally)
            theirs = (await self.talk.expect(stream, "open", tally)).open
            self.talk.check(theirs, mine.chunk_size)
            was_news = await self._trade(stream, offer, mine, theirs, tally)
            await self.talk.expect(stream, "done", tally)
            tally.applied = was_news

    async def _respond(self, stream: Stream) -> None:
        """The responder's side of `share`."""
        async with self.talk.account(stream.peer, initiated=False) as tally:
            theirs = (await self.talk.expect(stream, "open", tally)).open
            try:
                self.talk.check(theirs, theirs.chunk_size)
                if stream.peer in self._calling and self.me < stream.peer:
                    raise PeerBusy  # both call each other, and one call does for both
                async with self._slot(stream.peer, self._answering):
                    offer = self._present()
                    mine = self._open(offer, stream.peer, theirs.exchange, theirs.seed, theirs.chunk_size)
                    await self.talk.send(stream, SwapMessage(open=mine), tally)
                    was_news = await self._trade(stream, offer, mine, theirs, tally)
                    await self.talk.send(stream, SwapMessage(done=Done()), tally)
                    tally.applied = was_news
            except PeerError as error:
                await self.talk.refuse(stream, error, tally)
                raise

    def _present(self) -> _Offer:
        if self._offered is None:
            raise PeerError("not-ready", "nothing to show yet")
        return self._offered

    def _open(self, offer: _Offer, peer: PeerId, exchange: bytes, seed: int, chunk_size: int | None = None) -> Open:
        opening = self.talk.open(exchange, seed, chunk_size)
        opening.step = offer.step
        known = self._shown.get(peer)
        opening.have = known.step + 1 if known else 0
        return opening

    async def _trade(self, stream: Stream, offer: _Offer, mine: Open, theirs: Open, tally: Tally) -> bool:
        """Whether there was anything to show."""
        shows, is_shown = theirs.have != mine.step + 1, mine.have != theirs.step + 1
        async with self.talk.transfer():
            await both(
                self._show(stream, offer, mine, tally) if shows else _nothing(),
                self._be_shown(stream, offer, theirs, tally) if is_shown else _nothing(),
            )
        offer.told.add(stream.peer)
        return shows or is_shown

    async def _show(self, stream: Stream, offer: _Offer, mine: Open, tally: Tally) -> None:
        said = offer.vector if self.liar is None else self.liar.say(offer.vector, stream.peer)
        for index, where in enumerate(chunks(len(said), mine.chunk_size)):
            packet = self.talk.codec.encode(said[where], seed=derive(mine.seed, index))
            await self.talk.send_chunk(stream, index, packet, tally)

    async def _be_shown(self, stream: Stream, offer: _Offer, theirs: Open, tally: Tally) -> None:
        vector = torch.empty(self.talk.shared.size)
        for index, where in enumerate(chunks(len(vector), theirs.chunk_size)):
            packet = await self.talk.receive_chunk(stream, index, where.stop - where.start, tally)
            vector[where] = self.talk.codec.decode(packet)
        tally.squared_distance, tally.squared_norm = float(torch.dist(vector, offer.vector)) ** 2, offer.norm**2
        if not tally.squared_distance <= max(MAX_NORM_RATIO * offer.norm, 1.0) ** 2:
            raise PeerError("too-far", f"distance {tally.distance**0.5:.3g} times the own norm")
        self._shown.pop(stream.peer, None)
        self._shown[stream.peer] = Shown(vector, theirs.step, self.round)
        if len(self._shown) > MAX_SHOWN:
            del self._shown[next(iter(self._shown))]
        self._news.tell()

    @asynccontextmanager
    async def _slot(self, peer: PeerId, taken: dict[PeerId, None]) -> AsyncIterator[None]:
        """One of few, and for each peer one."""
        if peer in taken or len(taken) >= MAX_AT_ONCE:
            raise PeerBusy
        taken[peer] = None
        try:
            yield
        finally:
            del taken[peer]
            self._news.tell()


async def _nothing() -> None:
    """One side has nothing to say."""
