"""Whom to trust less: what each peer did wrong, forgotten with time.

Blame halves every `HALF_LIFE_S`. A peer is picked the less often the more it has; one with too much is in quarantine:
not talked to, and refused, until enough of it is forgotten. What is proven (`witness`) weighs most, what could also be
chance (a vector far from the others) can never bring anybody into quarantine by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from p2ptrain.bounded import keep
from p2ptrain.ports import PeerId
from p2ptrain.telemetry.events import Event, Suspected

HALF_LIFE_S = 60.0
REFUSED, PROVEN, FAR = 1.0, 24.0, 0.1
"""For a message that no honest node sends, for a proven lie, for a vector far from all others."""
MAX_FAR = 2.0
"""As much blame as can come from being far."""
SUSPECTED, QUARANTINED, BACK = 1.0, 8.0, 4.0
"""From so much blame on it is told; it is in quarantine; and out again below the last. A proven lie costs two and a
half minutes, the next one before that is forgotten more."""
MAX_BLAME = 64.0
"""Five minutes: there is always a way back."""
MAX_PEERS = 1024


@dataclass
class _Standing:
    blame: float = 0.0
    at: float = 0.0
    level: str = "readmitted"


@dataclass
class Reputation:
    """Of everyone, at one node."""

    emit: Callable[[Event], None]
    now: Callable[[], float]
    """Seconds of a clock that does not jump."""
    _standings: dict[PeerId, _Standing] = field(default_factory=dict)

    def blame(self, peer: PeerId, why: str, weight: float = REFUSED, up_to: float = MAX_BLAME) -> None:
        """It did this wrong."""
        standing = keep(self._standings, peer, self._standings.get(peer) or _Standing(at=self.now()), MAX_PEERS)
        decayed = self._decayed(standing)
        standing.blame, standing.at = max(decayed, min(decayed + weight, up_to)), self.now()
        if standing.blame >= QUARANTINED and standing.level != "quarantined":
            self._tell(peer, standing, "quarantined", why)
        elif standing.blame >= SUSPECTED and standing.level == "readmitted":
            self._tell(peer, standing, "suspected", why)

    def of(self, peer: PeerId) -> float:
        """Its blame now."""
        standing = self._standings.get(peer)
        return 0.0 if standing is None else self._decayed(standing)

    def trust(self, peer: PeerId) -> float:
        """In (0, 1]: how often to pick it, beside one without blame."""
        return 2.0 ** -self.of(peer)

    def shuns(self, peer: PeerId) -> bool:
        """Whether it is in quarantine."""
        standing = self._standings.get(peer)
        if standing is not None and standing.level != "readmitted":
            blame = self._decayed(standing)
            if blame < (BACK if standing.level == "quarantined" else SUSPECTED / 2):
                self._tell(peer, standing, "readmitted", "forgotten")
        return standing is not None and standing.level == "quarantined"

    def _decayed(self, standing: _Standing) -> float:
        return standing.blame * 0.5 ** ((self.now() - standing.at) / HALF_LIFE_S)

    def _tell(self, peer: PeerId, standing: _Standing, level: str, why: str) -> None:
        standing.level = level
        self.emit(Suspected(peer, level, why, round(standing.blame, 3)))
