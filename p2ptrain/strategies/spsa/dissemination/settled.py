"""Which rounds are old enough that what was said in them should have come."""

from collections import deque

from p2ptrain.strategies.spsa.ledger.replica import Replica
from p2ptrain.waiting import now

SETTLED_S = 5.0


class Settled:
    """Remembers for some seconds which round the swarm had reached."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._frontiers: deque[tuple[float, int]] = deque()  # (when, frontier)

    def round(self) -> int:
        """Rounds before this were reached by most some seconds ago. To be asked now and then."""
        time = now()
        frontier = max(0, self._replica.frontier())
        if not self._frontiers or self._frontiers[-1][1] != frontier:
            self._frontiers.append((time, frontier))
        while len(self._frontiers) > 1 and self._frontiers[1][0] <= time - SETTLED_S:
            self._frontiers.popleft()
        return self._frontiers[0][1]
