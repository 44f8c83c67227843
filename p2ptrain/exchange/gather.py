"""Vectors that peers show each other, for rules that look at many of them at once.

Every node offers one vector at a time, the same to everybody, and signs it; it keeps the latest that each peer has
shown it, or the last two where vectors belong to rounds (`rounds`). Nothing is decided, nothing is summed, so nothing
needs to be undone: whoever is cut off keeps what it has.
"""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2ptrain.bounded import keep
from p2ptrain.errors import PeerBusy, PeerError
from p2ptrain.exchange import offers
from p2ptrain.exchange.liar import Liar
from p2ptrain.exchange.offers import Offer
from p2ptrain.exchange.statements import Author, Statement, add_to_digest, checked, start_digest
from p2ptrain.exchange.talk import MAX_NORM_RATIO, Talk, Tally, chunk_size_of, chunks
from p2ptrain.exchange.witness import Witness
from p2ptrain.pace import STREAM_TIMEOUT_S
from p2ptrain.ports import PeerId, Stream, Transport
from p2ptrain.waiting import News, both, within
from p2ptrain.wire.exchange_pb2 import Done, Open, SwapMessage

SHARE = "/p2ptrain.v1.Exchange/Share"

MAX_SHOWN = 64
"""Peers whose vectors are kept; of more, the oldest go."""
MAX_AT_ONCE = 16
"""Peers that this node calls, and as many that it answers, at a time: that bounds the memory."""
MAX_ROUND = 1 << 62
CALLS, BUSY_S = 3, 1.0
"""How often to call a peer that is busy, and how long to wait before the next time if it is with this node."""


@dataclass(frozen=True, eq=False)
class Shown:
    """The latest vector of a peer."""

    vector: Tensor
    """(d,) float32 on the CPU; whatever the peer likes, but finite."""
    number: int
    """Of the peer's statement."""
    round: int
    """Of this node, when it came."""
    of: int = 0
    """Which round's it is; 0: of a method that has none."""
    account: bytes = b""
    """What the peer said with it; see `Offer.accounts`."""


@dataclass
class Gatherer:
    """One node's side of all its sharing."""

    me: PeerId
    transport: Transport
    talk: Talk
    rng: random.Random
    author: Author
    witness: Witness
    liar: Liar | None = None
    round: int = 0
    """How many times this node has combined what it was shown."""
    _shown: dict[PeerId, tuple[Shown, ...]] = field(default_factory=dict)
    """The latest of each peer first; of those that go in rounds the one before, too."""
    _offered: Offer | None = None
    _offered_before: Offer | None = None
    """In rounds: somebody may not have it yet."""
    _lies: dict[tuple[PeerId | None, int], Offer] = field(default_factory=dict)
    """What a liar shows instead: to whom, None being everybody, and by the number of the true one."""
    _calling: dict[PeerId, None] = field(default_factory=dict)
    _answering: dict[PeerId, None] = field(default_factory=dict)
    _news: News = field(default_factory=News)

    def __post_init__(self) -> None:
        self.transport.serve_stream(SHARE, self._respond)

    def prepare(
        self, vector: Tensor, step: int, round: int = 0, accounts: Mapping[PeerId, bytes] | None = None
    ) -> Offer:
        """Make this vector, (d,), ready to be offered: encoding takes its time, on any thread."""
        return offers.make(vector, step, self.talk.codec, self.author, round, accounts)

    def offer(self, offer: Offer) -> None:
        """From now on show this to whoever asks."""
        self._offered_before = self._offered if offer.round else None
        self._offered = offer
        kept = {each.number for each in (offer, self._offered_before) if each is not None}
        self._lies = {key: lie for key, lie in self._lies.items() if key[1] in kept}
        if self.liar is not None:
            self.liar.remember(offer.vector)

    def shown(self, staleness: int) -> dict[PeerId, Tensor]:
        """By peer, in the order of their ids: the vectors that came at most so many rounds ago, of peers that are not
        in quarantine."""
        oldest = self.round - staleness
        found = {peer: self._shown[peer][0] for peer in sorted(self._shown) if not self.talk.shuns(peer)}
        return {peer: shown.vector for peer, shown in found.items() if shown.round >= oldest}

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

    def shown_in(self, peer: PeerId, round: int) -> Shown | None:
        """What this peer has shown of a round, if that is one of its last two."""
        return next((shown for shown in self._shown.get(peer, ()) if shown.of == round), None)

    def latest_round(self, peer: PeerId) -> int:
        """0: this peer has shown nothing."""
        return self._shown[peer][0].of if peer in self._shown else 0

    def forget(self, peer: PeerId) -> None:
        self._shown.pop(peer, None)

    async def news(self) -> None:
        """Returns when a peer has shown its vector, or an exchange with one has ended."""
        await self._news.next()

    async def share(self, peer: PeerId) -> None:
        """Show `peer` the offered vector and be shown its, each unless the other has it. Raises `PeerError`."""
        offer = self._ready()
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
            offer = self._present(peer)
            known = self.shown_in(peer, offer.round) or next(iter(self._shown.get(peer, ())), None)
            mine = self._open(offer, peer, self.rng.randbytes(16), known.number if known else 0)
            await self.talk.send(stream, SwapMessage(open=mine), tally)
            theirs = (await self.talk.expect(stream, "open", tally)).open
            statement = self._check(theirs, peer)
            was_news = await self._trade(stream, offer, mine, theirs, statement, tally)
            await self.talk.expect(stream, "done", tally)
            tally.applied = was_news

    async def _respond(self, stream: Stream) -> None:
        """The responder's side of `share`."""
        async with self.talk.account(stream.peer, initiated=False) as tally:
            theirs = (await self.talk.expect(stream, "open", tally)).open
            try:
                self.talk.admit(stream.peer)
                statement = self._check(theirs, stream.peer)
                if stream.peer in self._calling and self.me < stream.peer:
                    raise PeerBusy  # both call each other, and one call does for both
                async with self._slot(stream.peer, self._answering):
                    offer, number = self._present(stream.peer, theirs.round), statement.number
                    has_it = any(shown.number == number for shown in self._shown.get(stream.peer, ()))
                    mine = self._open(offer, stream.peer, theirs.exchange, number if has_it else 0)
                    await self.talk.send(stream, SwapMessage(open=mine), tally)
                    was_news = await self._trade(stream, offer, mine, theirs, statement, tally)
                    tally.applied, tally.refused = was_news, not was_news  # the caller hangs up once it has heard so
                    with suppress(PeerError):  # both have what there was to have
                        await self.talk.send(stream, SwapMessage(done=Done()), tally)
            except PeerError as error:
                await self.talk.refuse(stream, error, tally)
                raise

    def _ready(self) -> Offer:
        if self._offered is None:
            raise PeerError("not-ready", "nothing to show yet")
        return self._offered

    def _present(self, peer: PeerId, round: int = 0) -> Offer:
        """What to show to this peer: of this round, if it is still there, else the latest."""
        offer, before, liar = self._ready(), self._offered_before, self.liar
        if before is not None and before.round == round:
            offer = before
        if liar is None or liar.attack.kind != "content":
            return offer
        audience = peer if liar.attack.per_recipient else None, offer.number
        if audience not in self._lies:
            said = liar.say(offer.vector, peer)
            self._lies[audience] = offers.twisted(offer, said, self.talk.codec, self.author)
        return self._lies[audience]

    def _open(self, offer: Offer, peer: PeerId, exchange: bytes, have: int) -> Open:
        opening = self.talk.open(exchange, seed=0, account=offer.accounts.get(peer, b""))
        opening.step, opening.round, opening.have = offer.step, offer.round, have
        opening.statement.CopyFrom(offer.statement.encoded())
        return opening

    def _check(self, theirs: Open, peer: PeerId) -> Statement:
        """Refuse what makes no sense; what the peer has signed counts from here on."""
        self.talk.check(theirs, chunk_size_of(self.talk.codec))
        if theirs.round > MAX_ROUND:
            raise PeerError("malformed", f"round {theirs.round}")
        statement = checked(theirs.statement, self.talk.run)
        if statement.peer != peer:
            raise PeerError("bad-signature", f"a statement of {statement.peer[:8]}")
        self.witness.hear(statement)
        return statement

    async def _trade(
        self, stream: Stream, offer: Offer, mine: Open, theirs: Open, statement: Statement, tally: Tally
    ) -> bool:
        """Whether there was anything to show."""
        shows, is_shown = theirs.have != offer.number, mine.have != statement.number
        async with self.talk.transfer():
            await both(
                self._show(stream, offer, tally) if shows else _nothing(),
                self._be_shown(stream, offer, theirs, statement, tally) if is_shown else _nothing(),
            )
        offer.told.add(stream.peer)
        return shows or is_shown

    async def _show(self, stream: Stream, offer: Offer, tally: Tally) -> None:
        for index, packet in enumerate(offer.packets):
            await self.talk.send_chunk(stream, index, packet, tally)

    async def _be_shown(self, stream: Stream, offer: Offer, theirs: Open, statement: Statement, tally: Tally) -> None:
        codec, chunk_size = self.talk.codec, chunk_size_of(self.talk.codec)
        vector, digest = torch.empty(self.talk.shared.size), start_digest(codec.model_dump_json(), chunk_size)
        for index, where in enumerate(chunks(len(vector), chunk_size)):
            packet = await self.talk.receive_chunk(stream, index, where.stop - where.start, tally)
            add_to_digest(digest, packet.payload)
            vector[where] = codec.decode(packet)
        if digest.digest() != statement.digest:
            raise PeerError("bad-signature", "not the vector that was signed")
        tally.squared_distance, tally.squared_norm = float(torch.dist(vector, offer.vector)) ** 2, offer.norm**2
        if not tally.squared_distance <= max(MAX_NORM_RATIO * offer.norm, 1.0) ** 2:
            raise PeerError("too-far", f"distance {tally.distance**0.5:.3g} times the own norm")
        self._keep(stream.peer, Shown(vector, statement.number, self.round, theirs.round, theirs.account))
        self._news.tell()

    def _keep(self, peer: PeerId, shown: Shown) -> None:
        before = self._shown.get(peer, ())[:1] if shown.of else ()
        latest_first = sorted((shown, *before), key=lambda each: each.of, reverse=True)
        keep(self._shown, peer, tuple(latest_first), MAX_SHOWN)

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
