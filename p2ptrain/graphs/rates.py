"""How often each edge should exchange: the cheapest rates at which accelerated gossip is stable.

What is asked for (Nabli and Oyallon 2022, arXiv:2208.00779) is chi1 * chi2 <= 1/2: the second eigenvalue of the
Laplacian is at least the largest effective resistance r_e = b_e^T L^+ b_e of an edge. The eigenvalue is concave in the
rates and each resistance convex, so the cheapest rates solve

    minimise c^T rates   over rates > 0 and a   such that   L(rates) >= a (I - 11^T / n)   and   r_e(rates) <= a,

which Newton's method on a logarithmic barrier does in some sixty steps, with a bound on what is left to gain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from p2ptrain.errors import ConfigError
from p2ptrain.graphs import Graph

MAX_EDGES = 3000
"""A step takes this number cubed: some seconds."""
MAX_STEPS = 300
GROWTH = 8.0
"""How much nearer to the boundary each round of Newton steps goes."""
TOLERANCE = 1e-6
"""Of the total cost."""
NEGLIGIBLE = 1e-5
"""Edges with this share of the mean rate are left out: their exchanges would come once in a run."""

Progress = Callable[[int, float, float], None]
"""Told after each Newton step: its number, the cost now, and by how much of it the optimum may be lower."""


def optimal(
    graph: Graph, cost: Sequence[float] | np.ndarray | None = None, progress: Progress | None = None
) -> np.ndarray:
    """(m,): rates with chi1 * chi2 = 1/2 whose cost, rates times `cost` per exchange on each edge (default 1 each), is
    least, to one part in a million. They leave no margin: a run needs half as much again.

    Raises `ConfigError` for costs that cannot be, for too many edges, and if the steps do not suffice."""
    prices = _prices(graph, cost)
    if len(graph.edges) > MAX_EDGES:
        raise ConfigError(
            f"optimal rates of {len(graph.edges)} edges take too long; at most {MAX_EDGES}, or use uniform"
        )
    program = _Program.of(graph, prices / prices.mean())
    start = 2**0.5 * graph.uniform_rates()
    point = np.append(start, graph.chi1(start) ** -0.5 * (2 * graph.chi2(start)) ** 0.5)
    rates = _follow_path(program, point, progress)[:-1]
    rates[rates < NEGLIGIBLE * rates.mean()] = 0
    return rates * (2 * graph.chi1(rates) * graph.chi2(rates)) ** 0.5


def _prices(graph: Graph, cost: Sequence[float] | np.ndarray | None) -> np.ndarray:
    prices = np.ones(len(graph.edges)) if cost is None else np.asarray(cost, float)
    if prices.shape != (len(graph.edges),):
        raise ConfigError(f"cost: give one number for each of the {len(graph.edges)} edges, not {prices.size}")
    if not (np.isfinite(prices).all() and (prices > 0).all()):
        raise ConfigError("cost: every edge's must be a finite number above zero")
    return prices


def _follow_path(program: "_Program", point: np.ndarray, progress: Progress | None) -> np.ndarray:
    """From a point inside to within `TOLERANCE` of the optimum."""
    weight = program.num_constraints / program.cost(point)
    for step in range(MAX_STEPS):
        gradient, hessian = program.derivatives(point, weight)
        direction = -np.linalg.solve(hessian, gradient)
        decrement = float(-gradient @ direction)
        point = _search(program, point, direction, weight, decrement)
        cost = program.cost(point)
        left = program.num_constraints / weight / cost
        if progress:
            progress(step + 1, cost, left)
        if decrement < 0.1:
            if left < TOLERANCE:
                return point
            weight *= GROWTH
    raise ConfigError(f"optimal rates: not there after {MAX_STEPS} steps; use uniform rates for this graph")


def _search(
    program: "_Program", point: np.ndarray, direction: np.ndarray, weight: float, decrement: float
) -> np.ndarray:
    """Halve the step until it stays inside and gains what the slope promises."""
    here, length = program.value(point, weight), 1.0
    while length > 1e-12:
        there = point + length * direction
        if program.value(there, weight) <= here - 0.1 * length * decrement:
            return there
        length /= 2
    return point


@dataclass(frozen=True)
class _Program:
    """The barrier. A point is (m + 1,): the rates, then a."""

    incidence: np.ndarray
    """(m, n): b_e in each row."""
    prices: np.ndarray
    """(m,)"""

    @staticmethod
    def of(graph: Graph, prices: np.ndarray) -> "_Program":
        incidence = np.zeros((len(graph.edges), graph.num_nodes))
        for row, (i, j) in zip(incidence, graph.edges, strict=True):
            row[i], row[j] = 1, -1
        return _Program(incidence, prices)

    @property
    def num_constraints(self) -> int:
        num_edges, num_nodes = self.incidence.shape
        return num_nodes - 1 + 2 * num_edges

    def cost(self, point: np.ndarray) -> float:
        return float(self.prices @ point[:-1])

    def value(self, point: np.ndarray, weight: float) -> float:
        """Infinite outside."""
        rates, a = point[:-1], point[-1]
        if rates.min() <= 0:
            return np.inf
        eigenvalues = np.linalg.eigvalsh(self._laplacian(rates))[1:]
        slack = a - np.diag(self._resistances(rates))
        if eigenvalues[0] <= a or slack.min() <= 0:
            return np.inf
        logarithms = np.log(eigenvalues - a).sum() + np.log(slack).sum() + np.log(rates).sum()
        return float(weight * self.cost(point) - logarithms)

    def derivatives(self, point: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (m + 1,) and Hessian (m + 1, m + 1) of `value`."""
        rates, a = point[:-1], point[-1]
        num_nodes = self.incidence.shape[1]
        # Of the constant vector, which no edge sees, 1/n makes eigenvalue 1.
        inverse = np.linalg.inv(self._laplacian(rates) - a * np.eye(num_nodes) + (1 + a) / num_nodes)
        seen = self.incidence @ inverse
        pairs = seen @ self.incidence.T
        resistances = self._resistances(rates)
        share = 1 / (a - np.diag(resistances))
        falls = resistances**2  # minus the derivative of r_e (row) by the rate of f (column)

        gradient = np.append(weight * self.prices - np.diag(pairs) - share @ falls - 1 / rates, np.trace(inverse) - 1)
        gradient[-1] -= share.sum()
        hessian = np.empty((len(point), len(point)))
        hessian[:-1, :-1] = pairs**2 + falls.T @ (share[:, None] ** 2 * falls)
        hessian[:-1, :-1] += 2 * resistances * (resistances @ (share[:, None] * resistances)) + np.diag(rates**-2)
        hessian[:-1, -1] = hessian[-1, :-1] = -(seen**2).sum(1) + share**2 @ falls
        hessian[-1, -1] = (inverse**2).sum() - 1 + (share**2).sum()
        return gradient, hessian

    def _laplacian(self, rates: np.ndarray) -> np.ndarray:
        return self.incidence.T @ (rates[:, None] * self.incidence)

    def _resistances(self, rates: np.ndarray) -> np.ndarray:
        """(m, m): b_e^T L^+ b_f."""
        num_nodes = self.incidence.shape[1]
        return self.incidence @ np.linalg.inv(self._laplacian(rates) + 1 / num_nodes) @ self.incidence.T
