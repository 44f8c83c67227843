"""Keeps the view: heartbeats to the living, calls to candidates, records exchanged where two views differ.

Nobody enters the view by hearsay. A record that comes from others (a peer, the directory) makes a candidate, which is
called until it answers or its record expires; a peer that calls is alive at once. Whoever joins calls everyone it hears
of and so introduces itself; a peer that was dead when its record was passed on stays out.

Three heartbeats in a row without an answer, and without a call from the peer: it is gone.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from p2ptrain.errors import PeerError
from p2ptrain.ports import Bytes, Directory, PeerId, Transport
from p2ptrain.swarm.beats import RECORDS_PER_REPLY_MAX, Beats, Heard, Settings
from p2ptrain.swarm.doors import Doors
from p2ptrain.swarm.records import Record
from p2ptrain.swarm.view import KNOWN_MAX, MISSES_MAX, Known, Member, State, View
from p2ptrain.telemetry.events import Event, Joined, Left
from p2ptrain.waiting import News, now, within
from p2ptrain.wire.membership_pb2 import PeersReply, PeersRequest, SignedRecord

HEARTBEAT = "/p2ptrain.v1.Membership/Heartbeat"
PEERS = "/p2ptrain.v1.Membership/Peers"

GREETING_S = 6.0
"""Four round trips, as three go by before there is a connection, and it is made anew each time."""
CALLS_MAX = 64
CROWD = 32
"""With more peers than that, each is heard of in every second heartbeat only."""
TICKS = 8
"""How often in a heartbeat a node looks whom to call."""
EXCHANGES_MAX = 4
"""So many at a time; when many join at once, all views differ for a moment."""
LOOKUP_S_MAX = 10.0


class Membership:
    """Construct it, then `run` it; `view`, `find` and `changed` are for everyone else.

    `make_record(sequence, expires_unix_s)` seals this node's own record."""

    def __init__(
        self,
        transport: Transport,
        directory: Directory | None,
        make_record: Callable[[int, float], bytes],
        settings: Settings,
        *,
        rng: random.Random,
        now_unix: Callable[[], float],
        emit: Callable[[Event], None],
    ) -> None:
        self._transport = transport
        self._directory = directory
        self._settings = settings
        self._heartbeat_s = settings.heartbeat_s
        self._rng = rng
        self._now_unix = now_unix
        self._emit = emit
        self._beats = Beats(settings, make_record, now_unix, emit)
        self._view = View(settings.me)
        self._doors = Doors(self, settings.bootstrap, settings.heartbeat_s, emit)
        self._group: asyncio.TaskGroup | None = None
        self._calls, self._courtships = asyncio.Semaphore(CALLS_MAX), asyncio.Semaphore(CALLS_MAX)
        self._num_exchanges = 0
        self._change, self._beat_now = News(), asyncio.Event()
        transport.serve(HEARTBEAT, self._on_heartbeat)
        transport.serve(PEERS, self._on_peers)

    @property
    def rejected(self) -> Counter[str]:
        """How many heartbeats and records were refused, by reason."""
        return self._beats.rejected

    @property
    def alone(self) -> bool:
        return len(self._view) == 0

    @property
    def searching(self) -> bool:
        """Whether the bootstrap may still lead to somebody: an address has not been tried to its end."""
        return self._doors.promising

    def view(self) -> list[Member]:
        """The living, without this node, in order of their ids."""
        return [known.member() for known in self._view.alive()]

    def find(self, peer: PeerId) -> Member | None:
        known = self._view.get(peer)
        return known.member() if known is not None and known.alive else None

    async def changed(self) -> None:
        """Returns when somebody next joins, leaves, or changes its state or epoch."""
        await self._change.next()

    def set_state(self, state: State, step: int) -> None:
        """What heartbeats say from now on; a new state is said at once."""
        if state != self._beats.state:
            self._beat_now.set()
        self._beats.state, self._beats.step = state, step

    def set_epoch(self, epoch: int) -> None:
        """As `set_state`: by which graph of the run's schedule this node goes."""
        if epoch != self._beats.epoch:
            self._beat_now.set()
        self._beats.epoch = epoch

    def renew(self) -> None:
        """Seal a new record of this node: its addresses have changed."""
        self._beats.renew()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                group.create_task(self._renew_for_ever())
                if self._directory is not None:
                    group.create_task(self._look_for_ever(self._directory))
                self._doors.start(group)
                await self._beat_for_ever()
            finally:
                self._group = None

    async def leave(self) -> None:
        """Tell everyone; takes a second at most."""
        self._beats.state = State.LEAVING
        goodbye, timeout_s = self._beats.say(self._view.digest), min(1.0, self._heartbeat_s)

        async def tell(peer: PeerId) -> None:
            with contextlib.suppress(PeerError):  # who does not hear it will notice the silence
                await self._transport.call(peer, HEARTBEAT, goodbye, timeout_s)

        async with asyncio.TaskGroup() as group:
            for known in self._view.alive():
                group.create_task(tell(known.record.peer))

    async def greet(self, address: str) -> PeerId:
        """Introduce this node to whoever listens there. What comes back makes a candidate, as from anybody."""
        timeout_s, sent = max(self._heartbeat_s, GREETING_S), now()
        reply = await self._transport.greet(address, HEARTBEAT, self._beats.say(self._view.digest), timeout_s)
        heard = self._beats.hear(address, reply, age_s=now() - sent)
        if heard.state != State.LEAVING:
            known = self._store(heard.record, heard.signed) or self._view.get(heard.record.peer)
            if known is not None:
                known.news.set()
        return heard.record.peer

    def present(self, peer: PeerId | None, address: str) -> bool:
        """Whether this peer, or one that announces this address, is in the view, or is this node."""
        if peer is not None and (peer == self._settings.me or self.find(peer) is not None):
            return True
        return any(address in known.record.addresses for known in self._view.alive())

    async def _on_heartbeat(self, caller: PeerId, request: Bytes) -> bytes:
        heard = self._beats.hear(caller, request, caller)
        before = self._view.get(caller)
        is_new = before is None or not before.alive
        known = self._take_in(heard)
        if known is not None and is_new:
            self._spawn(self._beat, known)  # does it answer, too, and whom does it see?
        elif known is not None and known.reachable and heard.digest != self._view.digest:
            self._spawn(self._compare, known, heard)
        return self._beats.say(self._view.digest)

    async def _on_peers(self, caller: PeerId, request: Bytes) -> bytes:
        known = self._beats.hear_request(caller, request)
        found = self._view.records_for(known | {caller}, RECORDS_PER_REPLY_MAX, self._rng)
        return PeersReply(records=map(SignedRecord.FromString, found)).SerializeToString()

    async def _beat_for_ever(self) -> None:
        """Call everyone to whom and from whom there was no word for about a heartbeat, or, in a crowd, for two.

        So one of two peers calls; one that is silent is called in every heartbeat, or, in a crowd, in every half."""
        while True:
            is_news, time = self._beat_now.is_set(), now()
            self._beat_now.clear()
            for known in self._view.alive():
                if is_news or known.due <= time:
                    self._spawn(self._beat, known)
            await within(self._heartbeat_s / TICKS, self._beat_now.wait())

    def _put_off(self, known: Known, heartbeats: float) -> None:
        """It need not be called for so long."""
        known.due = now() + heartbeats * self._heartbeat_s * self._rng.uniform(0.75, 0.95)

    @property
    def _is_crowd(self) -> bool:
        return len(self._view) > CROWD

    async def _beat(self, known: Known) -> None:
        """One heartbeat to a peer, and an exchange of records if its view differs."""
        if known.calling:
            return
        known.calling = True
        try:
            async with self._calls if known.alive else self._courtships:
                heard, said = None, None
                while said != (self._beats.state, self._beats.epoch):  # they may change meanwhile, and are news
                    said = (self._beats.state, self._beats.epoch)
                    heard = await self._call(known)
        finally:
            known.calling = False
        if heard is not None:
            await self._compare(known, heard)

    async def _compare(self, known: Known, heard: Heard) -> None:
        """An exchange of records with a peer that sees others than this node does."""
        if heard.digest != self._view.digest and self._num_exchanges < EXCHANGES_MAX:
            self._num_exchanges += 1
            try:
                await self._exchange(known, heard.digest)
            finally:
                self._num_exchanges -= 1

    async def _call(self, known: Known) -> Heard | None:
        peer, sent = known.record.peer, now()
        self._put_off(known, 0.5 if self._is_crowd else 1.0)
        deadline_s = known.deadline_s = self._deadline_s(known)
        try:
            reply = await self._transport.call(peer, HEARTBEAT, self._beats.say(self._view.digest), deadline_s)
            heard = self._beats.hear(peer, reply, peer, now() - sent)
        except PeerError as error:
            held_up = now() - sent > deadline_s + self._heartbeat_s / 2
            if not held_up:  # else it is this process that stood still, which says nothing of the peer
                self._miss(known, error)
            return None
        known.latency.observe(now() - sent)
        known.unanswered = 0
        return heard if self._take_in(heard) is known else None

    def _deadline_s(self, known: Known) -> float:
        """Less than a heartbeat, so that the next call is not put off; but a candidate has to be connected to first."""
        if not known.alive:
            return max(self._heartbeat_s, 2.0)
        highest = 0.75 * self._heartbeat_s
        return known.latency.deadline_s(min(highest, max(0.2 * self._heartbeat_s, 0.5)), highest, known.misses)

    def _take_in(self, heard: Heard) -> Known | None:
        """A peer said itself that it is alive. None if it is not taken in: it leaves, or there is no room."""
        record = heard.record
        if self._view.is_buried(record, self._now_unix()):
            return None
        known = self._store(record, heard.signed) or self._view.get(record.peer)
        if known is None:
            return None
        if heard.state == State.LEAVING:
            self._part(known, "leaving")
            return None
        is_news = not known.alive or (known.state, known.epoch) != (heard.state, heard.epoch)
        known.misses, known.state, known.step, known.epoch = 0, heard.state, heard.step, heard.epoch
        self._put_off(known, 2.0 if self._is_crowd else 1.0)
        if not known.alive:
            self._view.admit(known)
            known.news.set()
            self._emit(Joined(record.peer, record.name))
        if is_news:
            self._notify()
        return known

    def _miss(self, known: Known, error: PeerError) -> None:
        known.misses += 1
        known.unanswered += 1
        if known.alive and known.misses >= MISSES_MAX:
            self._part(known, "expired" if error.reason == "expired" else "silent")

    def _part(self, known: Known, reason: str) -> None:
        record, was_alive = known.record, known.alive
        if reason == "leaving":
            self._view.bury(known, self._now_unix())
            self._transport.forget(record.peer)
        else:
            self._view.demote(known)
            self._doors.remember(record.addresses)
            self._spawn(self._court, known, self._heartbeat_s)
        if was_alive:
            self._emit(Left(record.peer, record.name, reason))
            self._notify()

    async def _court(self, known: Known, pause_s: float = 0.0) -> None:
        """Call a candidate until it is alive, ever more seldom, as long as its record is valid."""
        if known.courted:
            return
        known.courted, peer = True, known.record.peer
        while self._view.is_candidate(known):
            if known.record.expires_unix_s <= self._now_unix():
                self._view.forget(known)
                break
            await within(pause_s, known.news.wait())
            if known.news.is_set():
                pause_s = 0.0
            known.news.clear()
            if self._view.is_candidate(known):
                await self._beat(known)
            pause_s = min(max(2 * pause_s, self._heartbeat_s / 2), 8 * self._heartbeat_s)
        known.courted = False
        if self._view.get(peer) is None:
            self._transport.forget(peer)

    async def _exchange(self, known: Known, theirs: bytes) -> None:
        """Ask a peer that sees others than this node does for their records."""
        views = (self._view.digest, theirs)
        # What the last exchange of the same two views did not settle, another one now will not.
        pause_s = (4.0 if views == known.exchanged_views else 0.2) * self._heartbeat_s
        if now() < known.exchanged + pause_s:
            return
        known.exchanged, known.exchanged_views = now(), views
        for _ in range(KNOWN_MAX // RECORDS_PER_REPLY_MAX):
            mine = [bytes.fromhex(peer) for peer in self._view.settled()]
            request = PeersRequest(known=mine).SerializeToString()
            try:
                reply = await self._transport.call(known.record.peer, PEERS, request, self._heartbeat_s)
                found = self._beats.hear_reply(known.record.peer, reply)
            except PeerError:
                return
            num_new = sum(self._learn(signed, known.record.peer) for signed in found)
            if len(found) < RECORDS_PER_REPLY_MAX or num_new == 0:
                return

    async def _renew_for_ever(self) -> None:
        pause_s = self._settings.ttl_s / 3
        while True:
            published = self._directory is None or await self._publish(self._directory)
            await asyncio.sleep(pause_s if published else min(pause_s, self._doors.patience_s()))
            self.renew()

    async def _publish(self, directory: Directory) -> bool:
        try:
            async with asyncio.timeout(self._settings.ttl_s / 3):
                return await directory.publish(self._settings.me, self._beats.signed, self._beats.expires_unix_s)
        except (PeerError, TimeoutError):
            return False

    async def _look_for_ever(self, directory: Directory) -> None:
        attempt = 0
        while True:
            with contextlib.suppress(PeerError, TimeoutError):
                async with asyncio.timeout(LOOKUP_S_MAX):
                    found = await directory.lookup()
                for signed in found[:KNOWN_MAX]:
                    self._learn(signed, "directory")
            attempt += 1
            await asyncio.sleep(self._doors.patience_s(attempt))

    def _learn(self, signed: bytes, source: str) -> bool:
        """A record from somebody else; whether it is news."""
        record = self._beats.believe(source, signed)
        return record is not None and self._store(record, signed) is not None

    def _store(self, record: Record, signed: bytes) -> Known | None:
        """A verified record; None if it is no news."""
        if record.peer == self._settings.me:
            self._beats.meet_myself(record)
            return None
        known = self._view.take(record, signed, self._now_unix())
        if known is not None:
            self._transport.learn(record.peer, record.contact)
            known.news.set()
            if not known.alive:
                self._spawn(self._court, known)
        return known

    def _notify(self) -> None:
        self._change.tell()

    def _spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        if self._group is not None:
            self._group.create_task(work(*arguments))
