"""What lies between two nodes: latency, bandwidth, loss, and whether anything passes at all."""

import math
import random
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer

from p2ptrain.topology.quantities import BitsPerSecond, Seconds, Share

PACKET_BYTES = 1448
MIN_TIMEOUT_S = 0.2

Pair = tuple[str, str]
"""(from, to): a direction between two nodes, by name."""
ONLY_SIMULATED = ("drop", "duplicate", "reorder", "corrupt")
"""What no TCP connection does to messages."""


class Link(BaseModel):
    """One direction from one node to another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency: Seconds = 0.0
    """One way."""
    jitter: Seconds = 0.0
    """Added to the latency, uniform in [0, jitter]."""
    bandwidth: BitsPerSecond | None = None
    """None: as fast as the machine."""
    loss: Share = 0.0
    """Of packets. TCP sends them again, so what a connection sees is delay."""
    down: bool = False
    """Nothing passes, and nobody is told: what a cut cable looks like."""
    drop: Share = 0.0
    """Of messages, whole; this and the three below in the simulator alone."""
    duplicate: Share = 0.0
    reorder: Share = 0.0
    corrupt: Share = 0.0
    """One bit of the message is flipped."""

    def retransmission(self, num_bytes: int, rng: random.Random) -> float:
        """Seconds that a message of so many bytes is late because some of its packets were lost.

        TCP notices by duplicate acknowledgements a round trip later (RFC 5681), or, where nothing follows the lost
        packet, by its timer: a second round trip, 0.2 s at least (RFC 6298 with the usual lower bound)."""
        packets = max(1, math.ceil(num_bytes / PACKET_BYTES))
        round_trip = 2 * self.latency
        late = 0.0
        if rng.random() < self.loss:  # the last packet
            late += max(MIN_TIMEOUT_S, 2 * round_trip)
        if packets > 1 and rng.random() < 1 - (1 - self.loss) ** (packets - 1):
            late += round_trip
        return late

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        """What was left out stays so: it is for another layer of links to say."""
        return {field: getattr(self, field) for field in type(self).model_fields if field in self.model_fields_set}
