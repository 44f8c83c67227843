"""Who talks to whom: `graphs.make("ring", n=8)` has `.edges`, `.laplacian(rates)`, `.chi1(rates)`, `.chi2(rates)`.

Vertices are the nodes' slots. Each family is one class in this folder. What else can be said of a graph, and how to
show it, is in `measures`, `rates` and `drawing`.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from p2ptrain.errors import Misplaced
from p2ptrain.registry import Component, Registry

if TYPE_CHECKING:
    import networkx

Edge = tuple[int, int]
Point = tuple[float, float]
Rates = Sequence[float] | np.ndarray

MAX_VERTICES = 2048
"""Families come by the network too, as a line of text; a complete graph of this size takes 0.4 GB."""


class Change(BaseModel):
    """Another graph from some moment of the run on: `{at: 0.5, kind: exponential}`, with that graph's options. Without
    `n` it has as many vertices as the first."""

    model_config = ConfigDict(frozen=True, extra="allow")
    at: float = Field(gt=0, lt=1)
    """Share of the run."""


class Graph(Component):
    """An undirected, connected graph. `rates` are exchanges per unit time, one per edge in the order of `edges`;
    default 1 each."""

    selectors = ("kind", "name")

    schedule: tuple[Change, ...] = ()
    """Graphs that take the place of this one, one after the other. All else that is said of a graph is of its first
    epoch."""

    @property
    def epochs(self) -> "list[Graph]":
        """This graph, then those of its schedule; all connected, on the same vertices."""
        return [self, *self._scheduled]

    @cached_property
    def _scheduled(self) -> "list[Graph]":  # without this graph itself: what is kept counts when two are compared
        return [self._later(change) for change in self.schedule]

    def epoch_at(self, progress: float) -> int:
        """Which of `epochs` it is when so much of the run, a share, is over."""
        return sum(change.at <= progress for change in self.schedule)

    @model_validator(mode="after")
    def _schedule_can_be(self) -> "Graph":
        before = 0.0
        for index, change in enumerate(self.schedule):
            place = ("schedule", index)
            if change.at <= before:
                raise Misplaced((*place, "at"), f"{change.at:g} is no later than {before:g}, the one before")
            try:
                later = self._later(change)
            except ValueError as error:
                raise Misplaced(place, str(error)) from None
            if later.num_nodes != self.num_nodes:
                raise Misplaced(place, f"{later.num_nodes} vertices, and the first graph has {self.num_nodes}")
            before = change.at
        return self

    def _later(self, change: Change) -> "Graph":
        options = change.model_extra or {}
        if not options.keys() & set(self.selectors):
            raise ValueError("says not which graph; write its kind, as in {at: 0.5, kind: exponential}")
        if "schedule" in options:
            raise ValueError("a graph of a schedule has none of its own")
        found = parse(options if "edges" in options else {"n": self.num_nodes, **options})
        if not isinstance(found, Graph):
            raise ValueError(f"{found!r} is no graph")
        return found

    def build(self) -> "networkx.Graph":
        """The graph on vertices 0..n-1."""
        raise NotImplementedError

    @cached_property
    def edges(self) -> list[Edge]:
        return sorted((min(i, j), max(i, j)) for i, j in self.build().edges)

    @cached_property
    def num_nodes(self) -> int:
        return 1 + max(map(max, self.edges))

    def neighbours(self, slot: int) -> list[int]:
        """Empty for a slot that the graph does not have."""
        return sorted(j if i == slot else i for i, j in self.edges if slot in (i, j))

    def laplacian(self, rates: Rates | None = None) -> np.ndarray:
        """(n, n): sum over edges of rate * (e_i - e_j)(e_i - e_j)^T."""
        i, j = np.transpose(self.edges)
        weights = np.zeros((self.num_nodes, self.num_nodes))
        weights[i, j] = weights[j, i] = self._checked(rates)
        return np.diag(weights.sum(1)) - weights

    def chi1(self, rates: Rates | None = None) -> float:
        """1 / the Laplacian's second smallest eigenvalue: the time that averaging takes along the worst direction.
        Infinite if the edges with a rate above zero leave the graph in parts."""
        eigenvalues = np.linalg.eigvalsh(self.laplacian(rates))
        return math.inf if eigenvalues[1] <= 1e-13 * eigenvalues[-1] else float(1 / eigenvalues[1])

    def chi2(self, rates: Rates | None = None) -> float:
        """Half of the largest effective resistance of an edge with a rate above zero. Infinite as `chi1`."""
        if math.isinf(self.chi1(rates)):
            return math.inf
        # Resistances do not see the constant vector, which 1/n makes regular; a pseudo-inverse has to guess its zero.
        inverse = np.linalg.inv(self.laplacian(rates) + 1 / self.num_nodes)
        i, j = np.transpose(self.edges)[:, self._checked(rates) > 0]
        return float((inverse[i, i] + inverse[j, j] - 2 * inverse[i, j]).max() / 2)

    def uniform_rates(self) -> np.ndarray:
        """(m,): the same for every edge, just often enough that chi1 * chi2 = 1/2."""
        return np.full(len(self.edges), (2 * self.chi1() * self.chi2()) ** 0.5)

    def optimal_rates(
        self, cost: Rates | None = None, progress: Callable[[int, float, float], None] | None = None
    ) -> np.ndarray:
        """(m,): of all rates with chi1 * chi2 <= 1/2, those whose exchanges cost least; `cost` of one exchange on each
        edge, default 1 each. `progress` and errors: see `rates.optimal`."""
        from p2ptrain.graphs import rates

        return rates.optimal(self, cost, progress)

    def _checked(self, rates: Rates | None) -> np.ndarray:
        """(m,)"""
        if rates is None:
            return np.ones(len(self.edges))
        found = np.reshape(np.asarray(rates, float), len(self.edges))
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise ValueError("rates must be finite numbers, none below zero")
        return found

    def positions(self) -> list[Point]:
        """Where to draw each vertex, in the unit square, y upwards; the same each time."""
        from p2ptrain.graphs import layouts  # with networkx: 12 MB that a node without a graph does not need

        return layouts.spring(self.edges)


class Sized(Graph):
    """A family with one graph per number of vertices and, where it has some, options."""

    n: int = Field(gt=1, le=MAX_VERTICES)


registry: Registry[Graph] = Registry("graph", __name__)
register, make, names, get = registry.register, registry.make, registry.names, registry.get


def parse(value: Any) -> Any:
    """As `Registry.parse`; a graph's name is written `kind`, as in `{kind: ring, n: 8}`."""
    if isinstance(value, dict) and "kind" in value:
        value = {"name": value["kind"], **{key: option for key, option in value.items() if key != "kind"}}
    return registry.parse(value)
