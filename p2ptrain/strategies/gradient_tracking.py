"""Gradient tracking, in rounds: a second variable follows the average of all gradients (DIGing: Nedic, Olshevsky and
Shi 2017, arXiv:1607.03218).

    x <- W x - lr q        q <- W q + grad(x) - grad(the x before)

Finds the exact optimum whatever the nodes' data, at twice the traffic: x and q travel.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from p2ptrain.strategies import register
from p2ptrain.strategies.in_rounds import InRounds

if TYPE_CHECKING:
    from p2ptrain.node import Node


class State(NamedTuple):
    """Of one node; all (d,). The sum of q over the nodes is that of the gradients."""

    x: Tensor
    q: Tensor
    gradient: Tensor
    """At `x`."""


def begin(x: Tensor, gradient: Tensor) -> State:
    return State(x, gradient, gradient)


def move(mixed_x: Tensor, state: State, lr: float) -> Tensor:
    """The next model, (d,); `mixed_x` is the weighted average of the neighbourhood's."""
    return mixed_x - lr * state.q


def track(mixed_q: Tensor, state: State, x: Tensor, gradient: Tensor) -> State:
    """The round's end: `gradient`, at the new model `x`, must be of the same examples as the one before."""
    return State(x, mixed_q + gradient - state.gradient, gradient)


@register("gradient-tracking")
class GradientTracking(InRounds):
    """The exact optimum in rounds: beside the model travels a vector that follows the average of all gradients."""

    num_vectors = 2

    async def run(self, node: "Node") -> None:
        x = await self.begin(node)
        state, d = begin(x, await self.gradient(node, x)), len(x)
        while node.goes_on():
            mixed = await node.mixed(torch.cat([state.x, state.q]), kept=slice(d, None))
            x = move(mixed[:d], state, node.rate)
            state = track(mixed[d:], state, x, await self.gradient(node, x, instead=state.gradient))
        await self.end(node, state.x)
