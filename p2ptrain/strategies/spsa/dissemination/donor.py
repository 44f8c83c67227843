"""Snapshots by wire: what a newcomer takes instead of replaying all bytes since the start.

A snapshot is of the round of an audit, and the same file for all who have the same bytes before it. So it comes in
pieces from several donors at once, of whom most must agree what it is; and were they all wrong, the next audit tells.
"""

import asyncio
import hashlib
from collections import Counter
from contextlib import suppress

from p2ptrain.errors import CheckpointError, PeerError
from p2ptrain.strategies.spsa.dissemination.flood import Flood
from p2ptrain.strategies.spsa.dissemination.link import Link
from p2ptrain.strategies.spsa.ledger import snapshot
from p2ptrain.strategies.spsa.ledger.audit import fingerprint
from p2ptrain.strategies.spsa.ledger.book import Book
from p2ptrain.strategies.spsa.ledger.snapshot import Snapshot
from p2ptrain.telemetry.events import Fetched, Noted
from p2ptrain.wire.onebyte_pb2 import Said

PIECE_BYTES = 1 << 18
DONORS_MAX = 5
LOG_BYTES_MAX = 1 << 26
"""Of the set of bytes in a snapshot."""
KEPT_FOR_S = 60.0


class Donor:
    """Gives snapshots to newcomers, and gets one for this node."""

    def __init__(self, flood: Flood, turn: asyncio.Lock) -> None:
        """`turn`: who holds it may look at the master's integers."""
        self._flood, self._turn = flood, turn
        self._round, self._content, self._hashes = -1, b"", list[bytes]()
        self._asked = float("-inf")
        flood.serve_request = self.answer

    async def answer(self, request: Said) -> Said:
        if request.HasField("freeze"):
            await self._freeze()
            return Said(snapshot=Said.Snapshot(round=max(self._round, 0), hashes=self._hashes))
        self._asked = asyncio.get_running_loop().time()
        wanted = request.fetch
        piece = self._content[wanted.index * PIECE_BYTES :][:PIECE_BYTES] if wanted.round == self._round else b""
        return Said(piece=Said.Piece(payload=piece))

    async def get(self, size: int) -> Snapshot | None:
        """One that most of the neighbours have, checked against their seals; None if there is none to be had."""
        flood, loop = self._flood, asyncio.get_running_loop()
        started = loop.time()
        offers: dict[Link, tuple[int, tuple[bytes, ...]]] = {}

        async def hear(link: Link) -> None:
            with suppress(PeerError):
                offer = (await link.ask(Said(freeze=Said.Freeze()))).snapshot
                if 0 < len(offer.hashes) <= (8 * size + LOG_BYTES_MAX) // PIECE_BYTES + 1:
                    offers[link] = (offer.round, tuple(offer.hashes))

        async with asyncio.TaskGroup() as group:
            for link in [link for link in flood.talking() if link.greeted][:DONORS_MAX]:
                group.create_task(hear(link))
        if not offers:
            return None
        (common, votes), *_ = Counter(offers.values()).most_common(1)
        donors = [link for link, offer in offers.items() if offer == common]
        try:
            content = await self._collect(donors, *common)
            replica = flood.replica
            found = await flood.node.compute.aside(
                lambda: snapshot.unpack(content, replica.rule, replica.identity, size)
            )
        except (PeerError, CheckpointError) as error:
            flood.node.emit(Noted("warning", f"no snapshot, so all bytes are replayed: {error}"))
            return None
        digest = found.lattice(flood.replica.master.lattice.key, flood.replica.master.lattice.values.device).digest()
        book = Book(flood.replica.rule, flood.replica.identity)
        book.load(found.pages)
        sealed = (common[0], fingerprint(book, 0, common[0]))
        for other in flood.compared():
            audit = other.audit
            if audit is not None and (audit.round, audit.log) == sealed and audit.master != digest:
                flood.node.emit(
                    Noted("warning", f"a snapshot is not what {other.peer[:8]} has: all bytes are replayed")
                )
                return None
        flood.node.emit(Fetched(common[0], votes, len(content), loop.time() - started))
        return found

    async def _freeze(self) -> None:
        audit, now = self._flood.audit, asyncio.get_running_loop().time()
        if audit is None or audit.round == self._round or now - self._asked < KEPT_FOR_S:
            return
        async with self._turn:
            content = await self._flood.node.compute.run(lambda: snapshot.pack(self._flood.replica.master, audit.round))
        self._round, self._content, self._asked = audit.round, content, now
        self._hashes = [hashlib.sha256(piece).digest() for piece in _pieces(content)]

    async def _collect(self, donors: list[Link], number: int, hashes: tuple[bytes, ...]) -> bytes:
        """All pieces, each from one donor after another until one gives it. Raises `PeerError`."""
        pieces: dict[int, bytes] = {}
        missing = list(reversed(range(len(hashes))))

        async def fetch_from(link: Link) -> None:
            while missing:
                index = missing.pop()
                try:
                    reply = await link.ask(Said(fetch=Said.Fetch(round=number, index=index)))
                    if hashlib.sha256(reply.piece.payload).digest() != hashes[index]:
                        raise PeerError("wrong-hash", f"piece {index} of a snapshot is not what its hash says")
                except PeerError as error:
                    missing.append(index)
                    self._flood.reject(link.peer, error.reason, error.detail)
                    return
                pieces[index] = reply.piece.payload

        while missing and donors:
            async with asyncio.TaskGroup() as group:
                for link in donors:
                    group.create_task(fetch_from(link))
            donors = [link for link in donors[1:] if link in self._flood.talking()]
        if missing:
            raise PeerError("no-donor", f"{len(missing)} of {len(hashes)} pieces are missing")
        return b"".join(pieces[index] for index in range(len(hashes)))


def _pieces(content: bytes) -> list[bytes]:
    return [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]
