"""How the nodes of a swarm come to agree on L and mu: each tells its neighbours, and the largest and smallest win."""

import math
from collections.abc import Callable
from typing import NamedTuple

from p2ptrain.errors import PeerError
from p2ptrain.messages import parse
from p2ptrain.ports import Bytes, PeerId, Transport
from p2ptrain.wire import dadao_pb2

COMPARE = "/p2ptrain.v1.Dadao/Compare"
MAX_RATIO = 1e6
"""A peer whose loss is so many times steeper or flatter than one's own would bring the whole swarm to a stop."""
TIMEOUT_S = 10.0


class Bounds(NamedTuple):
    """Of all nodes' losses, as far as one node knows."""

    smoothness: float
    convexity: float

    def with_(self, other: "Bounds") -> "Bounds":
        return Bounds(max(self.smoothness, other.smoothness), min(self.convexity, other.convexity))


class Agreement:
    """One node's side of it."""

    def __init__(self, transport: Transport, changed: Callable[[], None]) -> None:
        """`changed`: called whenever a peer knew better."""
        self.bounds: Bounds | None = None
        self._own: Bounds | None = None
        self._transport, self._changed = transport, changed
        transport.serve(COMPARE, self._answer)

    def begin(self, own: Bounds) -> None:
        """What this node knows of its own loss."""
        self._own = self.bounds = own

    def raise_to(self, smoothness: float) -> None:
        """The loss was found to curve more than anybody had said."""
        assert self.bounds is not None
        self._take(self.bounds._replace(smoothness=smoothness))

    async def compare(self, peer: PeerId) -> None:
        """Afterwards both know the same. Raises `PeerError`."""
        assert self.bounds is not None
        reply = await self._transport.call(peer, COMPARE, _encode(self.bounds), TIMEOUT_S)
        self._take(self._checked(reply))

    async def _answer(self, peer: PeerId, request: Bytes) -> bytes:
        if self.bounds is None:
            raise PeerError("not-ready", "does not know its own loss yet")
        self._take(self._checked(request))
        return _encode(self.bounds)

    def _checked(self, message: Bytes) -> Bounds:
        found = parse(dadao_pb2.Bounds(), message, 64)
        assert self._own is not None
        likely = (
            math.isfinite(found.smoothness)
            and 0 < found.convexity <= found.smoothness <= MAX_RATIO * self._own.smoothness
            and found.convexity >= self._own.convexity / MAX_RATIO
        )
        if not likely:
            own = f"here {self._own.smoothness:g} and {self._own.convexity:g}"
            raise PeerError("malformed", f"L {found.smoothness:g} and mu {found.convexity:g}, {own}")
        return Bounds(found.smoothness, found.convexity)

    def _take(self, other: Bounds) -> None:
        assert self.bounds is not None
        merged = self.bounds.with_(other)
        if merged != self.bounds:
            self.bounds = merged
            self._changed()


def _encode(bounds: Bounds) -> bytes:
    return dadao_pb2.Bounds(smoothness=bounds.smoothness, convexity=bounds.convexity).SerializeToString()
