"""CDProxSGT: compressed gradient tracking with a proximal step (Yan et al. 2023, arXiv:2302.14252, Algorithm 2).

    y <- y + grad(x) - grad(the x before);  y <- y + gamma_y (W y^ - y^)
    x <- prox(x - lr y);                    x <- x + gamma_x (W x^ - x^)

where x^ and y^ are public copies that all neighbours hold alike: each moves by the compressed difference to what it
copies, and only these differences travel. Finds the exact optimum of the sum plus a penalty such as lambda |x|_1, even
though nothing is ever sent exactly.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.strategies import register
from p2ptrain.strategies.in_rounds import InRounds

if TYPE_CHECKING:
    from p2ptrain.node import Node


class Copy(NamedTuple):
    """A node's public copy of one vector, and the weighted average of its neighbourhood's public copies; both (d,)."""

    own: Tensor
    mixed: Tensor


class State(NamedTuple):
    """Of one node; vectors are (d,). The sum of y over the nodes is that of the gradients."""

    x: Tensor
    y: Tensor
    gradient: Tensor
    """At `x`, once tracked."""
    public_x: Copy
    public_y: Copy


def begin(x: Tensor) -> State:
    """All must start from the same `x`, or the copies would not be what others hold."""
    zero = torch.zeros_like(x)
    return State(x, zero, zero, Copy(x, x), Copy(zero, zero))


def track(state: State, gradient: Tensor) -> State:
    """First half of a round: `gradient`, (d,), is at `state.x`."""
    return state._replace(y=state.y + gradient - state.gradient, gradient=gradient)


def mix_y(state: State, sent: Tensor, mixed_sent: Tensor, gamma: float) -> State:
    """`sent`, (d,): y - public_y.own as compressed. `mixed_sent`: the weighted average of the neighbourhood's."""
    y, public = _mix(state.y, state.public_y, sent, mixed_sent, gamma)
    return state._replace(y=y, public_y=public)


def step(state: State, lr: float, l1: float = 0.0) -> State:
    """Second half: the proximal step for the penalty `l1` |x|_1 of each node."""
    x = state.x - lr * state.y
    return state._replace(x=soft_threshold(x, lr * l1) if l1 else x)


def mix_x(state: State, sent: Tensor, mixed_sent: Tensor, gamma: float) -> State:
    """As `mix_y`, for x - public_x.own."""
    x, public = _mix(state.x, state.public_x, sent, mixed_sent, gamma)
    return state._replace(x=x, public_x=public)


def soft_threshold(x: Tensor, by: float) -> Tensor:
    """argmin over u of by |u|_1 + |u - x|^2 / 2."""
    return x.sign() * (x.abs() - by).clamp_min(0)


def _mix(vector: Tensor, copy: Copy, sent: Tensor, mixed_sent: Tensor, gamma: float) -> tuple[Tensor, Copy]:
    copy = Copy(copy.own + sent, copy.mixed + mixed_sent)
    return vector + gamma * (copy.mixed - copy.own), copy


@register("cdproxsgt")
class CDProxSGT(InRounds):
    """The exact optimum in rounds though all that travels is compressed, and with an L1 penalty if wanted."""

    bears_sparse = True

    gamma: float = Field(0.5, gt=0, le=1)
    """How far to go towards the neighbours' public copies. The coarser the codec the less: 1 for int8, 0.3 for a fifth
    of the coordinates."""
    l1: float = Field(0.0, ge=0)
    """The penalty is this times the sum of the weights' magnitudes."""

    async def run(self, node: "Node") -> None:
        state = begin(await self.begin(node))
        while node.goes_on():
            state = track(state, await self.gradient(node, state.x, instead=state.gradient))
            state = mix_y(state, *await _traded(node, state.y - state.public_y.own), self.gamma)
            state = step(state, node.rate, self.l1)
            state = mix_x(state, *await _traded(node, state.x - state.public_x.own), self.gamma)
        await self.end(node, state.x)


async def _traded(node: "Node", moved: Tensor) -> tuple[Tensor, Tensor]:
    """(what of `moved` was sent, the weighted average of what the neighbourhood has sent); both (d,)."""
    said, towards = await node.rounds.trade(moved)
    return said, said + towards
