"""DADAO from a list of events, in one process and without a network: what theory speaks of, and what real runs are
held against. Each state is brought up to time only when an event touches it."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from torch import Tensor

from p2ptrain.graphs import Edge, Graph, Rates
from p2ptrain.strategies.dadao.maths import Constants, State, exchange_event, flow, gradient_event


class Tick(NamedTuple):
    """A gradient at `node`, or an exchange on `edge`."""

    time: float
    node: int | None = None
    edge: Edge | None = None


def ticks(
    gradient_rates: Sequence[float], edges: Sequence[Edge], rates: Iterable[float], rng: random.Random
) -> Iterator[Tick]:
    """Those of Poisson clocks, one for each node and each edge, without end and in order of time."""
    marks = [Tick(0.0, node=node) for node in range(len(gradient_rates))] + [Tick(0.0, edge=edge) for edge in edges]
    sums = list(accumulate([*gradient_rates, *rates]))
    time = 0.0
    while True:
        # One clock of all their rates, whose ticks fall to each in proportion to its own, ticks as they all do.
        time += rng.expovariate(sums[-1])
        (mark,) = rng.choices(marks, cum_weights=sums)
        yield mark._replace(time=time)


class Swarm:
    """The nodes' states, each as of its own last event."""

    def __init__(
        self,
        states: Sequence[State],
        constants: Constants,
        gradients: Sequence[Callable[[Tensor], Tensor]],
        gaps: Sequence[float] | None = None,
    ) -> None:
        """`gradients`: of each node's function, (d,) to (d,). `gaps`: how much time an exchange is worth to each node,
        see `exchange_gaps`; None: as much as passed."""
        self.states, self.constants, self.gradients, self.gaps = list(states), constants, gradients, gaps
        self.times = [0.0] * len(self.states)
        self.num_gradients = self.num_exchanges = 0

    def tick(self, tick: Tick) -> None:
        """Ticks must come in order of time."""
        if tick.node is not None:
            state = self.at(tick.node, tick.time)
            self.states[tick.node] = gradient_event(state, self.gradients[tick.node](state.x), self.constants)
            self.num_gradients += 1
        if tick.edge is not None:
            i, j = tick.edge
            ends = self._before_exchange(i, tick.time), self._before_exchange(j, tick.time)
            self.states[i], self.states[j] = exchange_event(*ends, self.constants)
            self.num_exchanges += 1

    def at(self, node: int, time: float) -> State:
        """A node's state, brought up to `time`, no earlier than its last event."""
        if self.gaps is None:
            self._flow(node, time - self.times[node])
        self.times[node] = time
        return self.states[node]

    def all_at(self, time: float) -> list[State]:
        return [self.at(node, time) for node in range(len(self.states))]

    def _before_exchange(self, node: int, time: float) -> State:
        if self.gaps is not None:
            self._flow(node, self.gaps[node])
        return self.at(node, time)

    def _flow(self, node: int, dt: float) -> None:
        self.states[node] = flow(self.states[node], dt, self.constants)


def exchange_gaps(graph: Graph, rates: Rates | None = None) -> list[float]:
    """How much time an exchange is worth to each node if time is what exchanges make it: the mean gap between its
    exchanges at these rates. A swarm whose links cannot keep up is then slower, where by the clock on the wall it
    would diverge."""
    return list(1 / graph.laplacian(rates).diagonal())
