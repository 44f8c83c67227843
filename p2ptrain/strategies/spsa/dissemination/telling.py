"""What a node says to a neighbour without being asked: Hello, what is new, and now and then what it has."""

from typing import TYPE_CHECKING

from p2ptrain.strategies.spsa.dissemination.dialling import REDIAL_S
from p2ptrain.strategies.spsa.dissemination.link import Link
from p2ptrain.strategies.spsa.dissemination.repair import SEAL_S
from p2ptrain.strategies.spsa.ledger.records import take_some
from p2ptrain.telemetry.events import Flooded
from p2ptrain.waiting import now
from p2ptrain.wire.onebyte_pb2 import Said

if TYPE_CHECKING:
    from p2ptrain.strategies.spsa.dissemination.flood import Flood

ACCOUNTED_S = 5.0
TOLD_AGAIN = 0.25


class Telling:
    """One node's mouth."""

    def __init__(self, flood: "Flood") -> None:
        self._flood = flood

    async def tell(self, link: Link) -> None:
        """For as long as the link lives."""
        flood = self._flood
        greeted = accounted = now()
        sealed = float("-inf")
        try:
            await link.send(self._hello())
            while True:
                await link.rest(flood.relay_s * flood.rng.uniform(0.8, 1.2))
                if not link.greeted or not link.confirmed:
                    if now() - greeted > REDIAL_S:  # ours, or theirs, was lost
                        greeted = now()
                        await link.send(self._hello())
                    if not link.greeted:
                        continue
                while link.waiting:
                    records = take_some(link.waiting, link.told, flood.replica.log, flood.roster)
                    await link.send(Said(records=records))
                if link.ignorant:
                    link.ignorant = False
                    await self._tell_what_is_over(link)
                if now() - sealed > (SEAL_S / 3 if flood.finished else SEAL_S):
                    sealed = now()
                    await self._tell_what_is_there(link)
                if now() - accounted > ACCOUNTED_S:
                    self._account(link, accounted)
                    accounted = now()
        finally:
            self._account(link, accounted)

    def _hello(self) -> Said:
        return Said(hello=Said.Hello(identity=self._flood.replica.identity, key=self._flood.node.public_key))

    async def _tell_what_is_there(self, link: Link) -> None:
        flood = self._flood
        for seal in flood.repair.seals():
            # One with integers is told once, or where messages get lost with one chance in four again.
            if not seal.master or seal.round > link.audit_told or flood.rng.random() < TOLD_AGAIN:
                link.audit_told = seal.round if seal.master else link.audit_told
                await link.send(Said(seal=seal))
        for final in flood.finals.some(flood.rng) if flood.finished else ():
            await link.send(Said(final=final))

    async def _tell_what_is_over(self, link: Link) -> None:
        for final in list(self._flood.finals.values()):
            await link.send(Said(final=final))
        for closing in self._flood.horizon.all():
            await link.send(Said(closing=closing))

    def _account(self, link: Link, since: float) -> None:
        if (link.bytes_sent or link.bytes_received) and not link.is_aired:  # else `bus` has counted them
            self._flood.node.emit(Flooded(link.peer, link.bytes_sent, link.bytes_received, now() - since))
            link.bytes_sent = link.bytes_received = 0
