"""What a node says to a neighbour without being asked: Hello, what is new, and now and then what it has."""

import asyncio
from typing import TYPE_CHECKING

from p2ptrain.strategies.spsa.dialling import REDIAL_S
from p2ptrain.strategies.spsa.link import Link
from p2ptrain.strategies.spsa.repair import SEAL_S
from p2ptrain.telemetry.events import Flooded
from p2ptrain.wire.onebyte_pb2 import Said

if TYPE_CHECKING:
    from p2ptrain.strategies.spsa.flood import Flood

MESSAGE_BYTES = 1 << 16
"""About so long are messages with records."""
ACCOUNTED_S = 5.0


class Telling:
    """One node's mouth."""

    def __init__(self, flood: "Flood") -> None:
        self._flood = flood

    async def tell(self, link: Link) -> None:
        """For as long as the link lives."""
        flood = self._flood
        greeted = accounted = _now()
        sealed = float("-inf")
        try:
            await link.send(self._hello())
            while True:
                await link.rest(flood.relay_s * flood.rng.uniform(0.8, 1.2))
                if not link.greeted or not link.confirmed:
                    if _now() - greeted > REDIAL_S:  # ours, or theirs, was lost
                        greeted = _now()
                        await link.send(self._hello())
                    if not link.greeted:
                        continue
                while link.waiting:
                    await link.send(Said(records=self._records(link)))
                if _now() - sealed > (SEAL_S / 3 if flood.finished else SEAL_S):
                    sealed = _now()
                    await self._tell_what_is_there(link)
                if _now() - accounted > ACCOUNTED_S:
                    self._account(link, accounted)
                    accounted = _now()
        finally:
            self._account(link, accounted)

    def _hello(self) -> Said:
        return Said(hello=Said.Hello(identity=self._flood.replica.identity, key=self._flood.node.public_key))

    async def _tell_what_is_there(self, link: Link) -> None:
        flood = self._flood
        for seal in flood.repair.seals():
            await link.send(Said(seal=seal))
        for final in flood.finals.some(flood.rng) if flood.finished else ():
            await link.send(Said(final=final))

    def _records(self, link: Link) -> Said.Records:
        """As many as make a message, with the keys to check them by."""
        batches, keys, size = [], [], 0
        while link.waiting and size < MESSAGE_BYTES:
            record = next(iter(link.waiting))
            del link.waiting[record]
            batch = self._flood.replica.log.batches.get(record)
            if batch is None or batch.slot not in self._flood.roster:
                continue  # a larger one has taken its place; or from the disk of an earlier life, and nobody told yet
            if batch.slot not in link.told:
                link.told.add(batch.slot)
                keys.append(self._flood.roster[batch.slot])
            batches.append(record)
            size += len(record)
        return Said.Records(keys=keys, batches=batches)

    def _account(self, link: Link, since: float) -> None:
        if link.bytes_sent or link.bytes_received:
            self._flood.node.emit(Flooded(link.peer, link.bytes_sent, link.bytes_received, _now() - since))
            link.bytes_sent = link.bytes_received = 0


def _now() -> float:
    return asyncio.get_running_loop().time()
