"""What time it is for a node's state: how far it flows before its next event."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

GRADIENTS_PER_UNIT, GRADIENTS_AHEAD = 1.5, 5.0
"""By the clock of exchanges, no more gradients than this come: on links that cannot keep up, further ones would be of
no use, at the price of a CPU that exchanges need."""


class Clock(Protocol):
    """In units of time, in which each node takes one gradient on average."""

    def ahead(self, is_exchange: bool) -> float:
        """How far the state flows if its next event is now."""
        ...

    def tick(self, is_exchange: bool) -> None:
        """That event has come."""
        ...

    def has_time_for(self, num_gradients: int) -> bool:
        """Whether so many gradients are not too many for the time that has passed."""
        ...


@dataclass
class ByExchange:
    """Time passes by exchanges: the mean gap between them for each, none for gradients. A swarm whose links cannot
    keep up gets slower, where by the clock on the wall it would diverge."""

    gap: float
    passed: float = 0.0

    def ahead(self, is_exchange: bool) -> float:
        return self.gap if is_exchange else 0.0

    def tick(self, is_exchange: bool) -> None:
        self.passed += self.ahead(is_exchange)

    def has_time_for(self, num_gradients: int) -> bool:
        return num_gradients <= GRADIENTS_PER_UNIT * self.passed + GRADIENTS_AHEAD


@dataclass
class ByWall:
    """As the paper has it; needs links that keep up with the rates."""

    unit_s: float
    now: Callable[[], float]
    """Seconds."""
    last: float

    def ahead(self, is_exchange: bool) -> float:
        return (self.now() - self.last) / self.unit_s

    def tick(self, is_exchange: bool) -> None:
        self.last = self.now()

    def has_time_for(self, num_gradients: int) -> bool:
        return True
