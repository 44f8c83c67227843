"""One of those at a broker, as far as it has spoken to everyone."""

import asyncio
from dataclasses import dataclass, field

from p2ptrain.ports import PeerId
from p2ptrain.wire.onebyte_pb2 import Said


@dataclass(eq=False)
class Speaker:
    """What a `Link` is to a neighbour."""

    peer: PeerId
    waiting: dict[bytes, float]
    """What we are to say: they have said it for us."""
    spoke: float = 0.0
    seal: Said.Seal | None = None
    audit: Said.Seal | None = None
    equal: bool = False
    differs: asyncio.Event = field(default_factory=asyncio.Event)

    def post(self, said: Said) -> None:
        """It is asked when we talk to it alone, which we do if we differ."""
        self.differs.set()
