"""Aggregators combine a node's own vector with received ones: `aggregators.make("mean")(own, received)`.

Each rule is one file in this folder.
"""

from typing import ClassVar

from torch import Tensor

from p2ptrain.registry import Component, Registry


class Aggregator(Component):
    """(own (d,), received (m, d)) -> (d,), pure."""

    elementwise: ClassVar[bool] = False
    """True when each coordinate of the result depends on that coordinate alone: such rules combine chunk by chunk
    while a swap streams; others wait for the whole vector."""

    def __call__(self, own: Tensor, received: Tensor) -> Tensor:
        raise NotImplementedError


registry: Registry[Aggregator] = Registry("aggregator", __name__)
register, make, names, get, parse = registry.register, registry.make, registry.names, registry.get, registry.parse
