"""How long to wait for a peer: deadlines from observed latency instead of fixed ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from p2ptrain.bounded import keep
from p2ptrain.errors import PeerError
from p2ptrain.ports import PeerId

SMOOTHING = 0.1
TIMES = 8.0
"""A peer may take this many times as long as it usually does."""
FLOOR_S = 3.0
"""Never less for each mebibyte of a message: a busy laptop stalls for a second now and then."""
CEILING_S = 60.0
FIRST_S = 15.0
"""For a peer that nobody has heard yet."""
STREAM_TIMEOUT_S = 24 * 3600.0
"""Of a whole stream, for gRPC, which wants one; the deadlines that matter are those of its messages."""
MAX_PEERS = 4096
MEBIBYTE = 1 << 20


@dataclass
class Pace:
    """Smoothed latency and its mean deviation for each peer, as TCP does for its retransmission timer (RFC 6298)."""

    _latency_s: dict[PeerId, tuple[float, float]] = field(default_factory=dict)

    def observe(self, peer: PeerId, seconds: float) -> None:
        """A message took this long to come."""
        mean, deviation = self._latency_s.get(peer, (seconds, seconds / 2))
        deviation += SMOOTHING * (abs(seconds - mean) - deviation)
        mean += SMOOTHING * (seconds - mean)
        keep(self._latency_s, peer, (mean, deviation), MAX_PEERS)

    def patience(self, peer: PeerId, nbytes: int = 0) -> float:
        """Seconds to wait for the next message of `peer`, or for it to take one, of up to `nbytes`."""
        if peer not in self._latency_s:
            return FIRST_S
        mean, deviation = self._latency_s[peer]
        return min(max(TIMES * (mean + 4 * deviation), FLOOR_S * max(1.0, nbytes / MEBIBYTE)), CEILING_S)


@contextmanager
def deadline_is_peer_error() -> Iterator[None]:
    """A timeout within the block is the peer's fault."""
    try:
        yield
    except TimeoutError:
        raise PeerError("deadline", "the peer is silent") from None
