"""D-PSGD: average with all neighbours and take a gradient step, in rounds (Lian et al. 2017, arXiv:1705.09056).

With nodes whose data differ and a constant learning rate it settles near the optimum, not at it: at a squared distance
that grows with the square of the learning rate.
"""

import asyncio
from typing import TYPE_CHECKING

from torch import Tensor

from p2ptrain.strategies import register
from p2ptrain.strategies.in_rounds import InRounds

if TYPE_CHECKING:
    from p2ptrain.node import Node


def step(mixed: Tensor, gradient: Tensor, lr: float) -> Tensor:
    """The next model, (d,): `mixed` is the weighted average of the neighbourhood's models, `gradient` was taken at this
    node's own, so that the two can be had at the same time (Algorithm 1)."""
    return mixed - lr * gradient


@register("dpsgd")
class DPSGD(InRounds):
    """Average with all neighbours and take a gradient step, at the same time, in rounds."""

    async def run(self, node: "Node") -> None:
        x = await self.begin(node)
        while node.goes_on():
            async with asyncio.TaskGroup() as group:
                mixed = group.create_task(node.mixed(x))
                gradient = group.create_task(self.gradient(node, x))
            x = step(mixed.result(), gradient.result(), node.rate)
        await self.end(node, x)
