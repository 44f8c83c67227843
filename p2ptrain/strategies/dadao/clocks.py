"""What time it is for a node's state: how far it flows before its next event."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """In units of time, in which each node takes one gradient on average."""

    def ahead(self, is_exchange: bool) -> float:
        """How far the state flows if its next event is now."""
        ...

    def tick(self) -> None:
        """That event has come."""
        ...


@dataclass
class ByExchange:
    """Time passes by exchanges: the mean gap between them for each, none for gradients. A swarm whose links cannot
    keep up gets slower, where by the clock on the wall it would diverge."""

    gap: float

    def ahead(self, is_exchange: bool) -> float:
        return self.gap if is_exchange else 0.0

    def tick(self) -> None: ...


@dataclass
class ByWall:
    """As the paper has it; needs links that keep up with the rates."""

    unit_s: float
    now: Callable[[], float]
    """Seconds."""
    last: float

    def ahead(self, is_exchange: bool) -> float:
        return (self.now() - self.last) / self.unit_s

    def tick(self) -> None:
        self.last = self.now()
