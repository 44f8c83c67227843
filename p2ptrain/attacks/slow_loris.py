"""Answer, but hardly: keep peers waiting without being silent."""

from typing import ClassVar

from pydantic import Field

from p2ptrain.attacks import Attack, Kind, register


@register("slow-loris")
class SlowLoris(Attack):
    """Sends the truth a few bytes at a time, so that each message comes but the exchange does not end."""

    kind: ClassVar[Kind] = "protocol"

    bytes_per_s: float = Field(100.0, gt=0)
