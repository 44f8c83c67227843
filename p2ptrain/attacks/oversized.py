"""Send more than was agreed: who buffers before looking runs out of memory."""

import math
from typing import ClassVar

from pydantic import Field

from p2ptrain.attacks import Attack, Bytes, Kind, register

MAX_NBYTES = 4 << 20
"""More would not leave this node's own transport."""


@register("oversized")
class Oversized(Attack):
    """Each payload is so many times as long as it may be."""

    kind: ClassVar[Kind] = "protocol"

    factor: float = Field(100.0, gt=1)

    def swollen(self, payload: Bytes) -> Bytes:
        nbytes = min(math.ceil(self.factor * len(payload)), MAX_NBYTES)
        content = bytes(payload)
        return (content * (nbytes // max(len(content), 1) + 1))[:nbytes]
