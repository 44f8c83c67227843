"""DADAO: decoupled, accelerated, decentralized asynchronous optimisation (Nabli and Oyallon 2022, arXiv:2208.00779).

Finds the exact optimum of a sum of strongly convex functions, one per node. Gradients at nodes and exchanges on edges
come at the ticks of independent Poisson clocks; between them each node's state flows on its own.

strategy    `strategy: dadao`, over the network
cell        a node's state as exchanges see it, with an account for each peer
bounds      how nodes agree on L and mu
clocks      how time passes for a state
maths       constants, and what the flow, a gradient and an exchange do to a state
membership  what becomes of the states when nodes join, leave or crash
replay      whole runs from a list of events, without a network
"""

from p2ptrain.strategies.dadao.maths import (
    Constants,
    State,
    check_rates,
    constants,
    exchange_event,
    flow,
    gradient_event,
    jump,
    message,
)
from p2ptrain.strategies.dadao.strategy import Dadao

__all__ = [
    "Constants",
    "Dadao",
    "State",
    "check_rates",
    "constants",
    "exchange_event",
    "flow",
    "gradient_event",
    "jump",
    "message",
]
