"""What a node does with each message of a neighbour. Whatever is wrong with it is a `PeerError`, or is named."""

from typing import TYPE_CHECKING

from p2ptrain.errors import PeerError
from p2ptrain.strategies.spsa.dissemination.carrier import Speaker
from p2ptrain.strategies.spsa.dissemination.link import Link
from p2ptrain.strategies.spsa.ledger.batch import decode
from p2ptrain.wire.onebyte_pb2 import Said

if TYPE_CHECKING:
    from p2ptrain.strategies.spsa.dissemination.flood import Flood

BUSY = 512
"""Records that a neighbour waits for; who asks for more meanwhile waits for these."""
SLOTS_ASKED_MAX = 64
RECENT = 64
"""Who says something of so recent a round is there."""
_SIGNERS = frozenset({"flooding", "closed", "ahead"})
"""Not the neighbour's fault, but that of who signed."""


class Hearing:
    """One node's ears."""

    def __init__(self, flood: "Flood") -> None:
        self._flood = flood

    def take(self, link: Link, said: Said) -> None:
        """Raises `PeerError` for what ends the stream."""
        kind = said.WhichOneof("body")
        link.confirmed = link.confirmed or kind != "hello"
        if kind == "hello":
            self._greet(link, said.hello)
        elif said.id and kind in ("answer", "records", "snapshot", "piece"):
            link.answered(said)
        elif not link.greeted:
            return  # it will say so again, once it has said Hello
        elif kind == "records":
            self._take_records(link, said.records)
        elif kind == "seal":
            self._flood.repair.take_seal(link, said.seal)
        elif kind == "question":
            link.post(self._flood.repair.answer(said))
        elif kind == "want":
            self._give(link, said)
        elif kind == "final":
            self._take_final(link, said.final)
        elif kind == "closing":
            self._take_closing(link, said.closing)
        elif kind in ("freeze", "fetch"):
            if link.requests.full():
                raise PeerError("flooding", "asks for snapshots, and does not take them")
            link.requests.put_nowait(said)
        else:
            raise PeerError("malformed", "a message without a body")

    def take_from_all(self, speaker: Speaker, said: Said) -> None:
        """What is said at a broker to everyone. Raises `PeerError`."""
        match said.WhichOneof("body"):
            case "records":
                self._take_records(speaker, said.records)
            case "seal":
                self._flood.repair.take_seal(speaker, said.seal)
            case "final":
                self._take_final(speaker, said.final)
            case "closing":
                self._take_closing(speaker, said.closing)
            case kind:
                raise PeerError("malformed", f"says {kind} to everyone")

    def _greet(self, link: Link, hello: Said.Hello) -> None:
        if hello.identity != self._flood.replica.identity:
            raise PeerError("wrong-model", "bytes of another run, rule or model")
        self._flood.admit(hello.key)
        if self._flood.roster.slots_of([link.peer]) == set():
            raise PeerError("malformed", "says Hello with another's key")
        link.confirmed = link.confirmed and not link.greeted  # again: ours was lost, or it has begun anew
        link.greeted = link.ignorant = True

    def _give(self, link: Link, said: Said) -> None:
        want = said.want
        if said.id:
            link.post(self._flood.repair.exactly(said))
            return
        link.told.difference_update(want.slots)
        if len(link.waiting) < BUSY:  # else it is still being sent what it has asked for before
            for record in self._flood.replica.records(want.first, want.last):
                link.owe(record)

    def _take_final(self, source: Link | Speaker, final: Said.Final) -> None:
        self._flood.finals.check(final)
        self._flood.admit(final.key)
        self._flood.spread_final(final, source)

    def _take_closing(self, source: Link | Speaker, closing: Said.Closing) -> None:
        self._flood.horizon.check(closing)
        self._flood.admit(closing.key)
        self._flood.spread_closing(closing, source)

    def _take_records(self, source: Link | Speaker, records: Said.Records) -> None:
        for key in records.keys:
            self._flood.admit(key)
        unknown = set[int]()
        for record in records.batches:
            source.waiting.pop(record, None)
            try:
                self._take_record(source, record)
            except PeerError as error:
                slot = decode(record).slot if error.reason in _SIGNERS | {"unknown-slot"} else None
                if slot is None:
                    raise
                if error.reason == "unknown-slot":
                    unknown.add(slot)
                    self._flood.reject(source.peer, error.reason, error.detail)
                elif error.reason != "ahead" or self._flood.caught_up:  # far ahead of a newcomer are all
                    self._flood.reject(self._flood.roster.peer(slot) or source.peer, error.reason, error.detail)
        if unknown:
            source.post(Said(want=Said.Want(slots=sorted(unknown)[:SLOTS_ASKED_MAX])))

    def _take_record(self, source: Link | Speaker, record: bytes) -> None:
        replica = self._flood.replica
        if record in replica.log.batches:
            return
        named = len(replica.evidence)
        replica.receive(record)
        if len(replica.evidence) > named:
            slot = next(reversed(replica.evidence))
            signer = self._flood.roster.peer(slot) or source.peer
            self._flood.reject(signer, "equivocation", f"slot {slot} signed two bytes for one noise")
        if record in replica.log.batches:
            batch = replica.log.batches[record]
            if batch.runs[-1].round >= self._flood.settled.round() - RECENT:
                self._flood.presence.spoke(batch.slot)
            self._flood.pass_on(record, source)
