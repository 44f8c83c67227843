"""The plain mean: no defence against anyone."""

from typing import ClassVar

from torch import Tensor

from p2ptrain.aggregators import Aggregator, register


@register("mean")
class Mean(Aggregator):
    """(own + sum of received) / (1 + m). One liar moves it anywhere."""

    elementwise: ClassVar[bool] = True

    def __call__(self, own: Tensor, received: Tensor) -> Tensor:
        return (own + received.sum(0)) / (1 + received.shape[0])
