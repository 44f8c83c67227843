"""What becomes of the states when nodes come and go.

All of it keeps one quantity at zero, the imbalance: the sum over the nodes of alpha~ z + alpha z~. The flow does not
change it, whatever each node's clock shows, nor does an exchange that both ends apply. Where it is not zero, the swarm
settles at a point where the gradients sum to something else than zero, for ever.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from p2ptrain.strategies.dadao.maths import Constants, State


def begin(x: Tensor) -> State:
    """The state from which a swarm starts; `x`, (d,), may differ from node to node."""
    zero = torch.zeros_like(x)
    return State(x, zero, zero, zero, zero, zero)


def join(x: Tensor, constants: Constants) -> State:
    """The state of a newcomer that has taken over the model, (d,), of a node that is there."""
    zero, dual = torch.zeros_like(x), -constants.nu * x
    return State(x, x, dual, dual, zero, zero)


def imbalance(states: Sequence[State], constants: Constants) -> Tensor:
    """(d,): zero, but for rounding, as long as nothing went wrong."""
    return torch.stack([constants.alpha_tilde * state.z + constants.alpha * state.z_tilde for state in states]).sum(0)


def settled_gradient(states: Sequence[State], constants: Constants) -> Tensor:
    """(d,): what the nodes' gradients will sum to in the end."""
    return -imbalance(states, constants) / (constants.alpha + constants.alpha_tilde)


def leave(leaver: State, heirs: Sequence[State]) -> list[State]:
    """The states of those who stay, once the leaver's z and z~ are split evenly among them. All must have flowed to
    the same time. As many heirs as can be: each has its share to spread again."""
    share = 1 / len(heirs)
    return [heir._replace(z=heir.z + share * leaver.z, z_tilde=heir.z_tilde + share * leaver.z_tilde) for heir in heirs]


def recentre(state: State, mean_z: Tensor, mean_z_tilde: Tensor) -> State:
    """After a crash, when part of the sum is lost: each survivor takes the survivors' means, (d,), off its own."""
    return state._replace(z=state.z - mean_z, z_tilde=state.z_tilde - mean_z_tilde)


def restart(state: State) -> State:
    """When not even the means can be had: begin again from the model, on all nodes at once."""
    zero = torch.zeros_like(state.x)
    return State(state.x, state.x, zero, zero, zero, zero)
