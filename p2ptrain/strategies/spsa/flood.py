"""Flooding: every signed byte reaches everyone over any connected graph, each batch about once over each edge.

A node has one stream to each neighbour. Whatever is new to it goes to all neighbours but the one it came from, and not
to those that send it meanwhile. What gets lost all the same is found by comparing seals: who differs from a neighbour
searches for the rounds in which it does, and asks for what is said in them. A newcomer gets everything that way.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from p2ptrain import chaos
from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.pace import Pace
from p2ptrain.ports import PeerId, Stream
from p2ptrain.strategies.spsa.audit import PARTS, Question, answer, fingerprint, search
from p2ptrain.strategies.spsa.batch import decode
from p2ptrain.strategies.spsa.link import Link
from p2ptrain.strategies.spsa.replica import Replica
from p2ptrain.strategies.spsa.roster import Roster, slot_of
from p2ptrain.talk import STREAM_TIMEOUT_S, both
from p2ptrain.telemetry.events import Flooded, Noted, Rejected
from p2ptrain.waiting import News, within
from p2ptrain.wire.onebyte_pb2 import Said

if TYPE_CHECKING:
    from p2ptrain.node import Node

FLOOD = "/p2ptrain.v1.OneByte/Flood"

EVERYTHING = 1 << 32
"""Beyond all rounds."""
LINKS_MAX = 32
FANOUT = 3
"""Neighbours that a node calls where there is no graph: the next in the ring of ids, so that all are connected."""
BUSY = 512
MESSAGE_BYTES = 1 << 16
"""About so long are messages with records."""
SEAL_S = 3.0
SETTLED_S = 5.0
"""What was said so long ago should have come: seals are compared over that."""
SILENT_S = 2 * SEAL_S
REDIAL_S, SHUNNED_S = 1.0, 30.0
BEHIND = 128
"""Who lacks so many rounds asks for all of them at once."""
FINALS_REPEATED = 2
TOLD_S = 5.0
"""What a neighbour, or a signer, is refused for is said so often, and the bytes that went."""
_LIES = frozenset({"malformed", "oversized", "wrong-model", "bad-signature", "flooding", "crowded", "slot-taken"})
_SIGNERS = frozenset({"flooding", "closed", "ahead"})


class Flood:
    """One node's links, and what goes over them."""

    def __init__(self, node: "Node", replica: Replica, roster: Roster, batch_s: float, relay_s: float) -> None:
        self.node, self.replica, self.roster = node, replica, roster
        self.batch_s, self.relay_s = batch_s, relay_s
        self.links: dict[PeerId, Link] = {}
        self.pace = Pace()
        self.finals: dict[int, Said.Final] = {}
        """By slot, the last word of those that have finished."""
        self.finished = False
        """Nobody makes any more bytes: seals are over everything."""
        self.audit: Said.Seal | None = None
        """Our last seal with a digest of the integers."""
        self.caught_up = False
        self.writing = asyncio.Lock()
        """The disk, by one at a time."""
        self.serve_request = _refuse_request
        """Answers what concerns snapshots."""
        self._rng = node.rng("flood")
        self._frontiers: deque[tuple[float, int]] = deque()  # (when, frontier) of the last `SETTLED_S`
        self._not_before: dict[PeerId, float] = {}  # when a peer may be called, or let in
        self._dialling: set[PeerId] = set()
        self._told: dict[tuple[object, str], float] = {}
        self._news = News()
        node.transport.serve_stream(FLOOD, self._serve)

    async def run(self) -> None:
        """Keep links open and say what is new, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dial_for_ever(group))
            group.create_task(self._publish_for_ever())

    async def publish(self) -> None:
        """Sign and keep what was measured, then tell the neighbours. A disk that is full is tried again."""
        async with self.writing:
            self.replica.sign()
            try:
                await self.node.compute.aside(self._keep)
            except ConfigError as error:
                self._note("error", f"bytes wait for the disk: {error}")
                return
            await chaos.point("kept")
            for record in self.replica.signed():
                self._pass_on(record)

    async def news(self, within_s: float) -> None:
        """Returns when something was heard, or that time is over."""
        await within(within_s, self._news.next())

    def reached(self) -> int:
        """Nothing is known of this round and later ones."""
        return 1 + max(self.replica.book.heads.values(), default=-1)

    def say_final(self, log: bytes, master: bytes) -> None:
        """This node makes no more bytes and ends with these; said to everyone."""
        mine = self.finals.get(self.replica.slot)
        number = mine.number + 1 if mine else int(self._now() * 1000)
        final = Said.Final(key=self.node.public_key, number=number, log=log, master=master)
        final.signature = self.node.sign(_final_text(self.replica.identity, final))
        self._spread_final(final)

    def reject(self, peer: PeerId | str, reason: str, detail: str) -> None:
        """Count and name; of the same, not more than one in some seconds."""
        if self._due((peer, reason)):
            self.node.emit(Rejected(peer, reason, detail))

    async def _dial_for_ever(self, group: asyncio.TaskGroup) -> None:
        while True:
            for peer in self._wanted():
                if peer not in self.links and peer not in self._dialling and self._may(peer):
                    self._dialling.add(peer)
                    group.create_task(self._dial(peer))
            await within(REDIAL_S, self.node.membership.changed())

    def _wanted(self) -> Iterator[PeerId]:
        """Of two neighbours the one with the lower id calls, unless it has not by the next time."""
        peers = sorted(member.peer for member in self.node.neighbours())
        if self.node.graph is None:
            later = [peer for peer in peers if peer > self.node.me]
            peers = [*later, *(peer for peer in peers if peer < self.node.me)][:FANOUT]
        for peer in peers:
            if self.node.me < peer or self.node.graph is None:
                yield peer
            elif peer not in self._not_before:
                self._not_before[peer] = self._now() + 2 * REDIAL_S
            elif self._may(peer):
                yield peer

    async def _dial(self, peer: PeerId) -> None:
        try:
            async with self.node.transport.stream(peer, FLOOD, STREAM_TIMEOUT_S) as stream:
                await self._talk(stream, called_by=self.node.me)
        except PeerError:
            pass  # said where it matters; the next attempt comes soon enough
        finally:
            self._dialling.discard(peer)
            self._put_off(peer, REDIAL_S)

    async def _serve(self, stream: Stream) -> None:
        if not self._may(stream.peer, shunned_only=True) or len(self.links) >= LINKS_MAX:
            raise PeerError("busy", "no more neighbours for now")
        await self._talk(stream, called_by=stream.peer)

    async def _talk(self, stream: Stream, called_by: PeerId) -> None:
        """A stream from its first to its last message; the same at both ends."""
        self._retire_other(stream.peer, called_by)
        link = self.links[stream.peer] = Link(stream, self.pace)
        started = self._now()
        try:
            talking = both(self._hear(link), both(self._tell(link), both(self._compare(link), self._answer(link))))
            await both(talking, _until_retired(link))
        except PeerError as error:
            if error.reason in _LIES:
                self.reject(stream.peer, error.reason, error.detail)
                self._put_off(stream.peer, SHUNNED_S)
            raise
        finally:
            if self.links.get(stream.peer) is link:
                del self.links[stream.peer]
            self._account(link, started)

    def _retire_other(self, peer: PeerId, called_by: PeerId) -> None:
        """Both may have called each other: what the one with the lower id began stays, unless it has gone silent."""
        other = self.links.get(peer)
        if other is not None:
            if called_by == max(peer, self.node.me) and self._now() - other.spoke < SILENT_S:
                raise PeerError("busy", "there is a stream already")
            other.retired.set()

    async def _hear(self, link: Link) -> None:
        while True:
            self._take(link, await link.receive())
            self._news.tell()

    async def _tell(self, link: Link) -> None:
        greeted = accounted = self._now()
        sealed = float("-inf")
        await link.send(self._hello())
        while True:
            await link.rest(self.relay_s * self._rng.uniform(0.8, 1.2))
            if not link.greeted or not link.confirmed:
                if self._now() - greeted > REDIAL_S:  # ours, or theirs, was lost
                    greeted = self._now()
                    await link.send(self._hello())
                if not link.greeted:
                    continue
            while link.waiting:
                await link.send(self._records(link))
            if self._now() - sealed > (SEAL_S / 3 if self.finished else SEAL_S):
                sealed = self._now()
                for seal in self._seals():
                    await link.send(Said(seal=seal))
                for final in self._some_finals():
                    await link.send(Said(final=final))
            if self._now() - accounted > TOLD_S:
                self._account(link, accounted)
                accounted = self._now()

    def _hello(self) -> Said:
        return Said(hello=Said.Hello(identity=self.replica.identity, key=self.node.public_key))

    def _records(self, link: Link) -> Said:
        """As many as make a message, with the keys to check them by."""
        batches, keys, size = [], [], 0
        while link.waiting and size < MESSAGE_BYTES:
            record = next(iter(link.waiting))
            del link.waiting[record]
            batch = self.replica.log.batches.get(record)
            if batch is None or batch.slot not in self.roster:
                continue  # a larger one has taken its place; or from the disk of an earlier life, and nobody told yet
            if batch.slot not in link.told:
                link.told.add(batch.slot)
                keys.append(self.roster[batch.slot])
            batches.append(record)
            size += len(record)
        return Said(records=Said.Records(keys=keys, batches=batches))

    def _seals(self) -> Iterator[Said.Seal]:
        last = self.reached() if self.finished else self.settled()
        yield Said.Seal(round=last, log=fingerprint(self.replica.book, 0, last))
        if self.audit is not None:
            yield self.audit

    def _some_finals(self) -> list[Said.Final]:
        """Again, for those who did not hear."""
        finals = list(self.finals.values()) if self.finished else []
        return self._rng.sample(finals, min(FINALS_REPEATED, len(finals)))

    def settled(self) -> int:
        """Rounds before this were reached by most some seconds ago."""
        now, frontier = self._now(), max(0, self.replica.book.frontier(self.replica.left))
        if not self._frontiers or self._frontiers[-1][1] != frontier:
            self._frontiers.append((now, frontier))
        while len(self._frontiers) > 1 and self._frontiers[1][0] <= now - SETTLED_S:
            self._frontiers.popleft()
        return self._frontiers[0][1]

    def _take(self, link: Link, said: Said) -> None:
        kind = said.WhichOneof("body")
        link.confirmed = link.confirmed or kind != "hello"
        if kind == "hello":
            self._greet(link, said.hello)
        elif kind in ("answer", "snapshot", "piece"):
            link.answered(said)
        elif not link.greeted:
            return  # it will say so again, once it has said Hello
        elif kind == "records":
            self._take_records(link, said.records)
        elif kind == "seal":
            self._take_seal(link, said.seal)
        elif kind == "question":
            question = Question(tuple(zip(said.question.first, said.question.last, strict=False)))
            hashes = answer(self.replica.book, question)
            link.post(Said(id=said.id, answer=Said.Answer(hashes=hashes)))
        elif kind == "want":
            link.told.difference_update(said.want.slots)
            if len(link.waiting) < BUSY:  # else it is still being sent what it has asked for before
                for record in self.replica.records(said.want.first, said.want.last):
                    link.owe(record)
        elif kind == "final":
            self._take_final(said.final)
        elif kind in ("freeze", "fetch"):
            if link.requests.full():
                raise PeerError("flooding", "asks for snapshots, and does not take them")
            link.requests.put_nowait(said)
        else:
            raise PeerError("malformed", "a message without a body")

    def _greet(self, link: Link, hello: Said.Hello) -> None:
        if hello.identity != self.replica.identity:
            raise PeerError("wrong-model", "bytes of another run, rule or model")
        self._admit(hello.key)
        if self.roster.slots_of([link.peer]) == set():
            raise PeerError("malformed", "says Hello with another's key")
        if not link.greeted:
            link.greeted = True
            for final in self.finals.values():
                link.post(Said(final=final))

    def _admit(self, key: bytes) -> None:
        lost = self.roster.admit(key)
        if lost is not None:
            self.replica.drop(lost, 0, EVERYTHING)

    def _take_records(self, link: Link, records: Said.Records) -> None:
        for key in records.keys:
            self._admit(key)
        unknown = set[int]()
        for record in records.batches:
            link.waiting.pop(record, None)
            try:
                self._take_record(link, record)
            except PeerError as error:
                slot = decode(record).slot if error.reason in _SIGNERS | {"unknown-slot"} else None
                if error.reason == "unknown-slot":
                    assert slot is not None
                    unknown.add(slot)
                    self.reject(link.peer, error.reason, error.detail)
                elif slot is None:
                    raise
                elif error.reason != "ahead" or self.caught_up:  # far ahead of a newcomer are all
                    self.reject(self.roster.peer(slot) or link.peer, error.reason, error.detail)
        if unknown:
            link.post(Said(want=Said.Want(slots=sorted(unknown)[:64])))

    def _take_record(self, link: Link, record: bytes) -> None:
        replica = self.replica
        if record in replica.log.batches:
            return
        named = len(replica.evidence)
        replica.receive(record)
        if len(replica.evidence) > named:
            slot = next(reversed(replica.evidence))
            self.reject(
                self.roster.peer(slot) or link.peer, "equivocation", f"slot {slot} signed two bytes for one noise"
            )
        if record in replica.log.batches:
            self._pass_on(record, link)

    def _pass_on(self, record: bytes, source: Link | None = None) -> None:
        for link in self.links.values():
            if link is not source and link.greeted:
                link.owe(record)

    def _take_seal(self, link: Link, seal: Said.Seal) -> None:
        if seal.round > EVERYTHING or len(seal.log) != 32 or len(seal.master) not in (0, 32):
            raise PeerError("malformed", "a seal of nothing")
        if seal.master:
            link.audit = seal
            return
        link.seal = seal
        link.equal = self._is_ours(seal)
        if not link.equal:
            link.differs.set()

    def _is_ours(self, seal: Said.Seal) -> bool:
        return fingerprint(self.replica.book, 0, seal.round) == seal.log

    def _take_final(self, final: Said.Final) -> None:
        if len(final.log) != 32 or len(final.master) != 32:
            raise PeerError("malformed", "a last word of nothing")
        if not self.node.verify(final.key, _final_text(self.replica.identity, final), final.signature):
            raise PeerError("bad-signature", "a last word that is not its speaker's")
        self._admit(final.key)
        self._spread_final(final)

    def _spread_final(self, final: Said.Final) -> None:
        slot = slot_of(final.key)
        if slot not in self.finals or self.finals[slot].number < final.number:
            self.finals[slot] = final
            for link in self.links.values():
                if link.greeted:
                    with suppress(PeerError):  # it takes nothing at present, and hears it when it is back
                        link.post(Said(final=final))

    async def _compare(self, link: Link) -> None:
        """When a neighbour's seal is not ours, get what it has and we have not."""
        while True:
            await link.differs.wait()
            link.differs.clear()
            if link.seal is not None:
                await self._get_missing(link, link.seal)
            await asyncio.sleep(SEAL_S / 2)
            link.equal = link.seal is not None and self._is_ours(link.seal)

    async def _get_missing(self, link: Link, seal: Said.Seal) -> None:
        reached = self.replica.book.frontier(self.replica.left)
        if seal.round > reached + BEHIND:
            link.post(Said(want=Said.Want(first=reached + 1, last=seal.round)))
            return
        searching = search(self.replica.book, 0, seal.round)
        try:
            question = next(searching)
            while True:
                assert len(question.parts) <= PARTS
                first, end = zip(*question.parts, strict=True)
                reply = await link.ask(Said(question=Said.Question(first=first, last=end)))
                question = searching.send(tuple(reply.answer.hashes))
        except StopIteration as found:
            for start, end in found.value:
                link.post(Said(want=Said.Want(first=start, last=end)))

    async def _answer(self, link: Link) -> None:
        while True:
            request = await link.requests.get()
            reply = await self.serve_request(request)
            reply.id = request.id
            link.post(reply)

    async def _publish_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.batch_s * self._rng.uniform(0.9, 1.1))
            present = self.roster.slots_of(member.peer for member in self.node.membership.view())
            self.replica.left = set(self.replica.book.heads) - present - {self.replica.slot}
            await self.publish()

    def _keep(self) -> None:
        self.replica.log.flush()
        self.roster.save()

    def _account(self, link: Link, since: float) -> None:
        if link.bytes_sent or link.bytes_received:
            self.node.emit(Flooded(link.peer, link.bytes_sent, link.bytes_received, self._now() - since))
            link.bytes_sent = link.bytes_received = 0

    def _note(self, level: str, message: str) -> None:
        if self._due((level, message)):
            self.node.emit(Noted(level, message))

    def _due(self, key: tuple[object, str]) -> bool:
        now = self._now()
        if now - self._told.get(key, float("-inf")) < TOLD_S:
            return False
        self._told[key] = now
        while len(self._told) > 1024:
            del self._told[next(iter(self._told))]
        return True

    def _may(self, peer: PeerId, shunned_only: bool = False) -> bool:
        left_s = self._not_before.get(peer, 0.0) - self._now()
        return left_s <= (2 * REDIAL_S if shunned_only else 0.0)

    def _put_off(self, peer: PeerId, seconds: float) -> None:
        self._not_before[peer] = max(self._not_before.get(peer, 0.0), self._now() + seconds)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


async def _until_retired(link: Link) -> None:
    await link.retired.wait()
    raise PeerError("closed", "another stream has taken its place")


async def _refuse_request(request: Said) -> Said:
    return Said(snapshot=Said.Snapshot()) if request.HasField("freeze") else Said(piece=Said.Piece())


def _final_text(identity: bytes, final: Said.Final) -> bytes:
    return b"p2ptrain-onebyte-final-v1" + identity + final.number.to_bytes(8, "big") + final.log + final.master
