"""What got lost on the way is found by comparing seals: who differs from a neighbour searches for the rounds in which
it does, and asks for what is said in them. A newcomer gets everything that way."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from p2ptrain.errors import PeerError
from p2ptrain.strategies.spsa.dissemination.carrier import Speaker
from p2ptrain.strategies.spsa.dissemination.link import Link
from p2ptrain.strategies.spsa.ledger.audit import PARTS, Question, answer, fingerprint, search
from p2ptrain.strategies.spsa.ledger.book import EVERYTHING
from p2ptrain.strategies.spsa.ledger.records import take_some
from p2ptrain.wire.onebyte_pb2 import Said

if TYPE_CHECKING:
    from p2ptrain.strategies.spsa.dissemination.flood import Flood

SEAL_S = 3.0
MANY = PARTS // 2
"""Where so many parts of a range differ, all of it is asked for."""
BEHIND = 128
"""Who lacks so many rounds asks for all of them at once."""


class Repair:
    """One node's comparing with its neighbours."""

    def __init__(self, flood: "Flood") -> None:
        self._flood = flood

    def seals(self) -> Iterator[Said.Seal]:
        """What this node has of the rounds that should have come."""
        flood = self._flood
        last = flood.reached() if flood.finished else flood.settled.round()
        yield Said.Seal(round=last, log=fingerprint(flood.replica.book, 0, last))
        if flood.audit is not None:
            yield flood.audit

    def take_seal(self, link: Link | Speaker, seal: Said.Seal) -> None:
        """Raises `PeerError`."""
        if seal.round > EVERYTHING or len(seal.log) != 32 or len(seal.master) not in (0, 32):
            raise PeerError("malformed", "a seal of nothing")
        if seal.master:
            link.audit = seal
            return
        link.seal = seal
        link.equal = self._is_ours(seal)
        if not link.equal:
            link.differs.set()

    def answer(self, said: Said) -> Said:
        """The hashes of what was asked for. Raises `PeerError`."""
        question = Question(tuple(zip(said.question.first, said.question.last, strict=False)))
        return Said(id=said.id, answer=Said.Answer(hashes=answer(self._flood.replica.book, question)))

    def exactly(self, said: Said) -> Said:
        """What is here of the rounds that were asked for; if that is more than a message, the first of it."""
        replica = self._flood.replica
        wanted = dict.fromkeys(replica.records(said.want.first, said.want.last))
        records = take_some(wanted, set(), replica.log, self._flood.roster)
        return Said(id=said.id, records=records)

    async def compare(self, link: Link) -> None:
        """When a neighbour's seal is not ours, get what it has and we have not."""
        while True:
            await link.differs.wait()
            link.differs.clear()
            if link.seal is not None:
                await self._get_missing(link, link.seal)
            await asyncio.sleep(SEAL_S / 2)
            link.equal = link.seal is not None and self._is_ours(link.seal)

    async def search(self, link: Link, first: int, last: int, most: int = PARTS + 1) -> list[tuple[int, int]]:
        """Ranges of rounds in which a neighbour has something else. `most`: as in `audit.search`."""
        searching = search(self._flood.replica.book, first, last, most=most)
        try:
            question = next(searching)
            while True:
                assert len(question.parts) <= PARTS
                starts, ends = zip(*question.parts, strict=True)
                reply = await link.ask(Said(question=Said.Question(first=starts, last=ends)))
                question = searching.send(tuple(reply.answer.hashes))
        except StopIteration as found:
            return found.value

    async def _get_missing(self, link: Link, seal: Said.Seal) -> None:
        reached, closed = self._flood.reached(), self._flood.replica.book.closed
        if seal.round > reached + BEHIND:
            link.post(Said(want=Said.Want(first=reached, last=seal.round)))
            return
        found = await self.search(link, closed, seal.round, MANY) if closed < seal.round else []
        for start, end in found:
            link.post(Said(want=Said.Want(first=start, last=end)))
        if not found and not self._is_ours(seal):
            link.ignorant = True  # we differ in what is closed: that is for `horizon` to decide

    def _is_ours(self, seal: Said.Seal) -> bool:
        return fingerprint(self._flood.replica.book, 0, seal.round) == seal.log
