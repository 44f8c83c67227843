"""A2CiD2: asynchronous gossip with a momentum between each replica and a second one that only mixes (Nabli, Belilovsky
and Oyallon 2023, arXiv:2306.08289).

On a badly connected graph replicas then agree as if its chi1 were sqrt(chi1 chi2); where the two are equal, as on a
complete graph, it is plain gossip at twice the memory. Only x travels.
"""

import math
from typing import NamedTuple

from torch import Tensor

from p2ptrain.errors import ConfigError


class State(NamedTuple):
    """Of one node; both (d,) and the same at the start. `x` is the model."""

    x: Tensor
    x_tilde: Tensor


class Constants(NamedTuple):
    """The same on all nodes; time is counted in gradients of a node."""

    eta: float
    alpha: float
    alpha_tilde: float


PLAIN = Constants(eta=0.0, alpha=0.5, alpha_tilde=0.5)
"""No momentum: an exchange is an average."""


def constants(chi1: float, chi2: float) -> Constants:
    """`chi1` and `chi2` of the graph with its rates, in exchanges per unit of time; best those that were realised.

    Raises `ConfigError` for numbers that no connected graph has."""
    if not 0 < chi2 <= chi1 * (1 + 1e-9) < math.inf:
        raise ConfigError(
            f"acid needs 0 < chi2 <= chi1 < infinity, not chi1 {chi1:g} and chi2 {chi2:g}: is the graph connected by "
            "edges with a rate above zero?"
        )
    return Constants(eta=1 / (2 * math.sqrt(chi1 * chi2)), alpha=0.5, alpha_tilde=math.sqrt(chi1 / chi2) / 2)


def flow(state: State, dt: float, constants: Constants) -> State:
    """The state `dt` later, if nothing happens meanwhile: x' = eta (x~ - x) and x~' = eta (x - x~)."""
    moved = (state.x_tilde - state.x) * (-math.expm1(-2 * constants.eta * dt) / 2)
    return State(state.x + moved, state.x_tilde - moved)


def gradient_event(state: State, update: Tensor) -> State:
    """`update`, (d,): what the local optimizer adds to the model. Both take it, so it is no disagreement."""
    return State(state.x + update, state.x_tilde + update)


def jump(state: State, sent: Tensor, received: Tensor, constants: Constants) -> State:
    """One end of an exchange, after it has flowed; `sent` and `received` as they went over the wire."""
    difference = sent - received
    return State(state.x - constants.alpha * difference, state.x_tilde - constants.alpha_tilde * difference)


def exchange_event(state_i: State, state_j: State, constants: Constants) -> tuple[State, State]:
    """Both ends at once. The sums of x and of x~ over the nodes stay."""
    return (
        jump(state_i, state_i.x, state_j.x, constants),
        jump(state_j, state_j.x, state_i.x, constants),
    )
