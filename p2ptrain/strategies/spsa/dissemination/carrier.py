"""What may be there in place of streams, as a flood sees it: a broker, and those that speak at it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from p2ptrain.ports import PeerId
from p2ptrain.strategies.spsa.dissemination.link import Link
from p2ptrain.wire.onebyte_pb2 import Said


@dataclass(eq=False)
class Speaker:
    """One that speaks to everyone, as far as it has. What a `Link` is to a neighbour."""

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


class Carrier(Protocol):
    """Where one says something, and all others hear it."""

    @property
    def links(self) -> Mapping[PeerId, Link]:
        """To those that this node talks to alone there."""
        ...

    def speakers(self) -> list[Speaker]:
        """Those that are there."""
        ...

    def owe(self, record: bytes, is_own: bool) -> None:
        """A batch that is new here, and did not come from there; soon it is said."""
        ...

    def post(self, said: Said) -> None:
        """To all, soon."""
        ...

    async def run(self) -> None:
        """Speak and listen, until cancelled."""
        ...
