"""What is wrong with others, said once in a while: who lies may do so a thousand times a second."""

from collections.abc import Callable

from p2ptrain.ports import PeerId
from p2ptrain.telemetry.events import Event, Noted, Rejected
from p2ptrain.waiting import now

TOLD_S = 5.0
"""The same is said so often."""
KEPT_MAX = 1024


class Complaints:
    """Events of a node, but not the same ones time and again."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._told: dict[tuple[str, str], float] = {}

    def reject(self, peer: PeerId | str, reason: str, detail: str) -> None:
        """Count and name."""
        if self._due((peer, reason)):
            self._emit(Rejected(peer, reason, detail))

    def note(self, level: str, message: str) -> None:
        if self._due((level, message)):
            self._emit(Noted(level, message))

    def _due(self, key: tuple[str, str]) -> bool:
        time = now()
        if time - self._told.get(key, float("-inf")) < TOLD_S:
            return False
        self._told[key] = time
        while len(self._told) > KEPT_MAX:
            del self._told[next(iter(self._told))]
        return True
