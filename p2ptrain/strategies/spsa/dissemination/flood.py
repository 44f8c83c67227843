"""Flooding: every signed byte reaches everyone over any connected graph, each batch about once over each edge.

Whatever is new to a node goes to all neighbours but the one it came from, and not to those that send it meanwhile; and
to a broker if there is one and it has not come from there. What gets lost all the same, `repair` finds.
"""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from p2ptrain import chaos
from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.strategies.spsa.dissemination.carrier import Carrier, Speaker
from p2ptrain.strategies.spsa.dissemination.complaints import Complaints
from p2ptrain.strategies.spsa.dissemination.dialling import Dialling
from p2ptrain.strategies.spsa.dissemination.hearing import Hearing
from p2ptrain.strategies.spsa.dissemination.horizon import Horizon
from p2ptrain.strategies.spsa.dissemination.link import Link
from p2ptrain.strategies.spsa.dissemination.presence import Presence
from p2ptrain.strategies.spsa.dissemination.repair import Repair
from p2ptrain.strategies.spsa.dissemination.settled import Settled
from p2ptrain.strategies.spsa.dissemination.telling import Telling
from p2ptrain.strategies.spsa.ledger.finals import Finals
from p2ptrain.strategies.spsa.ledger.replica import Replica
from p2ptrain.strategies.spsa.ledger.roster import Roster, slot_of
from p2ptrain.waiting import News, both, within
from p2ptrain.wire.onebyte_pb2 import Said

if TYPE_CHECKING:
    from p2ptrain.node import Node


class Flood:
    """One node's links, and what goes over them."""

    def __init__(
        self, node: "Node", replica: Replica, roster: Roster, batch_s: float, relay_s: float, number: int = 1
    ) -> None:
        """`number`: above all that this node has used in earlier lives."""
        self.node, self.replica, self.roster = node, replica, roster
        self.batch_s, self.relay_s = batch_s, relay_s
        self.rng = node.rng("flood")
        self.finished = False
        """Nobody makes any more bytes: seals are over everything."""
        self.audit: Said.Seal | None = None
        """Our last seal with a digest of the integers."""
        self.caught_up = False
        self.writing = asyncio.Lock()
        """The disk, by one at a time."""
        self.serve_request = _refuse_request
        """Answers what concerns snapshots."""
        self.complaints = Complaints(node.emit)
        self.reject = self.complaints.reject
        self.finals = Finals(node, replica.identity, replica.slot, number)
        self.presence = Presence(node, roster, batch_s)
        self.horizon = Horizon(self)
        self.settled = Settled(replica)
        self.repair = Repair(self)
        self.hearing, self._telling = Hearing(self), Telling(self)
        self._dialling = Dialling(node, self.complaints, self.talk)
        self.links = self._dialling.links
        """To neighbours."""
        self.bus: Carrier | None = None
        """A broker, where there is one; entered before `run`."""
        self._news = News()

    async def run(self) -> None:
        """Keep links open and say what is new, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dialling.run())
            if self.bus is not None:
                group.create_task(self.bus.run())
            group.create_task(self._publish_for_ever())
            group.create_task(self.horizon.mend_for_ever())

    async def publish(self, hold: bool = False) -> None:
        """Sign and keep what was measured, then tell the neighbours. A disk that is full is tried again. `hold`: as in
        `Replica.sign`."""
        async with self.writing:
            self.replica.sign(hold)
            try:
                await self.node.compute.aside(self._keep)
            except ConfigError as error:
                self.complaints.note("error", f"bytes wait for the disk: {error}")
                return
            await chaos.point("kept")
            for record in self.replica.signed():
                self.pass_on(record)

    def talking(self) -> list[Link]:
        """With neighbours, and alone with some of those at the broker."""
        return [*self.links.values(), *(self.bus.links.values() if self.bus else ())]

    def compared(self) -> list[Link | Speaker]:
        """Those whose seals come, each once."""
        speakers = self.bus.speakers() if self.bus else []
        return list({each.peer: each for each in (*speakers, *self.talking())}.values())

    def pass_on(self, record: bytes, source: Link | Speaker | None = None) -> None:
        """A batch that is new here."""
        for link in self.links.values():
            if link is not source and link.greeted:
                link.owe(record)
        if self.bus is not None and (source is None or source is self.links.get(source.peer)):
            self.bus.owe(record, is_own=source is None)

    def say_final(self, log: bytes, master: bytes, done: bool) -> None:
        """This node makes no more bytes and ends with these, as all others do, or not yet; said to everyone."""
        self.spread_final(self.finals.sign(log, master, done))

    def spread_final(self, final: Said.Final, source: Link | Speaker | None = None) -> None:
        """A last word that was checked, to everyone if it is news."""
        if self.finals.take(final):
            self.presence.spoke(slot_of(final.key))
            self._spread(Said(final=final), source)

    def spread_closing(self, closing: Said.Closing, source: Link | Speaker | None = None) -> None:
        """One that was checked, to everyone if it is news."""
        if self.horizon.take(closing):
            self._spread(Said(closing=closing), source)

    def admit(self, key: bytes) -> None:
        """Enter a key that was told. Raises `PeerError`."""
        lost = self.roster.admit(key)
        if lost is not None:
            self.replica.drop(lost)

    async def news(self, within_s: float) -> None:
        """Returns when something was heard, or that time is over."""
        await within(within_s, self._news.next())

    def tell_news(self) -> None:
        self._news.tell()

    def reached(self) -> int:
        """Nothing is known of this round and later ones."""
        return 1 + max(self.replica.book.heads.values(), default=-1)

    def _spread(self, said: Said, source: Link | Speaker | None) -> None:
        for link in self.links.values():
            if link.greeted and link is not source:
                with suppress(PeerError):  # it takes nothing at present, and hears it when it is back
                    link.post(said)
        if self.bus is not None and not isinstance(source, Speaker):
            self.bus.post(said)

    async def talk(self, link: Link) -> None:
        asking = both(self.repair.compare(link), self._answer(link))
        await both(self._hear(link), both(self._telling.tell(link), asking))

    async def _hear(self, link: Link) -> None:
        while True:
            self.hearing.take(link, await link.receive())
            self.tell_news()

    async def _answer(self, link: Link) -> None:
        while True:
            request = await link.requests.get()
            reply = await self.serve_request(request)
            reply.id = request.id
            link.post(reply)

    async def _publish_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.batch_s * self.rng.uniform(0.9, 1.1))
            at_work = {self.replica.slot, *(self.presence.at_work() - self.finals.keys())}
            self.replica.left = self.replica.book.heads.keys() - at_work
            await self.publish(hold=True)

    def _keep(self) -> None:
        self.replica.log.flush()
        self.roster.save()


async def _refuse_request(request: Said) -> Said:
    return Said(snapshot=Said.Snapshot()) if request.HasField("freeze") else Said(piece=Said.Piece())
