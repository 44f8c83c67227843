"""What lies between two nodes: latency, bandwidth, loss, and whether anything passes at all."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer

from p2ptrain.topology.quantities import BitsPerSecond, Seconds, Share

Pair = tuple[str, str]
"""(from, to): a direction between two nodes, by name."""
ONLY_SIMULATED = ("drop", "duplicate", "reorder", "corrupt")
"""What no TCP connection does to messages."""

PACKET_BYTES = 1448
"""What a TCP segment carries over Ethernet."""
RTO_S_MIN, RTO_S_MAX = 0.2, 60.0
"""The least is Linux's; RFC 6298 asks for a second, which nobody waits."""
RESENT_MAX = 15
"""As often as Linux sends a segment again before it gives up."""


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

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        """What was left out stays so: it is for another layer of links to say."""
        return {field: getattr(self, field) for field in type(self).model_fields if field in self.model_fields_set}


def retransmission_s(link: Link, size_bytes: int, chance: float) -> float:
    """How much later `size_bytes` arrive in order because TCP had to send some of their packets again.

    `chance` is uniform in [0, 1). Every packet is lost with the same probability, independently; the one that is lost
    most often decides. The first loss is noticed after a round trip when three more packets follow (fast retransmit,
    RFC 5681), otherwise after the retransmission timeout; that doubles from then on (RFC 6298, 5.5). The timeout is
    SRTT + 4 RTTVAR (RFC 6298, 2.3) with the mean and the mean deviation of two one-way delays of this link.
    """
    packets = math.ceil(size_bytes / PACKET_BYTES)
    times_lost = 0
    while times_lost < RESENT_MAX and chance >= (1 - link.loss ** (times_lost + 1)) ** packets:
        times_lost += 1
    if times_lost == 0:
        return 0.0
    round_trip_s = 2 * link.latency + link.jitter
    timeout_s = max(RTO_S_MIN, round_trip_s + 4 * link.jitter / 3)  # the sum of two uniforms deviates by a third
    first_s = round_trip_s if packets > 3 else timeout_s
    return first_s + sum(min(timeout_s * 2**times, RTO_S_MAX) for times in range(1, times_lost))
