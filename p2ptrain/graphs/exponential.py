"""Each vertex knows those 1, 2, 4, 8, ... further on (Ying et al. 2021, arXiv:2110.13363).

Either all the time, or one per turn.
"""

import networkx

from p2ptrain.graphs import Point, Sized, layouts, register


@register("exponential")
class Exponential(Sized):
    """Each vertex knows those 1, 2, 4, 8, ... further on."""

    @property
    def hops(self) -> list[int]:
        return [1 << k for k in range((self.n - 1).bit_length())]

    def build(self) -> networkx.Graph:
        return networkx.Graph([(i, (i + hop) % self.n) for i in range(self.n) for hop in self.hops])

    def positions(self) -> list[Point]:
        return layouts.circle(self.n)


@register("one-peer-exponential")
class OnePeerExponential(Exponential):
    """The exponential graph, one hop per turn: everyone sends to one and hears from one.

    `edges` and all that follows from them are those of all turns together."""

    def partners(self, slot: int, turn: int) -> tuple[int, int]:
        """(whom `slot` sends to, whom it hears from) in a turn, counted from 0.

        If everyone averages what it hears with its own half and half, all have the exact mean after `len(hops)` turns
        when n is a power of two; otherwise they come close to it as turns go on."""
        hop = self.hops[turn % len(self.hops)]
        return (slot + hop) % self.n, (slot - hop) % self.n
