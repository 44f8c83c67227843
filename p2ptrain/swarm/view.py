"""Whom this node knows, and who of them is alive. State only: no calls, no clock, no randomness of its own.

candidate   has a valid record; nobody here has heard from it. Records come from anywhere, the dead leave theirs behind
alive       in the view: it answered a heartbeat, or sent one
left        said that it goes; only a newer record makes it a candidate again
"""

import asyncio
import bisect
import enum
import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from p2ptrain.ports import PeerId
from p2ptrain.swarm.records import Record

KNOWN_MAX = 1024
MISSES_MAX = 3


class State(enum.StrEnum):
    """`Beat.State` of the wire."""

    STARTING = "starting"
    TRAINING = "training"
    FINISHED = "finished"
    LEAVING = "leaving"
    DONE = "done"


@dataclass(frozen=True)
class Member:
    """A peer in the view, as others see it."""

    peer: PeerId
    name: str
    slot: int
    step: int
    state: State
    reachable: bool
    """It answers calls; if not, it only dials out."""
    rtt_s: float | None
    """Smoothed round trip of a heartbeat; None before the first answer."""
    deadline_s: float | None
    """What its next heartbeat is given, from observed round trips."""
    dht: tuple[str, ...]
    epoch: int = 0
    """By which graph of the run's schedule it goes, as it says."""


class Members(Protocol):
    """What a node wants to know of the others; `membership.Membership`, or a table in simulations of thousands."""

    @property
    def alone(self) -> bool: ...

    @property
    def searching(self) -> bool: ...

    def view(self) -> list[Member]: ...

    def find(self, peer: PeerId) -> Member | None: ...

    async def changed(self) -> None: ...

    def set_state(self, state: State, step: int) -> None: ...

    def set_epoch(self, epoch: int) -> None: ...

    async def run(self) -> None: ...

    async def leave(self) -> None: ...


@dataclass
class Latency:
    """Round trips, smoothed as TCP does it (RFC 6298)."""

    mean_s: float | None = None
    deviation_s: float = 0.0

    def observe(self, rtt_s: float) -> None:
        if self.mean_s is None:
            self.mean_s, self.deviation_s = rtt_s, rtt_s / 2
        else:
            self.deviation_s += (abs(rtt_s - self.mean_s) - self.deviation_s) / 4
            self.mean_s += (rtt_s - self.mean_s) / 8

    def deadline_s(self, lowest: float, highest: float, misses: int) -> float:
        """Doubles with each miss: a peer that became slow must not look dead."""
        if self.mean_s is None:
            return highest
        return min(highest, max(lowest, self.mean_s + 4 * self.deviation_s) * 2**misses)


@dataclass
class Known:
    """Everything about one peer with a verified record."""

    record: Record
    signed: bytes
    alive: bool = False
    state: State = State.STARTING
    step: int = 0
    epoch: int = 0
    latency: Latency = field(default_factory=Latency)
    deadline_s: float | None = None
    misses: int = 0
    """Calls in a row that failed, without a word from the peer in between."""
    due: float = float("-inf")
    """When it is to be called, unless there is a word of it before."""
    unanswered: int = 0
    """Calls in a row that failed; one that only dials out is heard and does not answer."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something changed that makes another call worth while."""
    calling: bool = False
    courted: bool = False
    exchanged: float = float("-inf")
    exchanged_views: tuple[bytes, bytes] = (b"", b"")
    """The two digests of the last exchange: what it could not settle, another one at once will not."""

    @property
    def reachable(self) -> bool:
        return self.latency.mean_s is not None and self.unanswered < MISSES_MAX

    def member(self) -> Member:
        record = self.record
        return Member(
            record.peer, record.name, record.slot, self.step, self.state,
            self.reachable, self.latency.mean_s, self.deadline_s, record.dht, self.epoch,
        )  # fmt: skip


class View:
    """At most `KNOWN_MAX` peers, in a deterministic order."""

    def __init__(self, me: PeerId) -> None:
        self._me = me
        self._known: dict[PeerId, Known] = {}
        self._alive: list[PeerId] = []
        self._left: dict[PeerId, Record] = {}
        self._digest = _first_8(me)

    @property
    def digest(self) -> bytes:
        """Equal on two nodes that see the same peers, each counting itself."""
        return self._digest.to_bytes(8, "big")

    def __len__(self) -> int:
        """How many are alive."""
        return len(self._alive)

    def get(self, peer: PeerId) -> Known | None:
        return self._known.get(peer)

    def alive(self) -> list[Known]:
        """In order of their ids."""
        return [self._known[peer] for peer in self._alive]

    def is_candidate(self, known: Known) -> bool:
        return not known.alive and self._known.get(known.record.peer) is known

    def settled(self) -> list[PeerId]:
        """Whose records need not be sent to this node: the living and those not yet tried. A candidate that failed
        may have a newer record elsewhere."""
        return [peer for peer, known in self._known.items() if known.alive or known.misses == 0]

    def records_for(self, known: Collection[PeerId], limit: int, rng: random.Random) -> list[bytes]:
        """Signed records of living peers that are not in `known`; a fair choice when there are too many.

        Only what this node has heard from itself is passed on: so the records of the dead die out."""
        news = [peer for peer in self._alive if peer not in known]
        if len(news) > limit:
            news = sorted(rng.sample(news, limit))
        return [self._known[peer].signed for peer in news]

    def take(self, record: Record, signed: bytes, now_unix_s: float) -> Known | None:
        """Store a verified record; None when it says nothing new or there is no room."""
        peer = record.peer
        if peer == self._me or _outdates(self._left.get(peer), record, now_unix_s):
            return None
        known = self._known.get(peer)
        if known is None:
            if len(self._known) >= KNOWN_MAX and not self._make_room():
                return None
            known = self._known[peer] = Known(record, signed)
        elif _outdates(known.record, record, now_unix_s):
            return None
        else:
            known.record, known.signed = record, signed
        self._left.pop(peer, None)
        return known

    def admit(self, known: Known) -> None:
        """It is alive."""
        if not known.alive:
            known.alive = True
            bisect.insort(self._alive, known.record.peer)
            self._digest ^= _first_8(known.record.peer)

    def demote(self, known: Known) -> None:
        """It fell silent: a candidate again, and a stranger to our measurements."""
        if known.alive:
            known.alive = False
            known.latency = Latency()
            del self._alive[bisect.bisect_left(self._alive, known.record.peer)]
            self._digest ^= _first_8(known.record.peer)

    def forget(self, known: Known) -> None:
        self.demote(known)
        self._known.pop(known.record.peer, None)
        known.news.set()

    def bury(self, known: Known, now_unix_s: float) -> None:
        """It left on purpose: what was said of it until now brings it back no more."""
        self.forget(known)
        for peer in [peer for peer, record in self._left.items() if record.expires_unix_s <= now_unix_s]:
            del self._left[peer]
        if len(self._left) >= KNOWN_MAX:
            del self._left[next(iter(self._left))]
        self._left[known.record.peer] = known.record

    def is_buried(self, record: Record, now_unix_s: float) -> bool:
        return _outdates(self._left.get(record.peer), record, now_unix_s)

    def _make_room(self) -> bool:
        """Forget the candidate that failed most."""
        failed = [known for known in self._known.values() if not known.alive and known.misses > 0]
        if failed:
            self.forget(max(failed, key=lambda known: known.misses))
        return bool(failed)


def _outdates(old: Record | None, new: Record, now_unix_s: float) -> bool:
    """Whether `new` says nothing beyond `old`. An expired record outdates nothing: a peer whose clock was set back
    comes back with a lower sequence."""
    return old is not None and old.sequence >= new.sequence and old.expires_unix_s > now_unix_s


def _first_8(peer: PeerId) -> int:
    return int(peer[:16], 16)
