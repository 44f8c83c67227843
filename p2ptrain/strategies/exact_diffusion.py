"""Exact diffusion, in rounds: a gradient step, corrected for what the last average has changed, then an average (Yuan,
Ying, Zhao and Sayed 2018, arXiv:1702.05122).

Finds the exact optimum as gradient tracking does, at half its traffic. Needs symmetric weights without eigenvalues
below zero (`mixing.lazy`).
"""

from typing import NamedTuple

from torch import Tensor


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
