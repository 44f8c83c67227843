"""A broker in place of streams: one says something, all others hear it, and nobody passes it on there.

Records, seals and last words are said to all. Two who find by a seal that they differ talk to each other alone, as two
neighbours do over a stream, until they do not differ any more; a newcomer gets all that it needs in this way, and its
snapshot. A node that has streams too bridges: what it hears on one side it says on the other.
"""

import asyncio
from collections import deque
from contextlib import suppress

from p2ptrain.bounded import keep
from p2ptrain.errors import PeerError
from p2ptrain.messages import parse
from p2ptrain.pace import Pace
from p2ptrain.ports import Bytes, PeerId
from p2ptrain.strategies.spsa.broker.air import SPEAKERS_MAX, Air, Message, WrongModel
from p2ptrain.strategies.spsa.dissemination.carrier import Speaker
from p2ptrain.strategies.spsa.dissemination.dialling import LIES, SHUNNED_S
from p2ptrain.strategies.spsa.dissemination.flood import Flood
from p2ptrain.strategies.spsa.dissemination.link import Link
from p2ptrain.strategies.spsa.dissemination.repair import SEAL_S
from p2ptrain.strategies.spsa.ledger.records import take_some
from p2ptrain.strategies.spsa.ledger.roster import slot_of
from p2ptrain.telemetry.events import Flooded
from p2ptrain.waiting import both, now
from p2ptrain.wire.onebyte_pb2 import Said

BROKER = "broker"
"""In events, where a message has no sender that could be named."""
TALKS_MAX = 8
TALKED_S = 8.0
"""At least so long do two talk alone, and until they have the same."""
AGAIN_S = 3.0
LOOKED_S = 0.5
SILENT_S = 12.0
"""Who has said nothing for so long is not there."""
WAITING_MAX, POSTED_MAX, UNHEARD_MAX = 1 << 16, 256, 64
ACCOUNTED_S = 5.0


class Whisper:
    """`ports.Stream` of two at a broker. Messages may get lost."""

    def __init__(self, air: Air, peer: PeerId) -> None:
        self.peer = peer
        self._air = air
        self._heard: asyncio.Queue[bytes] = asyncio.Queue(UNHEARD_MAX)

    async def send(self, message: Bytes) -> None:
        await self._air.say(message, self.peer)

    async def receive(self) -> bytes:
        return await self._heard.get()

    def arrive(self, message: bytes) -> None:
        with suppress(asyncio.QueueFull):
            self._heard.put_nowait(message)


class Bus:
    """One node at a broker: the `Carrier` of its flood."""

    def __init__(self, flood: Flood, air: Air) -> None:
        self.links: dict[PeerId, Link] = {}
        """To those that it talks to alone."""
        self._flood, self._air = flood, air
        self._whispers: dict[PeerId, Whisper] = {}
        self._speakers: dict[PeerId, Speaker] = {}
        self._shunned: dict[PeerId, float] = {}
        self._waiting: dict[bytes, float] = {}  # records, and when to say them unless others have
        self._posted: deque[Said] = deque(maxlen=POSTED_MAX)
        self._pace = Pace()

    def speakers(self) -> list[Speaker]:
        """Those that are there."""
        since = now() - SILENT_S
        return [speaker for speaker in self._speakers.values() if speaker.spoke > since]

    def owe(self, record: bytes, is_own: bool) -> None:
        """A batch that is new here, and did not come from the broker. With others' we wait a little: if all that bridge
        heard it at once, one of them will be the first (Floyd et al. 1995, section III)."""
        wait_s = 0.0 if is_own else self._flood.relay_s * self._flood.rng.uniform(1.0, 3.0)
        if len(self._waiting) < WAITING_MAX:
            self._waiting[record] = now() + wait_s

    def post(self, said: Said) -> None:
        """To all, soon."""
        self._posted.append(said)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._air.channel.run())
            group.create_task(self._tell())
            group.create_task(self._hear(group))
            group.create_task(self._excuse())
            while True:
                for speaker in self.speakers():
                    if not speaker.equal and self._may_talk(speaker.peer):
                        self._talk(speaker.peer, group, opened=True)
                await asyncio.sleep(AGAIN_S * self._flood.rng.uniform(0.3, 1.0))

    async def _tell(self) -> None:
        sealed = accounted = float("-inf")
        while True:
            while self._posted:
                await self._say(self._posted.popleft())
            due = {record: None for record, when in self._waiting.items() if when <= now()}
            while due:
                await self._say(Said(records=self._records(due)))
            if now() - sealed > SEAL_S:
                sealed = now()
                for seal in self._flood.repair.seals():
                    await self._say(Said(seal=seal))
            if now() - accounted > ACCOUNTED_S:
                self._account(ACCOUNTED_S)
                accounted = now()
            await asyncio.sleep(self._flood.relay_s * self._flood.rng.uniform(0.8, 1.2))

    def _records(self, due: dict[bytes, None]) -> Said.Records:
        replica = self._flood.replica
        before = list(due)
        records = take_some(due, {replica.slot}, replica.log, self._flood.roster)
        for record in before:
            if record not in due:
                self._waiting.pop(record, None)
        return records

    async def _say(self, said: Said) -> None:
        await self._air.say(said.SerializeToString())

    async def _hear(self, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                message = await self._air.hear()
            except WrongModel as error:
                self._flood.reject(error.peer, error.reason, error.detail)
            except PeerError as error:
                self._flood.reject(BROKER, error.reason, error.detail)
            else:
                if message is not None and self._shunned.get(message.peer, 0.0) <= now():
                    self._take(message, group)
                    self._flood.tell_news()

    def _take(self, message: Message, group: asyncio.TaskGroup) -> None:
        try:
            said = parse(Said(), message.content)
            self._flood.admit(message.key)
            if message.is_mine:
                self._take_mine(message, said, group)
            else:
                self._flood.presence.spoke(slot_of(message.key))
                self._flood.hearing.take_from_all(self._speaker(message.peer), said)
        except PeerError as error:
            self._flood.reject(message.peer, error.reason, error.detail)
            self._shun(message.peer)

    def _take_mine(self, message: Message, said: Said, group: asyncio.TaskGroup) -> None:
        """Only a Hello begins something: the other side may have ended while we still spoke."""
        if message.peer not in self._whispers and said.HasField("hello") and self._may_talk(message.peer):
            self._talk(message.peer, group, opened=False)
        if message.peer in self._whispers:
            self._whispers[message.peer].arrive(message.content)

    def _speaker(self, peer: PeerId) -> Speaker:
        known = self._speakers.get(peer) or Speaker(peer, self._waiting)
        known.spoke = now()
        return keep(self._speakers, peer, known, SPEAKERS_MAX)

    def _may_talk(self, peer: PeerId) -> bool:
        is_busy = peer in self._whispers or len(self._whispers) >= TALKS_MAX
        return not is_busy and peer not in self._flood.links and self._shunned.get(peer, 0.0) <= now()

    def _talk(self, peer: PeerId, group: asyncio.TaskGroup, opened: bool) -> None:
        self._whispers[peer] = Whisper(self._air, peer)
        group.create_task(self._hold(self._whispers[peer], opened))

    async def _hold(self, whisper: Whisper, opened: bool) -> None:
        link = self.links[whisper.peer] = Link(whisper, self._pace, AGAIN_S)
        try:
            await both(self._flood.talk(link), self._until_equal(link, opened))
        except PeerError as error:
            if error.reason in LIES:
                self._flood.reject(link.peer, error.reason, error.detail)
                self._shun(link.peer)
        finally:
            del self.links[whisper.peer], self._whispers[whisper.peer]

    async def _until_equal(self, link: Link, opened: bool) -> None:
        """Who has opened it ends it; the other one then hears nothing more."""
        started = now()
        while True:
            await asyncio.sleep(1.0)
            is_over = link.equal and not link.waiting and self._flood.caught_up and now() - started > TALKED_S
            if (opened and is_over) or now() - link.spoke > SILENT_S:
                raise PeerError("closed", "there is nothing more to say")

    async def _excuse(self) -> None:
        """While the broker is away, who says nothing there is not gone for that."""
        presence, channel = self._flood.presence, self._air.channel
        while True:
            looked, was_up = now(), channel.is_up
            await asyncio.sleep(LOOKED_S)
            if was_up:
                presence.hears_again()
            else:
                presence.heard_nothing(now() - looked)

    def _shun(self, peer: PeerId) -> None:
        self._shunned = {other: until for other, until in self._shunned.items() if until > now()}
        self._shunned[peer] = now() + SHUNNED_S

    def _account(self, seconds: float) -> None:
        air = self._air
        if air.bytes_sent or air.bytes_received:
            self._flood.node.emit(Flooded(BROKER, air.bytes_sent, air.bytes_received, seconds))
            air.bytes_sent = air.bytes_received = 0
