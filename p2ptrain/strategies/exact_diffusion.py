"""Exact diffusion, in rounds: a gradient step, corrected for what the last average has changed, then an average (Yuan,
Ying, Zhao and Sayed 2018, arXiv:1702.05122).

Finds the exact optimum as gradient tracking does, at half its traffic. Needs symmetric weights without eigenvalues
below zero (`graphs.measures.lazy`).
"""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from p2ptrain.strategies import register
from p2ptrain.strategies.in_rounds import InRounds

if TYPE_CHECKING:
    from p2ptrain.node import Node


class State(NamedTuple):
    """Of one node; both (d,)."""

    x: Tensor
    psi: Tensor
    """Where the last gradient step led, before the average."""


def begin(x: Tensor) -> State:
    return State(x, x)


def adapt(state: State, gradient: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """(phi, psi), each (d,): what to average with the neighbours', and what to keep. `gradient` is at `state.x`."""
    psi = state.x - lr * gradient
    return psi + state.x - state.psi, psi


def combine(mixed_phi: Tensor, psi: Tensor) -> State:
    """The round's end; `mixed_phi` is the weighted average of the neighbourhood's."""
    return State(mixed_phi, psi)


@register("exact-diffusion")
class ExactDiffusion(InRounds):
    """The exact optimum in rounds, at the traffic of `dpsgd`."""

    async def run(self, node: "Node") -> None:
        state = begin(await self.begin(node))
        while node.goes_on():
            phi, psi = adapt(state, await self.gradient(node, state.x), node.rate)
            state = combine(await node.mixed(phi, kept=slice(None)), psi)
        await self.end(node, state.x)
