"""What members say to each other: this node's own heartbeat, and the gate for everybody else's."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from p2ptrain.errors import PeerError
from p2ptrain.messages import parse
from p2ptrain.ports import Bytes, PeerId
from p2ptrain.swarm import records
from p2ptrain.swarm.records import Record
from p2ptrain.swarm.throttle import Throttle
from p2ptrain.swarm.view import State
from p2ptrain.telemetry.events import Event, Noted, Rejected
from p2ptrain.waiting import now
from p2ptrain.wire.membership_pb2 import Beat, PeersReply, PeersRequest, SignedRecord

RECORDS_PER_REPLY_MAX = 64
BEAT_BYTES_MAX = records.SIZE_BYTES_MAX + 256
REQUEST_BYTES_MAX = 32 * 1024
REPLY_BYTES_MAX = RECORDS_PER_REPLY_MAX * (records.SIZE_BYTES_MAX + 8)
SKEW_S_MAX = 3.0

_TO_WIRE: dict[State, Any] = {state: Beat.State.Value(f"STATE_{state.name}") for state in State}
_FROM_WIRE = {value: state for state, value in _TO_WIRE.items()}


@dataclass(frozen=True)
class Settings:
    """What membership needs to know."""

    me: PeerId
    swarm: str
    key: str | None
    heartbeat_s: float
    bootstrap: tuple[str, ...] = ()
    """host:port each."""

    @property
    def ttl_s(self) -> float:
        """How long a record of ours lives; it is renewed three times in that time."""
        return max(3 * self.heartbeat_s, 30.0)


@dataclass(frozen=True)
class Heard:
    """A heartbeat that may be believed."""

    record: Record
    signed: bytes
    state: State
    step: int
    epoch: int
    digest: bytes


class Beats:
    """`make_record(sequence, expires_unix_s)` seals this node's own record."""

    def __init__(
        self,
        settings: Settings,
        make_record: Callable[[int, float], bytes],
        now_unix: Callable[[], float],
        emit: Callable[[Event], None],
    ) -> None:
        self.state, self.step, self.epoch = State.STARTING, 0, 0
        self.rejected: Counter[str] = Counter()
        self._settings = settings
        self._make_record = make_record
        self._now_unix = now_unix
        self._emit = emit
        self._sequence = 0
        self._mine = SignedRecord()
        self._rejections = Throttle(period_s=60, keys_max=64)
        self._warnings = Throttle(period_s=math.inf, keys_max=256)
        self.renew()

    def renew(self) -> None:
        now_unix_s = self._now_unix()
        self._sequence = max(self._sequence + 1, int(now_unix_s * 1000))
        self.expires_unix_s = now_unix_s + self._settings.ttl_s
        self._mine = SignedRecord.FromString(self._make_record(self._sequence, self.expires_unix_s))

    @property
    def signed(self) -> bytes:
        """This node's record."""
        return self._mine.SerializeToString()

    def say(self, digest: bytes) -> bytes:
        """A heartbeat of this node, which sees the view with this digest."""
        beat = Beat(record=self._mine, step=self.step, view=digest, now_unix_ms=int(self._now_unix() * 1000))
        beat.state, beat.epoch = _TO_WIRE[self.state], self.epoch
        return beat.SerializeToString()

    def hear(self, source: str, data: Bytes, speaker: PeerId | None = None, age_s: float = math.inf) -> Heard:
        """Check a heartbeat; `speaker` is who it must be of, if that is known. Raises `PeerError`, counted.

        `age_s`: it was said no longer ago than this."""
        with self._counted(source):
            beat = parse(Beat(), data, BEAT_BYTES_MAX)
            if beat.state not in _FROM_WIRE:
                raise PeerError("malformed", f"state {beat.state}")
            self._mind_skew(source, beat.now_unix_ms / 1000 - self._now_unix(), age_s)
            signed = beat.record.SerializeToString()
            record = self._verify(signed)
            if speaker not in (None, record.peer):
                raise PeerError("wrong-peer", f"a heartbeat of {record.peer}")
            return Heard(record, signed, _FROM_WIRE[beat.state], beat.step, beat.epoch, beat.view)

    def believe(self, source: str, signed: bytes) -> Record | None:
        """Check a record that somebody passed on; None, counted, when it is refused."""
        try:
            with self._counted(source):
                return self._verify(signed)
        except PeerError:
            return None

    def hear_request(self, source: str, data: Bytes) -> set[PeerId]:
        """Whom the sender of a `PeersRequest` knows."""
        with self._counted(source):
            return {PeerId(peer.hex()) for peer in parse(PeersRequest(), data, REQUEST_BYTES_MAX).known}

    def hear_reply(self, source: str, data: bytes) -> list[bytes]:
        """The records in a `PeersReply`, unverified."""
        with self._counted(source):
            reply = parse(PeersReply(), data, REPLY_BYTES_MAX)
        return [record.SerializeToString() for record in reply.records[:RECORDS_PER_REPLY_MAX]]

    def meet_myself(self, record: Record) -> None:
        """Somebody has a record of this very peer. A newer one would keep ours from being believed: overtake it."""
        if record.sequence > self._sequence:
            self._sequence = record.sequence
            self._warn_once(
                "myself",
                "others have a newer record of this node than its own: either another node uses a copy of this "
                "identity.pem, or this machine's clock was set back",
            )

    def _verify(self, signed: bytes) -> Record:
        return records.verify(signed, self._settings.swarm, self._settings.key, self._now_unix())

    def _mind_skew(self, source: str, ahead_s: float, age_s: float) -> None:
        if ahead_s > SKEW_S_MAX or ahead_s + age_s < -SKEW_S_MAX:
            direction = "ahead of" if ahead_s > 0 else "behind"
            text = f"the clock of {source} is {abs(ahead_s):.0f} s {direction} this machine's; records may look expired"
            self._warn_once(source, text)

    def _warn_once(self, key: str, text: str) -> None:
        if self._warnings.lets(key, now()):
            self._emit(Noted("warning", text))

    @contextmanager
    def _counted(self, source: str) -> Iterator[None]:
        """Count and report what is refused; the error goes on."""
        try:
            yield
        except PeerError as error:
            self.rejected[error.reason] += 1
            if self._rejections.lets((error.reason, source), now()):
                self._emit(Rejected(source, error.reason, error.detail))
            raise
