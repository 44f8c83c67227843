"""The horizon: rounds before it take no new bytes, so that nobody has to keep on listening for them.

Nodes close rounds at slightly different times, so one may have taken what another refuses, and a disk may lose what was
closed long ago. So each signs what it has at its closing, and this is flooded. What most have said is what all are to
have: who has something else finds by bisection where, and takes over these rounds from a neighbour that has them.
"""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.strategies.spsa.dissemination.link import Link
from p2ptrain.strategies.spsa.ledger.audit import agreed, fingerprint
from p2ptrain.strategies.spsa.ledger.book import AHEAD_MAX
from p2ptrain.strategies.spsa.ledger.roster import slot_of
from p2ptrain.telemetry.events import Mended
from p2ptrain.wire.onebyte_pb2 import Said

if TYPE_CHECKING:
    from p2ptrain.strategies.spsa.dissemination.flood import Flood

LOOKED_S = 3.0
KEPT = 8
"""Of each slot, so many closings are kept, the last ones."""
_PREFIX = b"p2ptrain-onebyte-closing-v1"


class Horizon:
    """One node's closings, and what it has heard of the others'."""

    def __init__(self, flood: "Flood") -> None:
        self._flood = flood
        self._closings: dict[int, dict[int, Said.Closing]] = {}  # by slot and round

    def close(self, reached: int) -> None:
        """This node is at an audit of the rounds before `reached`: close what is too old by now, and say so. But
        nothing that no neighbour has like this, as it can still come. The caller holds `flood.writing`."""
        rule, others = self._flood.replica.rule, self._flood.compared()
        number = reached - rule.horizon
        if others:
            number = min(number, max((other.seal.round for other in others if other.seal and other.equal), default=0))
        number = number // rule.audit_every * rule.audit_every
        if number > self._flood.replica.book.closed:
            self._close(number)

    def follow(self) -> None:
        """Close what anybody has: nobody makes any more bytes, and those that are missing somewhere do not come. The
        caller holds `flood.writing`."""
        furthest = max((number for closings in self._closings.values() for number in closings), default=0)
        if furthest > self._flood.replica.book.closed:
            self._close(furthest)

    def _close(self, number: int) -> None:
        flood = self._flood
        flood.replica.close(number)
        log = fingerprint(flood.replica.book, 0, number)
        closing = Said.Closing(key=flood.node.public_key, round=number, log=log)
        closing.signature = flood.node.sign(self._text(closing))
        flood.spread_closing(closing)

    def check(self, closing: Said.Closing) -> None:
        """Raises `PeerError` for one that is not its speaker's, or of no round that could be closed."""
        if len(closing.log) != 32 or closing.round % self._flood.replica.rule.audit_every:
            raise PeerError("malformed", "a closing of nothing")
        if not self._flood.node.verify(closing.key, self._text(closing), closing.signature):
            raise PeerError("bad-signature", "a closing that is not its speaker's")
        if closing.round > self._flood.reached() + AHEAD_MAX:
            raise PeerError("malformed", f"closes round {closing.round}, far ahead of everyone")

    def take(self, closing: Said.Closing) -> bool:
        """Whether it is news. Of two that differ the lower counts, everywhere, and their speaker is named."""
        number, slot = closing.round, slot_of(closing.key)
        closings = self._closings.setdefault(slot, {})
        if len(closings) == KEPT and number < min(closings):
            return False
        known = closings.get(number)
        if known is not None and known.log != closing.log:
            peer = self._flood.roster.peer(slot) or ""
            self._flood.reject(peer, "equivocation", f"has said two things of the rounds before {number}")
        if known is not None and known.log <= closing.log:
            return False
        closings[number] = closing
        if len(closings) > KEPT:
            del closings[min(closings)]
        return True

    def all(self) -> Iterator[Said.Closing]:
        """For a neighbour that does not know them."""
        for closings in list(self._closings.values()):
            yield from list(closings.values())

    async def mend_for_ever(self) -> None:
        """Become like most in what is closed, whenever this node is not."""
        while True:
            await asyncio.sleep(LOOKED_S * self._flood.rng.uniform(0.8, 1.2))
            found = self._agreed()
            if found is not None and self._has(*found) is False:
                await self._mend(*found)

    def _agreed(self) -> tuple[int, bytes] | None:
        """The last round that is closed here of which it is known what is to be there."""
        flood = self._flood
        present = flood.presence.slots() | {flood.replica.slot}
        for number in sorted({number for closings in self._closings.values() for number in closings}, reverse=True):
            said = {slot: closings[number].log for slot, closings in self._closings.items() if number in closings}
            if number <= flood.replica.book.closed and (log := agreed(said, present)) is not None:
                return number, log
        return None

    def _has(self, number: int, log: bytes) -> bool:
        return fingerprint(self._flood.replica.book, 0, number) == log

    async def _mend(self, number: int, log: bytes) -> None:
        """From the first neighbour that has it."""
        links = [link for link in self._flood.talking() if link.greeted]
        self._flood.rng.shuffle(links)
        for link in links:
            try:
                question = Said.Question(first=[0], last=[number])
                reply = await link.ask(Said(question=question))
                if list(reply.answer.hashes) == [log]:
                    await self._mend_from(link, number)
            except PeerError as error:
                self._flood.reject(link.peer, error.reason, error.detail)
                continue
            if self._has(number, log):
                return

    async def _mend_from(self, link: Link, number: int) -> None:
        """Raises `PeerError`; what was taken over by then stays so."""
        flood = self._flood
        for first, last in await flood.repair.search(link, 0, number):
            reply = await link.ask(Said(want=Said.Want(first=first, last=last)))
            for key in reply.records.keys:
                flood.admit(key)
            async with flood.writing:
                new, gone = flood.replica.replace(first, last, reply.records.batches)
                try:
                    await flood.node.compute.aside(flood.replica.log.flush)
                except ConfigError as error:
                    flood.complaints.note("error", f"bytes wait for the disk: {error}")
            flood.node.emit(Mended(link.peer, first, last, new, gone))

    def _text(self, closing: Said.Closing) -> bytes:
        return _PREFIX + self._flood.replica.identity + closing.round.to_bytes(8, "big") + closing.log
