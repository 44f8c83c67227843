"""Send more than was agreed: who buffers before looking runs out of memory."""

from typing import ClassVar

from pydantic import Field

from p2ptrain.attacks import Attack, Kind, register


@register("oversized")
class Oversized(Attack):
    """Each payload is so many times as long as it may be."""

    kind: ClassVar[Kind] = "protocol"

    factor: float = Field(100.0, gt=1)
