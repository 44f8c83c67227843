"""A2CiD2: asynchronous gossip with a momentum between each replica and a second one that only mixes (Nabli, Belilovsky
and Oyallon 2023, arXiv:2306.08289).

On a badly connected graph replicas then agree as if its chi1 were sqrt(chi1 chi2); where the two are equal, as on a
complete graph, it is plain gossip at twice the memory. Only x travels.

Time is counted in a node's own steps, and passes as its exchanges come: when only half of those come that were meant
to, in so many steps, the graph's chi1 and chi2 are really twice as large, and eta half of what it was. alpha~ depends
on chi1 / chi2 alone: it stays the same on all nodes, as it must for the two ends of an exchange to cancel.

At the start of a step the two vectors flow towards each other, and what is mixed then is what exchanges send: in the
other order, mixing after sending, half of the gain is lost.
"""

import asyncio
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from p2ptrain import graphs
from p2ptrain.errors import ConfigError
from p2ptrain.graphs import Graph
from p2ptrain.strategies import register
from p2ptrain.strategies.gossip import Gossip
from p2ptrain.waiting import within

if TYPE_CHECKING:
    from p2ptrain.node import Node


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


class Pace(NamedTuple):
    """What a node goes by."""

    constants: Constants
    """Of the graph with the rates that are meant."""
    rate: float
    """Of this node: exchanges per step, those that others start included."""


class Momentum:
    """x~ beside a replica's x: its `training.replica.Companion`."""

    def __init__(self, flat: Tensor, pace: Pace) -> None:
        self.pace = pace
        """May be replaced at any time."""
        self.reset(flat)

    def reset(self, flat: Tensor) -> None:
        self.x_tilde, self._seen = flat.clone(), flat.clone()
        self._num = 0

    def corrected(self, flat: Tensor, by: Tensor, num: int) -> None:
        """The jumps of `num` exchanges: `by` is alpha times the differences."""
        constants = self.pace.constants
        self.x_tilde += constants.alpha_tilde / constants.alpha * by
        self._seen += by
        self._num += num

    def before_step(self, flat: Tensor) -> None:
        """The gradient event of the step before, then the flow for as long as so many exchanges are meant to take."""
        self.x_tilde += flat - self._seen
        constants, rate = self.pace
        state = flow(State(flat, self.x_tilde), self._num / rate if rate else 0.0, constants)
        flat.copy_(state.x)
        self.x_tilde, self._num = state.x_tilde, 0
        self._seen.copy_(flat)


@register("acid")
class Acid(Gossip):
    """Gossip with momentum, for sparse graphs (A2CiD2, arXiv:2306.08289)."""

    needs_graph = True

    momentum: bool = True
    """Off, it is plain gossip on the same graph."""

    def serve(self, node: "Node") -> Momentum | None:
        if not self.momentum:
            return None
        assert node.graph is not None
        everyone = range(node.graph.num_nodes)
        momentum = Momentum(node.trainer.replica.flat, pace(node.graph, self._swaps, node.slot, everyone))
        node.trainer.replica.companion = momentum
        return momentum

    async def run(self, node: "Node") -> None:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow(node))
            await super().run(node)
            following.cancel()

    async def _follow(self, node: "Node") -> None:
        """Constants of the graph of now, among those that are here. For about a heartbeat, until all know of a change,
        alpha~ may differ at the two ends of an exchange, and the mean of the replicas move a little."""
        momentum: Momentum | None = node.service
        known: tuple[Graph | None, frozenset[int]] = None, frozenset()
        while momentum is not None:
            graph, here = node.graph, frozenset([node.slot, *(member.slot for member in node.membership.view())])
            if (graph, here) != known and graph is not None:
                known = graph, here
                found = await node.compute.aside(
                    lambda graph=graph, here=here: pace(graph, self._swaps, node.slot, here)
                )
                momentum.pace = found
            await within(1.0, node.membership.changed())

    @property
    def _swaps(self) -> float:
        """That a node starts per step, at first."""
        return self._rate(0.0) * self.gossip_steps


def pace(graph: Graph, rate: float, slot: int, here: Collection[int]) -> Pace:
    """Of the part of the graph in which `slot` is when only `here`, slots, are there; every node starts `rate` swaps
    per step."""
    from p2ptrain.graphs.measures import components  # with networkx, which other methods do without

    away = set(range(graph.num_nodes)).difference(here)
    part = next((part for part in components(graph, without=away) if slot in part), [])
    edges = [(part.index(i), part.index(j)) for i, j in graph.edges if i in part and j in part]
    if not edges:
        return Pace(PLAIN, 0.0)
    there = graphs.make("edges", edges=edges)
    rates = swap_rates(there, rate)
    own = there.laplacian(rates)[part.index(slot), part.index(slot)]
    return Pace(constants(there.chi1(rates), there.chi2(rates)), float(own))


def swap_rates(graph: Graph, rate: float) -> np.ndarray:
    """(m,): swaps of each edge per step when every node starts `rate` of them, with any of its neighbours alike."""
    degrees = np.bincount(np.array(graph.edges).reshape(-1), minlength=graph.num_nodes)
    return np.array([rate * (1 / degrees[i] + 1 / degrees[j]) for i, j in graph.edges])
