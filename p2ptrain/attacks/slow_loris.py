"""Answer, but hardly: keep peers waiting without being silent."""

from typing import ClassVar

from pydantic import Field

from p2ptrain.attacks import Attack, Kind, register


@register("slow-loris")
class SlowLoris(Attack):
    """Sends the truth at so many bytes a second: small messages come, and what they announce does not."""

    kind: ClassVar[Kind] = "protocol"

    bytes_per_s: float = Field(100.0, gt=0)

    def delay_s(self, nbytes: int) -> float:
        return nbytes / self.bytes_per_s
