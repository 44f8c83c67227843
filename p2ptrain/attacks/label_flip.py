"""Learn the wrong thing: false data, honestly learned from."""

from typing import ClassVar

from torch import Tensor

from p2ptrain.attacks import Attack, Kind, register


@register("label-flip")
class LabelFlip(Attack):
    """Trains on C - 1 - y where it should on y, of C classes."""

    kind: ClassVar[Kind] = "data"

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        return num_classes - 1 - labels
